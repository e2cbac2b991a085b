"""Zarr keeps the contract, in every compression."""

from __future__ import annotations

import pytest

from tests.contract.on_disk import OnDiskContract
from trajfile.containers import zarr_metadata


class TestZarr(OnDiskContract):
    suffix = ".zarr"


class TestZarrGzip(OnDiskContract):
    suffix = ".zarr"
    compression = "gzip"


class TestZarrZstd(OnDiskContract):
    suffix = ".zarr"
    compression = "zstd"


class TestZarrPower(OnDiskContract):
    suffix = ".zarr"
    durability = "power"


class TestZarrSeveralShardsARow(OnDiskContract):
    suffix = ".zarr"

    @pytest.fixture(autouse=True)
    def _small_shards(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(zarr_metadata, "SHARD_BYTES", 2**19)
