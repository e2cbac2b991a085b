"""HDF5 keeps the contract, in every compression."""

from __future__ import annotations

import pytest

from tests.contract.on_disk import OnDiskContract
from trajfile.containers import ahead, checksum, hdf5_direct, hdf5_lanes


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


class TestHdf5Direct(OnDiskContract):
    """Chunks read where they lie, with compiled checksums, as large ones are."""

    suffix = ".h5"

    @pytest.fixture(autouse=True)
    def _small_counts_as_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("numba")
        assert checksum.prepare()
        monkeypatch.setattr(hdf5_lanes, "_DIRECT_BYTES", 0)
        monkeypatch.setattr(hdf5_lanes, "_PARALLEL_BYTES", 0)


class TestHdf5WrittenDirectly(OnDiskContract):
    """Chunks written as they are to lie in the file, as large ones are."""

    suffix = ".h5"

    @pytest.fixture(autouse=True)
    def _small_counts_as_large(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("numba")
        assert checksum.prepare()
        monkeypatch.setattr(hdf5_direct, "DIRECT_BYTES", 0)
        monkeypatch.setattr(ahead, "_PARALLEL_BYTES", 0)
