"""A small run in every form, and flipping its bytes.

A flip is harmless if everything a reader can learn of the run is as it was, and detected if it is
refused with an error of ours. Anything else is what these tests are about: other numbers, another
exception, a crash of a library, a hang.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import ml_dtypes
import msgspec
import numpy as np

import trajfile
from trajfile.containers import open_container
from trajfile.containers.digest import digest
from trajfile.containers.store import MANIFEST, ArraySpec, layout
from trajfile.errors import FormatError
from trajfile.schema import Manifest

#: What a byte is XORed with: its lowest bit, one in the middle, its highest, and all of them.
PATTERNS = (0x01, 0x10, 0x80, 0xFF)

#: Seconds after which a reader counts as hanging.
PATIENCE = 10

HARMLESS, DETECTED, SILENT, FAILED, HUNG, CRASHED = range(2, 8)
NAMES = {
    HARMLESS: "harmless",
    DETECTED: "detected",
    SILENT: "silently different",
    FAILED: "failed otherwise",
    HUNG: "hung",
    CRASHED: "crashed",
}


#: Neighbours that are flipped together in the search for bytes that nobody reads.
GROUP = 64
#: What they are flipped by. Not all bits: fletcher32 works in ones' complement, so that a chunk all
#: of whose bits are flipped, along with those of its checksum, passes.
GROUP_PATTERN = 0x5A
#: Rows of a chunk of a table here: with the usual 128 or 512, most bytes would be spare rows.
_TABLE_ROWS = 8


class Flip(NamedTuple):
    """Bytes of one file, and what each is XORed with."""

    file: str
    offset: int
    length: int
    pattern: int


def record(
    path: Path, compression: str | None = None, *, close: bool = True, spare: bool = True
) -> Path:
    """A small run with everything in it: two dtypes, samples, what joins later.

    Without ``spare`` its tables have few spare rows.
    """
    writer = _record(path, compression) if spare else _with_small_tables(path, compression)
    if close:
        writer.close()
    return path


def _with_small_tables(path: Path, compression: str | None) -> trajfile.Writer:
    with (
        patch("trajfile.containers.hdf5.layout", _in_small_tables),
        patch("trajfile.containers.zarr.layout", _in_small_tables),
    ):
        return _record(path, compression)


def _in_small_tables(manifest: Manifest, *, archive: bool = False) -> list[ArraySpec]:
    """The arrays, with few spare rows."""
    return [
        spec
        if spec.lane or spec.key == MANIFEST
        else replace(spec, chunk=(_TABLE_ROWS, *spec.chunk[1:]))
        for spec in layout(manifest, archive=archive)
    ]


def _record(path: Path, compression: str | None) -> trajfile.Writer:
    rng = np.random.default_rng(29)
    writer = trajfile.Writer(
        path,
        compression=compression,  # type: ignore[arg-type] # one of the three
        optimizer={"name": "SGD", "weight_decay": 5e-4},
        groups={"layers": ["w"]},
        metadata={"model": "small"},
    )
    for step in range(0, 8, 2):
        params = {"w": rng.standard_normal((3, 4)).astype(np.float32)}
        params["h"] = rng.standard_normal(5).astype(ml_dtypes.bfloat16)
        scalars = {"loss": 1 / (step + 1)}
        if step > 2:
            params["b"] = rng.standard_normal(3).astype(np.float32)
            scalars["accuracy"] = 0.5
        writer.append(
            step,
            params=params,
            gradient_samples={"w": rng.standard_normal((2, 3, 4)).astype(np.float32)},
            scalars=scalars,
        )
    return writer


def record_killed(path: Path, compression: str | None = None, *, spare: bool = True) -> Path:
    """The same run, left by a process that ended without closing it."""
    call = f"record(Path({str(path)!r}), {compression!r}, close=False, spare={spare}); os._exit(0)"
    line = f"import os; from pathlib import Path; from {__name__} import record; {call}"
    root = str(Path(__file__).parents[2])
    subprocess.run([sys.executable, "-c", line], check=True, cwd=root, timeout=60)
    return path


def content(path: Path) -> str:
    """A digest of everything that a reader learns of a run."""
    container = open_container(path)
    try:
        told = sha256(msgspec.json.encode(container.manifest()))
        told.update(repr((container.uuid, container.format_version, container.kind)).encode())
        told.update(container.commits().tobytes())
        for part in container.scalars():
            told.update(part.tobytes())
        for stream in container.manifest().by_name:
            for key in container.keys(stream):
                told.update(b"" if key is None else key.tobytes())
        told.update(digest(container).encode())  # reads every row of every lane
        return told.hexdigest()
    finally:
        container.close()


def parts_of(path: Path) -> list[Path]:
    """The file, or all files of the folder."""
    return [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())


def sampled(path: Path, count: int, seed: int) -> list[Flip]:
    """Some flips, the same ones each time: most of bytes that are not zero, for those are used."""
    rng = np.random.default_rng(seed)
    places = [
        (str(file), offset, byte)
        for file in parts_of(path)
        for offset, byte in enumerate(file.read_bytes())
    ]
    used = [place for place in places if place[2]]
    return sorted(
        Flip(file, offset, 1, int(rng.choice(PATTERNS)))
        for among, share in ((used, count - count // 5), (places, count // 5))
        for file, offset, _ in (among[i] for i in rng.choice(len(among), share, replace=False))
    )


def in_groups(path: Path) -> list[Flip]:
    """Every byte, `GROUP` neighbours at a time."""
    return [
        Flip(str(file), offset, min(GROUP, file.stat().st_size - offset), GROUP_PATTERN)
        for file in parts_of(path)
        for offset in range(0, file.stat().st_size, GROUP)
    ]


def one_by_one(groups: list[Flip], *, bits: bool = False) -> list[Flip]:
    """Every byte of the groups by itself: all of its bits, or in turn one of them."""
    return [
        Flip(group.file, offset, 1, PATTERNS[offset % 3] if bits else PATTERNS[-1])
        for group in groups
        for offset in range(group.offset, group.offset + group.length)
    ]


def _try(path: Path, flip: Flip, whole: str) -> tuple[int, str]:
    descriptor = os.open(flip.file, os.O_RDWR)
    before = os.pread(descriptor, flip.length, flip.offset)
    os.pwrite(descriptor, bytes(byte ^ flip.pattern for byte in before), flip.offset)
    try:
        found = content(path)
    except FormatError as error:
        return DETECTED, error.rule
    except Exception as error:  # this is what is looked for
        return FAILED, repr(error)
    finally:
        os.pwrite(descriptor, before, flip.offset)
        os.close(descriptor)
    return (HARMLESS, "") if found == whole else (SILENT, "")


def _work(path: Path, flips: list[Flip], first: int, whole: str, outcomes: object) -> None:
    for index in range(first, len(flips)):
        outcomes[index] = 1  # type: ignore[index] # shared memory
        outcomes[index], words = _try(path, flips[index], whole)  # type: ignore[index]
        if outcomes[index] in {SILENT, FAILED}:  # type: ignore[index]
            print(NAMES[outcomes[index]], flips[index], words, flush=True)  # type: ignore[index]


def rot(path: Path, flips: list[Flip]) -> list[int]:
    """Try each flip in a process apart, which a crash or a hang ends without ending the rest.

    Args:
        path: The run; whole again afterwards.
        flips: What to try.

    Returns:
        The outcome of each.
    """
    whole = content(path)
    originals = {flip.file: Path(flip.file).read_bytes() for flip in flips}
    context = multiprocessing.get_context("fork")
    outcomes = context.RawArray("b", len(flips))
    first = 0
    while first < len(flips):
        process = context.Process(target=_work, args=(path, flips, first, whole, outcomes))
        process.start()
        at, since = first, time.monotonic()
        while process.is_alive() and time.monotonic() - since < PATIENCE:
            process.join(0.05)
            while at < len(flips) and outcomes[at] > 1:
                at, since = at + 1, time.monotonic()
        hangs = process.is_alive()
        if hangs:
            process.kill()
        process.join()
        first = next((i for i in range(at, len(flips)) if outcomes[i] <= 1), len(flips))
        if first < len(flips):
            outcomes[first] = HUNG if hangs else CRASHED
            Path(flips[first].file).write_bytes(originals[flips[first].file])
            print(NAMES[outcomes[first]], flips[first], flush=True)
            first += 1
    return list(outcomes)


def told(outcomes: list[int]) -> str:
    """How many had which outcome, in words."""
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {name}" for outcome, name in NAMES.items())
