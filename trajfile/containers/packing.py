"""Compression of chunks, and its reverse into a buffer of known size and never beyond it."""

from __future__ import annotations

import zlib
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Compression = Literal["zstd", "gzip", "zlib", "blosc"]
"""``zlib`` is deflate as HDF5 wraps it, ``gzip`` as Zarr does; ``blosc`` shuffles before zstd."""

GZIP_LEVEL = 4
#: The level that searches for repetitions: of rows as they are, and of values at other steps.
_ZSTD_SEARCH = 3
#: Of a row whose bytes are shuffled, those of exponents shrink without a search; in the others a
#: harder one finds short matches by chance, slow to write and to read.
_ZSTD_LIGHT = 1
#: Blosc's level for zstd's third.
BLOSC_LEVEL = 2
_BLOSC_ZSTD = 4  # the number of the inner compressor in the header's flags

_WINDOWS = {"gzip": 31, "zlib": 15}  # zlib's codes: 32 KiB, with a gzip or its own header


class PackingError(ValueError):
    """Bytes that do not decompress to what is due."""


def zstd_level(*, search: bool) -> int:
    """The level at which chunks are written; `search` is whether for repetitions."""
    return _ZSTD_SEARCH if search else _ZSTD_LIGHT


def compress(data: NDArray[Any], compression: Compression, *, search: bool = True) -> bytes:
    """Compress the bytes of an array.

    Args:
        data: A chunk, contiguous.
        compression: How.
        search: Whether to search hard for repetitions, if it is zstd.

    Returns:
        What `decompress` takes.
    """
    if compression == "zstd":
        from numcodecs.zstd import Zstd  # put off: it costs start-up time

        packed: bytes = Zstd(level=zstd_level(search=search)).encode(data)
        return packed
    if compression == "blosc":
        from numcodecs.blosc import SHUFFLE, Blosc

        # In one block: bytes of a weight at other steps lie as far apart as a row is long.
        packed = Blosc("zstd", BLOSC_LEVEL, SHUFFLE, data.nbytes).encode(data)
        return packed
    packer = zlib.compressobj(GZIP_LEVEL, wbits=_WINDOWS[compression])
    return packer.compress(data.data) + packer.flush()


def decompress(packed: NDArray[np.uint8], compression: Compression, out: NDArray[np.uint8]) -> None:
    """Inflate into ``out``, which must come out exactly full.

    Args:
        packed: The compressed bytes.
        compression: How they were compressed.
        out: Where the content goes.

    Raises:
        PackingError: If the bytes are damaged, or hold more or less than ``out``.
    """
    try:
        if compression == "zstd":
            if _declared_size(packed) != out.nbytes:
                raise PackingError("the frame does not declare the size of a chunk")
            from numcodecs.zstd import Zstd

            Zstd().decode(packed, out)
        elif compression == "blosc":
            _check_blosc(packed, out.nbytes)
            from numcodecs.blosc import Blosc

            Blosc().decode(packed, out)
        else:
            unpacker = zlib.decompressobj(wbits=_WINDOWS[compression])
            out[...] = np.frombuffer(unpacker.decompress(packed.data, out.nbytes + 1), np.uint8)
            if not unpacker.eof:
                raise PackingError("the stream does not end with the chunk")
    except (zlib.error, ValueError, RuntimeError) as error:
        raise PackingError(f"a chunk cannot be decompressed: {error}") from error


def _check_blosc(packed: NDArray[np.uint8], size: int) -> None:
    """Check a Blosc header (version 2): its sizes, and that zstd is inside."""
    head = packed[:16].tobytes()
    sizes = [int.from_bytes(head[start : start + 4], "little") for start in (4, 8, 12)]
    if len(head) < 16 or head[0] != 2 or sizes[0] != size or sizes[2] != packed.nbytes:
        raise PackingError("the Blosc header does not declare the sizes of a chunk")
    if not 0 < sizes[1] <= max(size, 1) or (head[2] >> 5 != _BLOSC_ZSTD and not head[2] & 2):
        raise PackingError("the Blosc header declares something else than zstd")


def _declared_size(frame: NDArray[np.uint8]) -> int | None:
    """The content size that a zstd frame's header declares (RFC 8878, section 3.1.1.1)."""
    head = frame[:18].tobytes()
    if len(head) < 6:
        return None
    single, width = bool(head[4] & 0x20), head[4] >> 6
    start = (5 if single else 6) + (0, 1, 2, 4)[head[4] & 3]
    size = (1 if single else 0, 2, 4, 8)[width]
    if size == 0:
        return None
    declared = int.from_bytes(head[start : start + size], "little")
    return declared + 256 if size == 2 else declared
