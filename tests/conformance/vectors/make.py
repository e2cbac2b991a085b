"""Making the conformance vectors: ``python -m tests.conformance.vectors.make [FOLDER]``.

A vector that is there already is left as it is, because what a released version wrote stays
readable for ever; remove its files first to have it made anew.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

from tests.conformance.vectors import by_trajfile, in_hdf5, in_zarr
from tests.conformance.vectors.broken import BROKEN, Broken
from tests.conformance.vectors.runs import content
from tests.conformance.vectors.valid import VALID, Valid
from trajfile.rules import RULES

FOLDER = Path(__file__).parents[3] / "spec" / "vectors"
SUFFIX = {"hdf5": ".h5", "zarr": ".zarr.tar.gz"}


def make(folder: Path, only: str = "") -> list[str]:
    """Make those vectors that are missing.

    Args:
        folder: Where they go.
        only: Text that a vector's name must hold.

    Returns:
        The files that were made, relative to the folder.
    """
    made = []
    for vector in (*VALID, *BROKEN):
        if only not in vector.name:
            continue
        kind, answer = _answer(vector)
        for container in vector.containers:
            target = folder / kind / (vector.name + SUFFIX[container])
            if not target.exists():
                with tempfile.TemporaryDirectory() as scratch:
                    path = Path(scratch) / (vector.name + SUFFIX[container].removesuffix(".tar.gz"))
                    _write(vector, path)
                    _keep(path, target)
                made.append(f"{kind}/{target.name}")
        made += _keep_json(answer, folder, kind, vector.name)
    sums = [
        f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.relative_to(folder).as_posix()}\n"
        for file in files_of(folder)
    ]
    (folder / "SHA256SUMS").write_text("".join(sums))
    return made


def files_of(folder: Path) -> list[Path]:
    """Vectors and answers, in order, but not what Python keeps of the runner."""
    return sorted(file for file in folder.glob("*/*.*") if file.parent.name != "__pycache__")


def _answer(vector: Valid | Broken) -> tuple[str, dict[str, Any]]:
    """The folder of a vector, and its JSON."""
    about = vector.says[0].upper() + vector.says[1:].rstrip(".") + "."
    if isinstance(vector, Valid):
        needs = {"requires": list(vector.requires)} if vector.requires else {}
        return "valid", {"about": about, **needs, "content": content(vector.run)}
    reader = "every reader" if RULES[vector.rule].every_reader else "validator"
    return "broken", {"about": about, "rule": vector.rule, "detected_by": reader}


def _write(vector: Valid | Broken, path: Path) -> None:
    if isinstance(vector, Valid) and vector.style is None:
        by_trajfile.write(vector.run, path, vector.compression, killed=vector.killed)
    elif path.suffix == ".h5":
        in_hdf5.write(vector.image(), path)
    else:
        in_zarr.write(vector.image(), path)
    if isinstance(vector, Broken):
        spoil = vector.hdf5 if path.suffix == ".h5" else vector.zarr
        assert spoil is not None
        spoil(path)


def _keep_json(answer: dict[str, Any], folder: Path, kind: str, name: str) -> list[str]:
    target = folder / kind / f"{name}.json"
    if target.exists():
        return []
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(answer, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return [str(target.relative_to(folder))]


def _keep(path: Path, target: Path) -> None:
    """Move a file, or pack a folder so that equal content makes equal bytes."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if path.is_file():
        target.write_bytes(path.read_bytes())
        return
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for file in [path, *sorted(path.rglob("*"))]:
            entry = archive.gettarinfo(file, str(file.relative_to(path.parent)))
            entry.uid = entry.gid = entry.mtime = 0
            entry.uname = entry.gname = ""
            entry.mode = 0o755 if entry.isdir() else 0o644
            if entry.isreg():
                with file.open("rb") as data:
                    archive.addfile(entry, data)
            else:
                archive.addfile(entry)
    target.write_bytes(gzip.compress(packed.getvalue(), 9, mtime=0))


if __name__ == "__main__":
    for name in make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        print(name)
