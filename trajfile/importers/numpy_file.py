"""NumPy's ``.npz``: a zip archive of arrays, each with a header of its own.

Arrays of ``np.savez`` lie in the file as they are and are read in place; those of
``np.savez_compressed`` are inflated when they are read, never beyond the size they state.
"""

from __future__ import annotations

import math
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.lib import format as npy

from trajfile.dtypes import ITEM_SIZES, bits_dtype, dtype_name
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import NOT_FLOATING, parameters
from trajfile.importers.places import Bits, Place, Span, strided
from trajfile.importers.refusal import half_written, too_large, unknown_layout
from trajfile.importers.torch_file import Record, entries, located

_MAX_HEADER = 2**16
_BLOCK = 2**20
#: Most that deflate can shrink anything; a record that states more is no honest one.
_MOST_INFLATION = 1100
_STEPS = ("step", "global_step", "iteration", "iter", "epoch")


class _Header(NamedTuple):
    dtype: str
    shape: tuple[int, ...]
    fortran: bool
    length: int


@dataclass(frozen=True)
class Deflated:
    """A compressed array in C order, inflated from its start as far as it is asked for.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        file: The file.
        record: The compressed bytes.
        skip: Bytes before the first element, once inflated.
    """

    dtype: str
    shape: tuple[int, ...]
    file: File
    record: Record
    skip: int

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """Inflate in blocks, and keep what is asked for; at the end the CRC-32 must agree."""
        size = ITEM_SIZES[self.dtype]
        first, last = self.skip + start * size, self.skip + stop * size
        total = self.skip + math.prod(self.shape) * size
        target = out[: stop - start].view(np.uint8)
        at = crc = 0
        for block in inflated(self.file, self.record, files):
            crc = zlib.crc32(block, crc)
            low, high = max(first, at), min(last, at + len(block))
            if low < high:
                target[low - first : high - first] = np.frombuffer(block, np.uint8)[
                    low - at : high - at
                ]
            at += len(block)
            if at >= total and (at, crc) != (total, self.record.crc):
                half_written(self.file.path, "a compressed array does not match its checksum")
            if at >= last:
                return
        half_written(self.file.path, "a compressed array ends before its shape says")


def read_numpy(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint in one file.

    Args:
        path: The file.
        root: The folder that it must lie in.
        files: Reads it.

    Returns:
        The places of its arrays.
    """
    file = known(path, root)
    if files.bytes(file, 0, min(4, file.size)) not in {b"PK\x03\x04", b"PK\x05\x06"}:
        half_written(path, "it does not begin as a zip archive")
    places: dict[str, Place] = {}
    for info in entries(file, files, 0, file.size):
        if info.filename.endswith(".npy"):
            places[info.filename.removesuffix(".npy")] = _place(file, files, info)
    stated = {name: _count(places[name], files) for name in _STEPS if name in places}
    params, left_out = parameters(places)
    return Checkpoint(
        path=path,
        params=params,
        files=(file,),
        kind="npz",
        step=next((n for k, n in stated.items() if k != "epoch" and n is not None), None),
        epoch=stated.get("epoch"),
        left_out=left_out,
    )


def inflated(file: File, record: Record, files: Files) -> Any:
    """The bytes of a deflated record, block by block."""
    machine = zlib.decompressobj(-15)
    at = 0
    while at < record.size and not machine.eof:
        count = min(_BLOCK, record.size - at)
        pending = files.bytes(file, record.start + at, count)
        at += count
        while pending and not machine.eof:
            try:
                yield machine.decompress(pending, _BLOCK)
            except zlib.error as error:
                half_written(file.path, f"a compressed array is damaged ({error})", error)
            pending = machine.unconsumed_tail
    yield machine.flush(_BLOCK)


def _place(file: File, files: Files, info: zipfile.ZipInfo) -> Place:
    record = located(file, files, info)
    name = info.filename.removesuffix(".npy")
    if info.compress_type not in {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED} or info.flag_bits & 1:
        unknown_layout(
            file.path, f"holds {name[:100]!r} compressed in another way", "save it with np.savez"
        )
    stored = info.compress_type == zipfile.ZIP_STORED
    if info.file_size > _MOST_INFLATION * max(record.size, 1):
        too_large(file.path, f"says that {name[:100]!r} inflates to {info.file_size} bytes")
    if stored:
        head = files.bytes(file, record.start, min(record.size, _MAX_HEADER))
    else:
        head = next(iter(inflated(file, record, files)))
    header = _header(head, file, name)
    size = math.prod(header.shape) * ITEM_SIZES.get(header.dtype, 0)
    if header.dtype in ITEM_SIZES and header.length + size != info.file_size:
        half_written(
            file.path,
            f"{name[:100]!r} has shape {header.shape}, but {info.file_size - header.length} bytes",
        )
    if header.dtype not in ITEM_SIZES:
        return Span(header.dtype, header.shape, file, record.start)
    fortran = header.fortran and len(header.shape) > 1
    if not stored:
        if fortran:
            unknown_layout(
                file.path,
                f"holds {name[:100]!r} compressed and in Fortran order",
                "save it with np.savez",
            )
        return Deflated(header.dtype, header.shape, file, record, header.length)
    start = record.start + header.length
    if not fortran:
        return Span(header.dtype, header.shape, file, start)
    steps = [math.prod(header.shape[:axis]) for axis in range(len(header.shape))]
    return strided(header.dtype, header.shape, file, start, tuple(steps))


def _header(head: bytes, file: File, name: str) -> _Header:
    """The header of an array, parsed as a literal and of bounded length."""
    import io

    stream = io.BytesIO(head)
    try:
        version = npy.read_magic(stream)
        read = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}[version]
        shape, fortran, dtype = read(stream, max_header_size=_MAX_HEADER)
    except (ValueError, KeyError, EOFError, struct.error, SyntaxError, RecursionError) as error:
        half_written(file.path, f"{name[:100]!r} has no valid header ({error})", error)
    known_name = dtype_name(dtype) if dtype.byteorder != ">" else None
    if min(shape, default=0) < 0 or len(shape) > 32:
        half_written(file.path, f"{name[:100]!r} has the impossible shape {shape}")
    return _Header(known_name or NOT_FLOATING, tuple(shape), fortran, stream.tell())


def _count(place: Place, files: Files) -> int | None:
    """A whole number that stands alone in an array."""
    if place.shape not in {(), (1,)} or not place.dtype.startswith(("int", "uint")):
        return None
    out = np.empty(1, bits_dtype(place.dtype))
    place.read(files, 0, 1, out)
    value = int(out.view(np.dtype(place.dtype))[0])
    return value if value >= 0 else None
