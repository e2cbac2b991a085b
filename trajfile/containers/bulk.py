"""Writing a whole trajectory lane by lane, in pieces, and committing it at the end.

`Journal` makes each step visible as it comes. A copy is not looked at before it is whole: its
rows go block by block, nothing is committed until all are there, and a copy that was cut short is
taken up where it was, because no block depends on another.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from trajfile.containers import Compression, is_hdf5
from trajfile.containers.base import Container
from trajfile.containers.extents import Run, extents
from trajfile.containers.identity import Attributes
from trajfile.containers.pieces import pieces
from trajfile.containers.record import Record, crc32c, keys_crc, scalars_crc
from trajfile.containers.state import identity_of
from trajfile.containers.store import (
    COMMITS,
    SCALAR_STEP,
    SCALAR_VALUE,
    ArrayStore,
    layout,
    stream_key,
)
from trajfile.dtypes import ITEM_SIZES, numpy_dtype
from trajfile.schema import Manifest


class Block(NamedTuple):
    """A part of a lane that is copied at once."""

    stream: str
    lane: str
    rows: slice
    columns: slice

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        rows, columns = self.rows, self.columns
        elements = (rows.stop - rows.start) * (columns.stop - columns.start)
        return int(elements) * ITEM_SIZES[self.lane]


class Bulk:
    """A trajectory being written as a whole.

    Args:
        store: Its arrays, just created or taken up again.
        manifest: Its only revision.
    """

    def __init__(self, store: ArrayStore, manifest: Manifest):
        self._store, self._manifest = store, manifest
        try:
            store.expect(layout(manifest))
            store.begin()
        except BaseException:
            store.close()
            raise

    def blocks(self, source: Container) -> list[Block]:
        """What is to be copied, always the same and in the same order.

        Args:
            source: A container of the same manifest.

        Returns:
            Blocks of bounded size that cover what exists of every lane.
        """
        return list(self._blocks(source))

    def _blocks(self, source: Container) -> Iterator[Block]:
        for stream in self._manifest.streams:
            every = slice(0, source.committed_rows(stream.name))
            for lane in stream.lanes:
                height, width = self._store.unit(stream_key(stream.name, lane))
                for run in _bands(extents(stream, lane, every), height):
                    rows, columns = slice(run.first, run.last), slice(0, run.columns)
                    for part in pieces(rows, columns, width, ITEM_SIZES[lane], height):
                        yield Block(stream.name, lane, *part)

    def copy(self, source: Container, block: Block) -> None:
        """Copy one block, bit for bit.

        Args:
            source: Where from.
            block: One of `blocks`.
        """
        stream, lane, rows, columns = block
        shape = rows.stop - rows.start, columns.stop - columns.start
        out = np.empty(shape, numpy_dtype(lane))
        source.read(stream, lane, rows, columns, out)
        self._store.write(stream_key(stream, lane), rows.start, out, columns.start)

    def flush(self, blocks: list[Block]) -> None:
        """Hand what was copied to the operating system, so that it survives a kill."""
        keys = dict.fromkeys(stream_key(block.stream, block.lane) for block in blocks)
        self._store.flush(keys)

    def commit(self, source: Container) -> None:
        """Write keys, scalars and commits, and force everything to the disk.

        Each row and each value goes with the first commit of its step, and commits keep their
        time.

        Args:
            source: Where all blocks were copied from.
        """
        store, tables = self._store, [SCALAR_STEP, SCALAR_VALUE, COMMITS]
        for stream in self._manifest.streams:
            steps, samples = source.keys(stream.name)
            tables.append(stream_key(stream.name, "step"))
            store.save(tables[-1], 0, steps)
            if samples is not None:
                tables.append(stream_key(stream.name, "sample"))
                store.save(tables[-1], 0, samples)
            for lane in stream.lanes:
                store.discard(stream_key(stream.name, lane), len(steps))
        steps, values = source.scalars()
        store.save(SCALAR_STEP, 0, steps)
        store.save(SCALAR_VALUE, 0, np.ascontiguousarray(values))
        store.save(COMMITS, 0, records(source, self._manifest.to_line(identity_of(store))))
        store.flush(tables)
        store.sync(tables)

    def close(self) -> None:
        """Release the files."""
        self._store.close()


def bulk_store(
    path: Path,
    manifest: Manifest,
    identity: Attributes,
    compression: Compression,
    *,
    again: bool,
) -> ArrayStore:
    """The arrays of a trajectory on a disk that is to be written as a whole.

    Args:
        path: Where; the suffix picks the container.
        manifest: Its only revision.
        identity: Its root attributes.
        compression: How lanes are compressed.
        again: Whether it was begun before and is taken up again.

    Returns:
        The arrays.
    """
    if is_hdf5(path):
        from trajfile.containers import hdf5

        if again:
            return hdf5.reopen_store(path)
        return hdf5.create_store(path, manifest, identity, compression)
    from trajfile.containers import zarr

    if again:
        return zarr.reopen_store(path)
    return zarr.create_store(path, manifest, identity, compression)


def _bands(runs: list[Run], height: int) -> Iterator[Run]:
    """The same rows, cut only between bands; a band has the columns of its last row."""
    last = runs[-1].last if runs else 0
    starts = sorted({run.first // height * height for run in runs})
    for start, stop in pairwise([*starts, last]):
        columns = max(run.columns for run in runs if run.first < stop)
        yield Run(start, stop, columns)


def records(source: Container, manifest_line: bytes) -> NDArray[np.uint64]:
    """The commit records of a trajectory whose manifest has one revision.

    Args:
        source: What is committed.
        manifest_line: The revision.

    Returns:
        uint64, shape (commits, 8 + 2 streams).
    """
    streams = list(source.manifest().by_name)
    keys = [source.keys(stream) for stream in streams]
    scalar_steps, values = source.scalars()
    commits = source.commits()
    record = replace(
        Record.empty(len(streams)),
        manifest_bytes=len(manifest_line),
        manifest_crc=crc32c(manifest_line),
    )
    rows = []
    for seq, step, wall_ns in commits.tolist():
        counts, crcs = list(record.rows), list(record.keys_crcs)
        for index, (steps, samples) in enumerate(keys):
            start = counts[index]
            stop = int(np.searchsorted(steps, step, side="right"))
            if stop > start:
                part = None if samples is None else samples[start:stop]
                crcs[index] = keys_crc(steps[start:stop], part, crcs[index])
                counts[index] = stop
        first = record.scalar_rows
        last = max(first, int(np.searchsorted(scalar_steps, step, side="right")))
        record = replace(
            record,
            seq=seq,
            step=step,
            wall_ns=max(1, wall_ns),  # 0 stands for a record that was never written
            scalar_rows=last,
            scalars_crc=scalars_crc(
                first, scalar_steps[first:last], values[first:last], record.scalars_crc
            ),
            rows=tuple(counts),
            keys_crcs=tuple(crcs),
        )
        rows.append(record.encode())
    return np.concatenate([np.empty((0, 8 + 2 * len(streams)), np.uint64), *rows])
