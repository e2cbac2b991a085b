"""HDF5 keeps the contract, in every compression."""

from __future__ import annotations

from tests.contract.on_disk import OnDiskContract


class TestHdf5(OnDiskContract):
    suffix = ".h5"


class TestHdf5Gzip(OnDiskContract):
    suffix = ".hdf5"
    compression = "gzip"


class TestHdf5Zstd(OnDiskContract):
    suffix = ".h5"
    compression = "zstd"


class TestHdf5Power(OnDiskContract):
    suffix = ".h5"
    durability = "power"
