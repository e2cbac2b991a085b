"""Zarr in a store keeps the contract, against a real server; each step takes several requests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.contract.on_disk import OnDiskContract
from tests.remote.servers import environment, make_bucket, store_server

pytest.importorskip("obstore")


@pytest.fixture(scope="module")
def port():
    with store_server() as port:
        make_bucket(port, "contract")
        yield port


class InStore(OnDiskContract):
    @pytest.fixture(autouse=True)
    def _reach_it(self, port, monkeypatch: pytest.MonkeyPatch) -> None:
        for name, value in environment(f"http://127.0.0.1:{port}").items():
            monkeypatch.setenv(name, value)

    def place(self, folder: Path, name: str) -> str:
        return f"s3://contract/{folder.name}/{name}.zarr"


@pytest.mark.slow
class TestS3(InStore):
    pass


@pytest.mark.slow
class TestS3Zstd(InStore):
    compression = "zstd"
