"""The in-memory container keeps the contract, and counts what is read."""

from __future__ import annotations

from pathlib import Path

from tests.contract.contract import ContainerContract
from tests.contract.runs import EVERY_DTYPE, every_dtype_run, read
from trajfile.containers.memory import MemoryContainer, Read
from trajfile.schema import Manifest


class TestMemory(ContainerContract):
    def make(self, folder: Path, manifest: Manifest, name: str = "run") -> MemoryContainer:
        return MemoryContainer(manifest, path=str(folder / name))

    def again(self, container: MemoryContainer, *, writable: bool = False) -> MemoryContainer:
        return container


def test_counts_what_is_read() -> None:
    container = MemoryContainer(EVERY_DTYPE)
    for commit in every_dtype_run():
        container.append(commit)
    read(container, "gradients", "float32", slice(1, 4), slice(2, 5))
    read(container, "params", "bfloat16", slice(0, 2), slice(0, 15))
    assert container.reads == [
        Read("gradients", "float32", (1, 4), (2, 5)),
        Read("params", "bfloat16", (0, 2), (0, 15)),
    ]
    assert container.bytes_read == 3 * 3 * 4 + 2 * 15 * 2
