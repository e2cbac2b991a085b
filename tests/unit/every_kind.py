"""A small run with everything in it: every dtype, samples, late tensors, absent scalars."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

from tests.contract.runs import EVERY_DTYPE, Expected, every_dtype_run
from trajfile.containers import create


def record(path: Path, compression: str | None = None) -> Expected:
    """Put it at a path, recorded once by this process; what a reader must find is returned."""
    for name, content in _recorded(path.suffix, compression).items():
        file = path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    return Expected.of(EVERY_DTYPE, every_dtype_run())


@cache
def _recorded(suffix: str, compression: str | None) -> dict[str, bytes]:
    """The content of its files, by their names within it; of a single file by "."."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        container = create(path, EVERY_DTYPE, compression=compression)
        for commit in every_dtype_run():
            container.append(commit)
        container.close()
        files = [file for file in (path, *path.rglob("*")) if file.is_file()]
        return {str(file.relative_to(path)): file.read_bytes() for file in files}
