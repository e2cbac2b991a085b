"""Decoding HDF5 chunks outside of the library, and encoding them where that is safer.

The library's deflate filter inflates without bound, so that a few KiB in a file can fill the
memory; it decodes one chunk at a time under its global lock; and it has no zstd without a plugin.
"""

from __future__ import annotations

import numpy as np
from h5py import h5z
from numpy.typing import NDArray

from trajfile.containers.checksum import fletcher32, summed, unshuffle
from trajfile.containers.hdf5_types import ZSTD_FILTER
from trajfile.containers.packing import Compression, PackingError, compress, decompress
from trajfile.containers.scratch import scratch
from trajfile.stopwatch import at

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


def decode_chunk(
    data: NDArray[np.uint8], filters: tuple[int, ...], out: NDArray[np.generic]
) -> None:
    """Undo the filters of one chunk.

    Args:
        data: The chunk as it lies in the file.
        filters: As `compression_of` accepts them.
        out: Unsigned integers, shape (width of a chunk,), contiguous.

    Raises:
        PackingError: If the checksum fails or the content is not a chunk.
    """
    payload = data[:-4]
    if len(data) < 4:
        raise PackingError("a chunk fails its checksum")
    verify(payload, data[-4:])
    compression = compression_of(filters)
    flat = out.view(np.uint8)
    if compression is None and len(payload) != len(flat):
        raise PackingError(f"a chunk has {len(payload)} bytes where {len(flat)} are due")
    shuffled = h5z.FILTER_SHUFFLE in filters and out.dtype.itemsize > 1
    with at("decode"):
        planes = scratch("planes", len(flat)) if shuffled else flat
        if compression is None:
            planes[...] = payload
        else:
            decompress(payload, compression, planes)
        if shuffled:
            unshuffle(planes.reshape(out.dtype.itemsize, -1), out)


def encode_chunk(
    chunk: NDArray[np.generic],
    filters: tuple[int, ...],
    planes: NDArray[np.uint8] | None = None,
) -> bytes:
    """Apply the filters to one chunk.

    Args:
        chunk: Unsigned integers, shape (height, width) of a chunk, contiguous.
        filters: As `compression_of` accepts them.
        planes: As many bytes, to be used in between; fresh ones if there are none.

    Returns:
        The chunk as it is to lie in the file.
    """
    data, item = chunk.reshape(-1).view(np.uint8), chunk.itemsize
    if h5z.FILTER_SHUFFLE in filters and item > 1:
        planes = np.empty_like(data) if planes is None else planes
        for number, plane in enumerate(planes.reshape(item, -1)):
            plane[...] = data[number::item]
        data = planes
    compression = compression_of(filters)
    archive = len(chunk) > 1
    payload = data.tobytes() if compression is None else compress(data, compression, search=archive)
    return summed(payload)


def verify(payload: NDArray[np.uint8], checksum: NDArray[np.uint8]) -> None:
    """Hold bytes against the checksum stored behind them.

    Args:
        payload: The bytes.
        checksum: Four bytes.

    Raises:
        PackingError: If they do not match.
    """
    with at("verify"):
        holds = fletcher32(payload) == int.from_bytes(checksum.tobytes(), "little")
    if not holds:
        raise PackingError("a chunk fails its checksum")
