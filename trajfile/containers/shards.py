"""One shard of a Zarr lane: chunks side by side, each with a CRC-32C, and an index at the end.

The layout is that of Zarr's ``sharding_indexed`` codec, so any Zarr v3 library reads it. Doing it
here makes a step one sequential write, reads chunks straight to where they are wanted, tells a
missing chunk from one that holds the fill value, and bounds what a chunk may inflate to.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from dataclasses import dataclass
from io import FileIO
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.ahead import Bytes, built
from trajfile.containers.base import Given
from trajfile.containers.packing import PackingError, compress, decompress
from trajfile.containers.record import crc32c
from trajfile.containers.scattered import fill_chunk
from trajfile.containers.scratch import scratch
from trajfile.stopwatch import at

Bits = NDArray[np.generic]

_ABSENT = 2**64 - 1
_CRC_BYTES = 4


class Readable(Protocol):
    """What a shard is read from: a file, unbuffered, or an object of a store."""

    def seek(self, offset: int, whence: int = ..., /) -> int:
        """Go to a place."""
        ...

    def read(self, size: int = ..., /) -> bytes | None:
        """Bytes from there on."""
        ...

    def readinto(self, target: Any, /) -> int | None:
        """Fill memory from there on."""
        ...


class ShardError(ValueError):
    """Bytes that are not the chunk they should be; ``missing`` if there are none."""

    def __init__(self, message: str, *, missing: bool = False):
        super().__init__(message)
        self.missing = missing


@dataclass(frozen=True)
class ShardLayout:
    """How a lane is cut.

    Attributes:
        width: Columns of a chunk.
        columns: Columns of a shard; a multiple of `width`.
        item: Bytes of an element.
        compression: How a chunk is compressed before its checksum.
        height: Rows of a chunk and of a shard; 1 but in an archive.
    """

    width: int
    columns: int
    item: int
    compression: Literal["zstd", "gzip", "blosc"] | None
    height: int = 1

    @property
    def chunks(self) -> int:
        """Chunks of a shard."""
        return self.columns // self.width


def encode_shard(
    values: Given, rows: slice, columns: slice, layout: ShardLayout
) -> Generator[bytes | Bits, None, None]:
    """Cut the part of some rows that falls into one shard into chunks, and index them.

    Args:
        values: Rows.
        rows: Which of them fall into the shard.
        columns: And which columns, as far as there are any.
        layout: How to cut.

    Yields:
        The shard's bytes in order, each part to be used before the next is asked for.
    """
    index = np.full((layout.chunks, 2), _ABSENT, "<u8")
    offset = 0
    shape = layout.height, layout.width
    dtype = np.dtype(f"<u{layout.item}")

    def build(number: int, memory: Bytes) -> tuple[bytes | Bits, int]:
        start = columns.start + number * layout.width
        part = slice(start, min(start + layout.width, columns.stop))
        chunk = memory.view(dtype).reshape(shape)
        fill_chunk(values, rows, part, chunk)
        payload: bytes | Bits = chunk
        if layout.compression is not None:
            payload = compress(chunk, layout.compression)
        return payload, crc32c(payload)

    count = -(-(columns.stop - columns.start) // layout.width)
    size = layout.height * layout.width * layout.item
    made = built(build, count, size, packing=layout.compression is not None)
    for number, (payload, crc) in enumerate(made):
        yield payload
        yield crc.to_bytes(_CRC_BYTES, "little")
        size = (payload.nbytes if isinstance(payload, np.ndarray) else len(payload)) + _CRC_BYTES
        index[number] = offset, size
        offset += size
    yield index
    yield crc32c(index).to_bytes(_CRC_BYTES, "little")


def decode_shard(file: Readable, layout: ShardLayout, top: int, left: int, out: Bits) -> None:
    """Read a block of a shard into ``out``; every byte used is verified.

    Args:
        file: The shard's file, unbuffered.
        layout: How it is cut.
        top: First row, counted from the shard's first.
        left: First column, counted from the shard's first.
        out: Unsigned integers, shape (rows, columns); rows contiguous.

    Raises:
        ShardError: If a chunk is missing, or bytes are not what they should be.
    """
    index, end = _read_index(file, layout)
    rows, stop = len(out), left + out.shape[1]
    for number in range(left // layout.width, -(-stop // layout.width)):
        first = number * layout.width
        here = slice(max(first, left), min(first + layout.width, stop))
        target = out[:, here.start - left : here.stop - left]
        direct = target.shape == (layout.height, layout.width) and target.flags.c_contiguous
        chunk = target if direct else np.empty((layout.height, layout.width), out.dtype)
        offset, size = (int(value) for value in index[number])
        if offset == size == _ABSENT:
            raise ShardError(f"chunk {number} of a committed row is missing", missing=True)
        if size < _CRC_BYTES or offset + size > end:
            raise ShardError(f"the index places chunk {number} outside of the shard")
        _read_chunk(file, offset, size - _CRC_BYTES, layout, chunk.reshape(-1))
        if not direct:
            target[...] = chunk[top : top + rows, here.start - first : here.stop - first]


def _read_index(file: Readable, layout: ShardLayout) -> tuple[NDArray[np.uint64], int]:
    """The index, shape (chunks, 2) of offset and size, and where it begins."""
    index = np.empty((layout.chunks, 2), "<u8")
    end = file.seek(0, 2) - index.nbytes - _CRC_BYTES
    if end < 0:
        raise ShardError("the shard is truncated")
    if _fill(file, end, index.reshape(-1).view(np.uint8)) != crc32c(index):
        raise ShardError("the shard's index fails its checksum")
    return index, end


def _read_chunk(file: Readable, offset: int, size: int, layout: ShardLayout, chunk: Bits) -> None:
    flat = chunk.view(np.uint8)
    if layout.compression is None and size != flat.nbytes:
        raise ShardError(f"a chunk has {size} bytes where {flat.nbytes} are due")
    payload = flat if layout.compression is None else scratch("payload", size)
    stored = _fill(file, offset, payload)
    with at("verify"):
        holds = stored == crc32c(payload)
    if not holds:
        raise ShardError("a chunk fails its checksum")
    if layout.compression is not None:
        try:
            with at("decode"):
                decompress(payload, layout.compression, flat)
        except PackingError as error:
            raise ShardError(str(error)) from error


def _fill(file: Readable, offset: int, target: NDArray[np.uint8]) -> int:
    """Fill memory from a place in the file on, and give the checksum behind that."""
    if isinstance(file, FileIO) and hasattr(os, "preadv"):
        behind = bytearray(_CRC_BYTES)
        count = os.preadv(file.fileno(), [target.data, behind], offset)
    else:
        file.seek(offset)
        count = file.readinto(target.data) or 0
        behind = bytearray(file.read(_CRC_BYTES) or b"")
        count += len(behind)
    if count != target.nbytes + _CRC_BYTES:
        raise ShardError("the shard is truncated")
    return int.from_bytes(behind, "little")
