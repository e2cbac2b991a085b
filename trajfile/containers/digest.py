"""The logical digest: equal for equal trajectories, however they are stored.

It covers what was recorded (names, shapes, dtypes, bits, steps, absent and present scalars, what
is known of the optimizer) and leaves out how and when: container, chunking, compression, wall
time, uuid and the program that wrote it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import msgspec
import numpy as np

from trajfile.containers.base import Container
from trajfile.containers.pieces import pieces
from trajfile.dtypes import ITEM_SIZES, bits_dtype
from trajfile.schema import ABSENT_BITS, Manifest, StreamSpec


def digest(container: Container, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 over the logical content in a canonical form.

    The canonical form is one JSON object with sorted keys, in which each array stands as the
    SHA-256 of its little-endian bytes in row-major order: the commits' steps; for each scalar the
    steps at which it is present and its values there; for each stream its keys and the committed
    rows of each lane, where columns before their tensor's first row count as zero bits.

    Args:
        container: Any container.
        progress: Called with the number of bytes that were read, block by block.

    Returns:
        64 hexadecimal digits.
    """
    manifest = container.manifest()
    content = {
        "manifest": _logical(manifest),
        "commits": sha256(container.commits()[:, 1].astype("<i8").tobytes()).hexdigest(),
        "scalars": _scalars(container, manifest),
        "streams": {
            stream.name: _stream(container, stream, progress or (lambda _: None))
            for stream in manifest.streams
        },
    }
    return sha256(_canonical(content)).hexdigest()


def _canonical(value: Any) -> bytes:
    # Through JSON first: what differs only in memory (tuple or list, keys of other types) must
    # sort and print alike.
    return msgspec.json.encode(msgspec.json.decode(msgspec.json.encode(value)), order="sorted")


def _logical(manifest: Manifest) -> dict[str, Any]:
    tensors = {
        stream.name: [[t.name, t.shape, t.dtype, t.first_row] for t in stream.tensors]
        for stream in manifest.streams
    }
    return {
        "streams": tensors,
        "scalars": sorted(manifest.scalars),
        "optimizer": manifest.optimizer,
        "groups": manifest.groups,
        "gradient": manifest.gradient,
        "metadata": manifest.metadata,
    }


def _scalars(container: Container, manifest: Manifest) -> dict[str, list[str]]:
    steps, values = container.scalars()
    content = {}
    for column, name in enumerate(manifest.scalars):
        bits = np.ascontiguousarray(values[:, column]).view(np.uint64)
        present = bits != ABSENT_BITS
        content[name] = [
            sha256(steps[present].astype("<i8").tobytes()).hexdigest(),
            sha256(bits[present].astype("<u8").tobytes()).hexdigest(),
        ]
    return content


def _stream(
    container: Container, stream: StreamSpec, progress: Callable[[int], None]
) -> dict[str, Any]:
    steps, samples = container.keys(stream.name)
    content: dict[str, Any] = {"step": sha256(steps.astype("<i8").tobytes()).hexdigest()}
    if samples is not None:
        content["sample"] = sha256(samples.astype("<i4").tobytes()).hexdigest()
    for lane, columns in stream.lanes.items():
        hashed = sha256()
        unit = container.chunk_columns(stream.name, lane)
        every = slice(0, len(steps)), slice(0, columns)
        for rows, part in pieces(*every, unit, ITEM_SIZES[lane]):
            shape = (rows.stop - rows.start, part.stop - part.start)
            out = np.empty(shape, bits_dtype(lane))
            container.read(stream.name, lane, rows, part, out)
            hashed.update(out.data)
            progress(out.nbytes)
        content[lane] = hashed.hexdigest()
    return content
