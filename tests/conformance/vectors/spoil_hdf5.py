"""Ways to spoil an HDF5 file, with h5py and plain file operations."""

from __future__ import annotations

import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from h5py import h5d, h5p, h5s
from numcodecs.zstd import Zstd

from tests.conformance.second_reader import fletcher32

Spoil = Callable[[Path], None]


def opened(path: Path) -> h5py.File:
    """The file, to be changed."""
    return h5py.File(path, "r+", libver=("v110", "v110"))


def truncated(path: Path) -> None:
    """Cut off the end."""
    path.write_bytes(path.read_bytes()[:-200])


def unfinished(path: Path) -> None:
    """What is there when a writer is killed while it creates the objects."""
    path.unlink()
    with h5py.File(path, "w", libver=("v110", "v110")) as file:
        file["manifest"] = np.zeros(4, np.uint8)
        file.flush()
        shutil.copyfile(path, path.with_suffix(".copy"))
    path.with_suffix(".copy").replace(path)


def removed(key: str) -> Spoil:
    """Take an array away."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            del file[key]

    return spoil


def extended(key: str, rows: int) -> Spoil:
    """Claim rows that are not there."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            file[key].resize(rows, axis=0)

    return spoil


def attribute(key: str, name: str, value: str) -> Spoil:
    """Set an attribute of an array."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            file[key].attrs[name] = np.bytes_(value)

    return spoil


def replaced(
    key: str,
    dtype: str,
    chunks: tuple[int, ...] | None = None,
    *,
    grows: bool = True,
    **options: Any,
) -> Spoil:
    """Store an array's content in another manner."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            data = file[key][:]
            del file[key]
            limit = (None, *data.shape[1:]) if chunks and grows else None
            data = data.view("<i4") if dtype == "<i4" else data.astype(dtype)
            made = file.create_dataset(key, data=data, chunks=chunks, maxshape=limit, **options)
            if data.ndim > 1:
                made.attrs["dtype"] = np.bytes_("float32")

    return spoil


def fixed_width(key: str, columns: int) -> Spoil:
    """Let a lane have a dataset for what joins that can't get wider than some columns."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            shape, limit = (0, 0), (None, columns)
            options: dict[str, Any] = {"chunks": (1, columns), "fletcher32": True}
            made = file.create_dataset(key + ".joined", shape, "<f4", maxshape=limit, **options)
            made.attrs["dtype"] = np.bytes_("float32")

    return spoil


def checksum_first(key: str) -> Spoil:
    """Compress a lane after its checksum was added."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            data = file[key][:]
            del file[key]
            plist = h5p.create(h5p.DATASET_CREATE)
            plist.set_chunk((1, 4))
            plist.set_obj_track_times(False)
            plist.set_fletcher32()
            plist.set_deflate(4)
            space = h5s.create_simple(data.shape, (h5s.UNLIMITED, data.shape[1]))
            made = h5d.create(file.id, key.encode(), h5py.h5t.IEEE_F32LE, space, plist)
            h5py.Dataset(made)[:] = data
            h5py.Dataset(made).attrs["dtype"] = np.bytes_("float32")

    return spoil


def chunk_removed(key: str, row: int) -> Spoil:
    """Take the chunks of a row away, by making all anew but those."""

    def spoil(path: Path) -> None:
        _written_again(path, key, lambda place: place[0] == row)

    return spoil


def second_chunk_missing(path: Path) -> None:
    """Take the second chunk of row 1 away."""
    _written_again(path, "streams/params/float32", lambda place: place == (1, 4))


def _written_again(path: Path, key: str, left_out: Callable[[tuple[int, int]], bool]) -> None:
    with opened(path) as file:
        old = file[key]
        plist, kind, attribute = old.id.get_create_plist(), old.id.get_type(), old.attrs["dtype"]
        shape, limit = old.shape, (h5s.UNLIMITED, old.shape[1])
        width = old.chunks[1]
        places = [(r, c) for r in range(shape[0]) for c in range(0, shape[1], width)]
        stored = {place: old.id.read_direct_chunk(place)[1] for place in places}
        del file[key]
        made = h5d.create(file.id, key.encode(), kind, h5s.create_simple(shape, limit), plist)
        for place in places:
            if not left_out(place):
                made.write_direct_chunk(place, stored[place])
        h5py.Dataset(made).attrs["dtype"] = attribute


def chunk_flipped(key: str, row: int) -> Spoil:
    """Flip a bit of a row's first chunk as it is stored."""

    def spoil(path: Path) -> None:
        with h5py.File(path, "r") as file:
            found = file[key].id.get_chunk_info_by_coord((row, 0)).byte_offset
        data = bytearray(path.read_bytes())
        data[found + 2] ^= 0x10
        path.write_bytes(data)

    return spoil


def bomb(key: str, compression: str, size: int = 2**24) -> Spoil:
    """Put a chunk in row 1 that holds so many zero bytes."""

    def spoil(path: Path) -> None:
        packed = zlib.compress(bytes(size)) if compression == "gzip" else Zstd().encode(bytes(size))
        with opened(path) as file:
            check = struct.pack("<I", fletcher32(packed))
            file[key].id.write_direct_chunk((1, 0), packed + check)

    return spoil


def filter_skipped(key: str) -> Spoil:
    """Store a chunk of row 1 without its checksum."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            file[key].id.write_direct_chunk((1, 0), bytes(16), filter_mask=1)

    return spoil


def external(key: str) -> Spoil:
    """Keep an array's data in a file beside this one."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            del file[key]
            file.create_dataset(key, (3,), "<i8", external=[("elsewhere.bin", 0, 24)])

    return spoil


def virtual(key: str) -> Spoil:
    """Map an array onto another file."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            del file[key]
            plist, space = h5p.create(h5p.DATASET_CREATE), h5s.create_simple((3,))
            plist.set_obj_track_times(False)
            plist.set_virtual(space, b"elsewhere.h5", b"steps", space)
            h5d.create(file.id, key.encode(), h5py.h5t.STD_I64LE, space, plist)

    return spoil


def soft_link(path: Path) -> None:
    """Link softly to an array."""
    with opened(path) as file:
        file["alias"] = h5py.SoftLink("/manifest")


def external_link(path: Path) -> None:
    """Link into another file."""
    with opened(path) as file:
        file["streams/params/more"] = h5py.ExternalLink("elsewhere.h5", "/")


def hard_link(key: str) -> Spoil:
    """Link an object again, from within ``streams``."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            file["streams/again"] = file[key]

    return spoil


def deep(path: Path) -> None:
    """Nest groups."""
    with opened(path) as file:
        file.create_group("/".join(["deeper"] * 40))


def committed_type(key: str) -> Spoil:
    """Give an array a committed datatype."""

    def spoil(path: Path) -> None:
        with opened(path) as file:
            data = file[key][:]
            del file[key]
            file["type"] = np.dtype("<i8")
            file.create_dataset(key, data=data, dtype=file["type"], chunks=(2,), maxshape=(None,))

    return spoil


def variable_text(path: Path) -> None:
    """Keep the uuid as variable-length text."""
    with opened(path) as file:
        text = str(file.attrs["uuid"].decode())
        del file.attrs["uuid"]
        file.attrs["uuid"] = text


def superblock_0(path: Path) -> None:
    """Copy all objects into a file of the oldest kind."""
    _copied(path, libver="earliest")


def user_block(path: Path) -> None:
    """Copy all objects into a file whose superblock comes later."""
    _copied(path, libver=("v110", "v110"), userblock_size=512)


def _copied(path: Path, **how: Any) -> None:
    aside = path.with_suffix(".old")
    with h5py.File(aside, "w", **how) as target, h5py.File(path, "r") as source:
        for name, value in source.attrs.items():
            target.attrs[name] = value
        for name in source:
            source.copy(name, target)
    aside.replace(path)
