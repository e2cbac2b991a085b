"""trajfile as an adapter of spec/vectors/run.py: paths in, one line of JSON out for each."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import msgspec
import numpy as np

import trajfile
from trajfile.containers import open_container
from trajfile.containers.base import Container
from trajfile.dtypes import ITEM_SIZES, bits_dtype, numpy_dtype
from trajfile.schema import ABSENT_BITS, StreamSpec


def answer(path: str) -> dict[str, Any]:
    """Which errors `trajfile.validate` finds, or else what the file holds."""
    try:
        errors = [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
    except trajfile.FormatError as error:
        return {"refused": [error.rule], "because": str(error)}
    if errors:
        return {"refused": [error.id for error in errors], "because": errors[0].message}
    container = open_container(path)
    try:
        return {"content": content(container)}
    finally:
        container.close()


def content(container: Container) -> dict[str, Any]:
    """All that a container holds."""
    manifest = container.manifest()
    steps, values = container.scalars()
    bits = np.ascontiguousarray(values).view(np.uint64)
    return {
        "format_version": list(container.format_version),
        "uuid": container.uuid,
        "commits": [
            {"step": int(step), "wall_ns": str(moment)} for _, step, moment in container.commits()
        ],
        "scalars": {
            "steps": steps.tolist(),
            "columns": [
                {
                    "name": name,
                    "bits": [
                        None if value == ABSENT_BITS else f"{value:016x}"
                        for value in bits[:, column].tolist()
                    ],
                }
                for column, name in enumerate(manifest.scalars)
            ],
        },
        "streams": [_stream(container, spec) for spec in manifest.streams],
        **{
            name: getattr(manifest, name)
            for name in ("optimizer", "groups", "gradient", "metadata", "software")
        },
        "lineage": msgspec.to_builtins(manifest.lineage),
    }


def _stream(container: Container, spec: StreamSpec) -> dict[str, Any]:
    steps, samples = container.keys(spec.name)
    lanes = {}
    for lane, columns in spec.lanes.items():
        out = np.empty((len(steps), columns), numpy_dtype(lane))
        container.read(spec.name, lane, slice(0, len(steps)), slice(0, columns), out)
        lanes[lane] = out.view(bits_dtype(lane))
    found: dict[str, Any] = {"name": spec.name, "steps": steps.tolist()}
    if samples is not None:
        found["samples"] = samples.tolist()
    found["tensors"] = [
        {
            **{"name": t.name, "dtype": t.dtype, "shape": t.shape, "first_row": t.first_row},
            "rows": [
                " ".join(f"{value:0{2 * ITEM_SIZES[t.dtype]}x}" for value in row.tolist())
                for row in lanes[t.dtype][t.first_row :, t.offset : t.offset + math.prod(t.shape)]
            ],
        }
        for t in spec.tensors
    ]
    return found


if __name__ == "__main__":
    for given in sys.stdin:
        print(json.dumps(answer(given.rstrip("\n"))), flush=True)
