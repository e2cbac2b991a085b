"""Decoding compressed HDF5 chunks outside of the library.

The library's deflate filter inflates without bound, so that a few KiB in a file can fill the
memory; it decodes one chunk at a time under its global lock; and it has no zstd without a plugin.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from h5py import h5z
from numpy.typing import NDArray

from trajfile.containers.hdf5_types import ZSTD_FILTER
from trajfile.containers.packing import Compression, PackingError, decompress

_BLOCK = 2**15
_WEIGHTS = np.arange(_BLOCK, 0, -1, dtype=np.float64)
_CODECS: dict[int, Compression] = {h5z.FILTER_DEFLATE: "zlib", ZSTD_FILTER: "zstd"}


def compression_of(filters: tuple[int, ...]) -> Compression | None:
    """The compression among a dataset's filters, if any.

    Args:
        filters: Their ids in order; shuffle, one compression and fletcher32 at most.

    Returns:
        Its name; None if the chunks are not compressed.

    Raises:
        ValueError: If the order is another than shuffle, compression, fletcher32.
    """
    packed = [number for number in filters if number in _CODECS]
    shuffled = [h5z.FILTER_SHUFFLE] if h5z.FILTER_SHUFFLE in filters else []
    if list(filters) != [*shuffled, *packed, h5z.FILTER_FLETCHER32] or len(packed) > 1:
        raise ValueError(f"passes through filters {filters}")
    return _CODECS[packed[0]] if packed else None


def decode_chunk(stored: bytes, filters: tuple[int, ...], out: NDArray[np.generic]) -> None:
    """Undo the filters of one chunk.

    Args:
        stored: The chunk as it lies in the file.
        filters: As `compression_of` accepts them, with a compression.
        out: Unsigned integers, shape (width of a chunk,), contiguous.

    Raises:
        PackingError: If the checksum fails or the content is not a chunk.
    """
    data = np.frombuffer(stored, np.uint8)
    payload, checksum = data[:-4], stored[-4:]
    if len(data) < 4 or fletcher32(payload) != int.from_bytes(checksum, "little"):
        raise PackingError("a chunk fails its checksum")
    compression = compression_of(filters)
    flat = out.view(np.uint8)
    if compression is None:
        raise PackingError("the chunk is not compressed")
    if h5z.FILTER_SHUFFLE not in filters or out.dtype.itemsize == 1:
        decompress(payload, compression, flat)
        return
    planes = np.empty((out.dtype.itemsize, len(out)), np.uint8)
    decompress(payload, compression, planes.reshape(-1))
    elements = flat.reshape(len(out), -1)
    for number, plane in enumerate(planes):  # thrice as fast as a transpose
        elements[:, number] = plane


def fletcher32(data: NDArray[Any]) -> int:
    """Fletcher's checksum as HDF5 computes it.

    Over the big-endian 16-bit words w_1 .. w_n (an odd last byte counts as the high one):
    sum_i w_i and sum_i (n - i + 1) w_i, both modulo 65535, where a positive sum that is a
    multiple of it counts as 65535.

    Args:
        data: Bytes.

    Returns:
        The second sum in the high and the first in the low 16 bits.
    """
    padded = np.append(data, np.uint8(0)) if len(data) % 2 else data
    words = padded.view(">u2")
    low = high = 0
    for start in range(0, len(words), _BLOCK):
        # In float64 all is exact: within a block the weighted sum stays below 2^46. No BLAS:
        # chunks are decoded in threads already.
        block = words[start : start + _BLOCK].astype(np.float64)
        total = int(block.sum())
        block *= _WEIGHTS[-len(block) :]
        weighted = int(block.sum())
        high += weighted + len(block) * low
        low += total
    return (_fold(high) << 16) | _fold(low)


def _fold(value: int) -> int:
    return (value - 1) % 65535 + 1 if value else 0
