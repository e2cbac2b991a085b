"""Made-up trajectories as plain data, and what a reader must answer about each.

Nothing here comes from trajfile: the bits are worked out from names alone, and the expected answers
from the same description that the files are written from.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import shake_128
from typing import Any

import numpy as np

ABSENT = 0x7FF8000074726A66
NOT_YET = 2**48
FIRST_WALL_NS = 1_700_000_000_000_000_000

SIZES = {
    **{f"float{8 * n}": n for n in (2, 4, 8)},
    **{f"{sign}int{8 * n}": n for sign in ("", "u") for n in (1, 2, 4, 8)},
    "bfloat16": 2,
    **dict.fromkeys(
        (
            *("float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz", "float8_e4m3fn"),
            *("float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
            *("float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "int2", "int4", "uint2", "uint4"),
        ),
        1,
    ),
}
_LOW_BITS = {"float6": 0x3F, "float4": 0x0F, "int4": 0x0F, "uint4": 0x0F, "int2": 3, "uint2": 3}

Bits = np.ndarray
Values = Callable[[str, str, str, int, int], Bits]


def some_bits(stream: str, tensor: str, dtype: str, row: int, size: int) -> Bits:
    """Bits that look random and are the same on every machine, shape (size,)."""
    item = SIZES[dtype]
    data = shake_128(f"{stream} {tensor} {row}".encode()).digest(size * item)
    mask = _LOW_BITS.get(dtype.split("_")[0], 2 ** (8 * item) - 1)
    return np.frombuffer(data, f"<u{item}") & np.array(mask, f"<u{item}")


@dataclass(frozen=True)
class Commit:
    """One append.

    Attributes:
        step: Its step.
        rows: Rows it adds to each stream; other than 1 only for ``gradient_samples``.
        scalars: Bits by name.
        revision: Whether the next revision of the manifest comes with it.
    """

    step: int
    rows: Mapping[str, int] = field(default_factory=dict)
    scalars: Mapping[str, int] = field(default_factory=dict)
    revision: bool = False


@dataclass(frozen=True)
class Run:
    """A trajectory: the revisions of its manifest, its commits, and where its bits come from.

    Where rewinds took commits back, these are the commits in force, and ``places`` their rows in
    /commits.
    """

    revisions: Sequence[Mapping[str, Any]]
    commits: Sequence[Commit]
    uuid: str = "8d9f3c52-6f1e-4a43-9a44-1c6f0a5e7b10"
    version: tuple[int, int] = (1, 0)
    values: Values = some_bits
    places: Sequence[int] = ()

    def in_force(self, commits: int) -> Mapping[str, Any]:
        """The revision in force after so many commits."""
        return self.revisions[sum(commit.revision for commit in self.commits[:commits])]

    def lane_row(self, revision: Mapping[str, Any], stream: str, dtype: str, row: int) -> Bits:
        """The columns of a lane that exist in a row."""
        table = next(s["tensors"] for s in revision["streams"] if s["name"] == stream)
        parts = [
            self.values(stream, t["name"], dtype, row, math.prod(t["shape"]))
            for t in table
            if t["dtype"] == dtype and t.get("first_row", 0) <= row
        ]
        return np.concatenate([np.empty(0, f"<u{SIZES[dtype]}"), *parts])


def tensor(
    name: str, shape: tuple[int, ...] = (3,), dtype: str = "float32", first_row: int = 0
) -> dict[str, Any]:
    """A tensor of a manifest, its offset still to be found."""
    return {"name": name, "shape": list(shape), "dtype": dtype, "first_row": first_row}


def manifest(
    streams: Mapping[str, Sequence[Mapping[str, Any]]],
    scalars: Sequence[str] = (),
    **stated: Any,
) -> dict[str, Any]:
    """A revision; tensors get the offsets that follow from their order."""
    listed = []
    for name, tensors in streams.items():
        ends: dict[str, int] = {}
        placed = []
        for given in tensors:
            at = ends.get(given["dtype"], 0)
            placed.append({**copy.deepcopy(dict(given)), "offset": at})
            ends[given["dtype"]] = at + math.prod(given["shape"])
        listed.append({"name": name, "tensors": placed})
    return {
        **{"streams": listed, "scalars": list(scalars), "optimizer": {}, "groups": {}},
        **{"gradient": {}, "metadata": {}, "software": "vectors 1"},
        **stated,
    }


def float_bits(*values: float) -> list[int]:
    """Bits of float64 numbers."""
    return [int(bits) for bits in np.array(values, "<f8").view("<u8")]


def hexadecimal(bits: Bits) -> str:
    """Elements as numbers of two digits a byte, separated by spaces."""
    digits = 2 * bits.dtype.itemsize
    return " ".join(f"{int(value):0{digits}x}" for value in bits.ravel())


def content(run: Run) -> dict[str, Any]:
    """What a reader must say of a run."""
    revision = run.in_force(len(run.commits))
    steps: dict[str, list[int]] = {stream["name"]: [] for stream in revision["streams"]}
    samples: list[int] = []
    for commit in run.commits:
        for stream, count in commit.rows.items():
            steps[stream] += [commit.step] * count
            samples += range(count) if stream == "gradient_samples" else ()
    with_scalars = [commit for commit in run.commits if commit.scalars]
    return {
        "format_version": list(run.version),
        "uuid": run.uuid,
        "commits": [
            {"step": commit.step, "wall_ns": str(FIRST_WALL_NS + number)}
            for number, commit in zip(
                run.places or range(len(run.commits)), run.commits, strict=True
            )
        ],
        "scalars": {
            "steps": [commit.step for commit in with_scalars],
            "columns": [
                {
                    "name": name,
                    "bits": [
                        f"{commit.scalars[name]:016x}" if name in commit.scalars else None
                        for commit in with_scalars
                    ],
                }
                for name in revision["scalars"]
            ],
        },
        "streams": [
            {
                "name": stream["name"],
                "steps": steps[stream["name"]],
                **({"samples": samples} if stream["name"] == "gradient_samples" else {}),
                "tensors": [
                    _tensor(run, stream["name"], given, len(steps[stream["name"]]))
                    for given in stream["tensors"]
                ],
            }
            for stream in revision["streams"]
        ],
        **{
            name: revision[name]
            for name in ("optimizer", "groups", "gradient", "metadata", "software", "lineage")
            if name in revision
        },
    }


def _tensor(run: Run, stream: str, given: Mapping[str, Any], rows: int) -> dict[str, Any]:
    name, dtype, first = given["name"], given["dtype"], given.get("first_row", 0)
    size = math.prod(given["shape"])
    return {
        **{"name": name, "dtype": dtype, "shape": given["shape"], "first_row": first},
        "rows": [
            hexadecimal(run.values(stream, name, dtype, row, size)) for row in range(first, rows)
        ],
    }
