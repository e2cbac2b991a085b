"""Whether a file can hold as many chunks as its commits make due.

What is read goes through lanes chunk by chunk; a lane that claims 2^40 columns in a small file
would keep a reader busy for days before the last of them is found missing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from trajfile.containers.extents import extents
from trajfile.containers.record import Record
from trajfile.containers.state import damaged
from trajfile.containers.store import ArrayStore, stream_key
from trajfile.schema import Manifest

#: A chunk takes at least this many bytes: an entry in an index, a checksum, and something to check.
_LEAST_BYTES = 12
#: So many chunks may be looked for one by one.
_FEW = 4096


def check_chunks(store: ArrayStore, manifest: Manifest, record: Record) -> None:
    """Refuse as `Damaged` a trajectory that has fewer bytes than its chunks need.

    Args:
        store: The arrays, which are as the manifest has them.
        manifest: The revision in force.
        record: The last commit.

    """
    due: dict[str, int] = {}
    widest = 0
    for stream, rows in zip(manifest.streams, record.rows, strict=True):
        for lane in stream.lanes:
            key = stream_key(stream.name, lane)
            runs = extents(stream, lane, slice(0, rows))
            due[key] = sum(store.chunks(key, run.last - run.first, run.columns) for run in runs)
            widest = max(widest, *(store.chunks(key, 1, run.columns) for run in runs), 0)
    total = sum(due.values())
    # The rows of a folder are borne out by its keys; its size takes a walk to find out.
    many = widest if store.kind == "zarr" else total
    if many > _FEW:
        most = max(due, key=lambda key: due[key])
        _check_bytes(store, total, most)


def impossible_lanes(
    store: ArrayStore, manifest: Manifest, lost: Collection[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Stream and lane of those of which the bytes that are there cannot hold a single row.

    Args:
        store: The arrays.
        manifest: The revision in force.
        lost: Those that could not be opened, which are left out.

    Yields:
        Each, in the manifest's order.

    """
    for stream in manifest.streams:
        for lane, columns in stream.lanes.items():
            if (stream.name, lane) in lost:
                continue
            across = store.chunks(stream_key(stream.name, lane), 1, columns)
            if across > _FEW and across * _LEAST_BYTES > store.stored_bytes():
                yield stream.name, lane


def _check_bytes(store: ArrayStore, chunks: int, key: str) -> None:
    stored = store.stored_bytes()
    if chunks * _LEAST_BYTES > stored:
        what = f"{chunks} chunks are committed, for which {stored} bytes are too few"
        raise damaged(store, what, key, "SUM-002")
