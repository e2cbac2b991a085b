"""Files made to harm: each takes a sound run and puts one trap into it.

`HOSTILE` holds them by name and container, with the rule under which a reader refuses the file.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from tests.conformance.breakers import LANE
from tests.conformance.forge import edit, recommit, restate, rewrite
from trajfile.containers.hdf5_chunks import fletcher32
from trajfile.containers.record import crc32c

Trap = Callable[[Path], object]
#: Name and container (``h5`` or ``zarr``) to the rule and the maker.
HOSTILE: dict[tuple[str, str], tuple[str, Trap]] = {}

BOMB = 600 * 2**20
#: HDF5 keeps the length of a chunk as small as ours in two bytes: as much as deflate packs there.
BOMB_OF_64_KIB = 56 * 2**20
_PLUGIN_FILTER = 32004
STEP = "streams/params/step"


def hostile(rule: str, *kinds: str) -> Callable[[Trap], Trap]:
    """Register a maker under its function's name, for one container or both."""

    def register(trap: Trap) -> Trap:
        for kind in kinds or ("h5", "zarr"):
            HOSTILE[trap.__name__, kind] = (rule, trap)
        return trap

    return register


def sentinel(path: Path) -> Path:
    """A pipe beside the run: whoever opens it waits for ever."""
    pipe = path.with_name("pipe")
    if not pipe.exists():
        os.mkfifo(pipe)
    return pipe


# Links and storage elsewhere


@hostile("H5-002", "h5")
def external_link_to_a_pipe(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["streams/params/more"] = h5py.ExternalLink(str(sentinel(path)), "/")


@hostile("H5-002", "h5")
def external_link_in_place_of_the_manifest(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file["manifest"]
        file["manifest"] = h5py.ExternalLink(str(sentinel(path)), "/manifest")


@hostile("H5-002", "h5")
def soft_links_in_a_circle(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["a"], file["b"] = h5py.SoftLink("/b"), h5py.SoftLink("/a")


@hostile("H5-003", "h5")
def hard_link_to_the_root(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["streams/params/again"] = file["/"]


@hostile("H5-001", "h5")
def external_storage(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[STEP]
        file.create_dataset(STEP, (4,), "i8", external=[(str(sentinel(path)), 0, 32)])


@hostile("H5-001", "h5")
def virtual_dataset(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[STEP]
        layout = h5py.VirtualLayout((4,), "i8")
        layout[:] = h5py.VirtualSource(str(sentinel(path)), "x", (4,))
        file.create_virtual_dataset(STEP, layout)


@hostile("ZR-001", "zarr")
def symbolic_link_for_a_chunk(path: Path) -> None:
    (path / LANE / "c.1.0").unlink()
    (path / LANE / "c.1.0").symlink_to(sentinel(path))


@hostile("ZR-001", "zarr")
def symbolic_link_for_a_group(path: Path) -> None:
    (path / "streams").rename(path.with_name("streams"))
    (path / "streams").symlink_to(path.with_name("streams"))


@hostile("CORE-010", "zarr")
def pipe_for_a_table(path: Path) -> None:
    (path / STEP / "c.0").unlink()
    os.mkfifo(path / STEP / "c.0")


@hostile("CORE-010", "zarr")
def folder_for_a_chunk(path: Path) -> None:
    (path / LANE / "c.1.0").unlink()
    (path / LANE / "c.1.0").mkdir()


@hostile("CORE-010", "h5")
def pipe_for_the_file(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


# Types


def _typed(name: str, dtype: Any) -> None:
    def trap(path: Path) -> None:
        with h5py.File(path, "r+") as file:
            del file[STEP]
            file.create_dataset(STEP, (4,), dtype, chunks=(4,), maxshape=(None,))

    trap.__name__ = name
    hostile("DT-002", "h5")(trap)


_typed("object_references", h5py.ref_dtype)
_typed("region_references", h5py.regionref_dtype)
_typed("text_of_any_length", h5py.string_dtype())
_typed("arrays_of_any_length", h5py.vlen_dtype(np.int64))
_typed("opaque_bytes", h5py.opaque_dtype(np.dtype("V8")))
_typed("compounds", np.dtype([("a", "<i4"), ("b", "<i4")]))
_typed("steps_that_can_be_nan", np.dtype("<f8"))


@hostile("H5-005", "h5")
def committed_type_of_a_lane(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file["kind"] = np.dtype("<f4")


@hostile("H5-012", "h5")
def attribute_of_any_length(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["requires"] = np.array(["x"], h5py.string_dtype())


# Filters and codecs


@hostile("H5-006", "h5")
def filter_of_a_plugin(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        old = file[LANE]
        shape, chunks, limits = old.shape, old.chunks, old.maxshape
        del file[LANE]
        lane = file.create_dataset(
            LANE,
            shape,
            "<f4",
            chunks=chunks,
            maxshape=limits,
            compression=_PLUGIN_FILTER,
            allow_unknown_filter=True,
        )
        lane.attrs["dtype"] = np.bytes_("float32")
        for row in range(shape[0]):
            lane.id.write_direct_chunk((row, 0), bytes(8))


@hostile("ZR-007", "zarr")
def codec_that_runs_code(path: Path) -> None:
    edit(path, LANE, lambda d: d.update(codecs=[{"name": "numcodecs.pickle"}]))


# Shapes, offsets and names


def _stated(name: str, rule: str, change: Callable[[dict[str, Any]], object]) -> None:
    def trap(path: Path) -> None:
        restate(path, change)

    trap.__name__ = name
    hostile(rule)(trap)


def _w(document: dict[str, Any]) -> dict[str, Any]:
    return next(t for t in document["streams"][0]["tensors"] if t["name"] == "w")


_stated("shape_of_2_to_the_63", "STR-005", lambda d: _w(d).update(shape=[2**63 - 1]))
_stated("shape_beyond_any_integer", "STR-005", lambda d: _w(d).update(shape=[2**70]))
_stated("many_dimensions", "STR-005", lambda d: _w(d).update(shape=[1] * 33))
_stated(
    "more_columns_than_there_are",
    "CORE-007",
    lambda d: (
        _w(d).update(shape=[2**20], first_row=0)
        or [t.update(offset=2**20 + o) for t, o in zip(_rest(d), (0, 3), strict=False)]
    ),
)
_stated("overlapping_columns", "STR-006", lambda d: _rest(d)[0].update(offset=39))
_stated("columns_past_the_end", "STR-006", lambda d: _rest(d)[0].update(offset=2**40))
_stated("one_name_twice", "STR-004", lambda d: _rest(d)[0].update(name="w"))
_stated("nul_in_a_name", "STR-003", lambda d: _w(d).update(name="w\0"))
_stated("escape_in_a_name", "STR-003", lambda d: _w(d).update(name="\x1b]0;owned\x07"))
_stated("direction_override_in_a_name", "STR-003", lambda d: _w(d).update(name="w\u202egnp.exe"))
_stated("stream_that_climbs", "STR-001", lambda d: d["streams"][0].update(name="optimizer/.."))
_stated("stream_with_an_absolute_path", "STR-001", lambda d: d["streams"][0].update(name="/etc"))


def _rest(document: dict[str, Any]) -> list[dict[str, Any]]:
    tensors = document["streams"][0]["tensors"]
    return [t for t in tensors if t["dtype"] == "float32" and t["name"] != "w"]


@hostile("SUM-002")
def columns_beyond_all_bytes(path: Path) -> None:
    columns = 2**40

    def widen(document: dict[str, Any]) -> None:
        next(t for t in _rest(document) if t["name"] == "late").update(shape=[columns])

    restate(path, widen, last=True)
    if path.is_dir():
        edit(path, LANE, lambda d: d.update(shape=[4, 43 + columns]))
    else:
        with h5py.File(path, "r+") as file:
            file[LANE + ".joined"].resize(columns, axis=1)


@hostile("CORE-009")
def rows_beyond_all_bytes(path: Path) -> None:
    if path.is_dir():
        edit(path, "commits", lambda d: d.update(shape=[4, 8 + 2**40]))
    else:
        with h5py.File(path, "r+") as file:
            file["commits"].resize(2**62, axis=0)


@hostile("SUM-002", "h5")
def commit_of_2_to_the_48_rows(path: Path) -> None:
    recommit(path, lambda table: table[-1].__setitem__(5, 2**48))


HOSTILE["commit_of_2_to_the_48_rows", "zarr"] = ("COM-002", commit_of_2_to_the_48_rows)


@hostile("CORE-011")
def manifest_of_2_to_the_40_bytes(path: Path) -> None:
    recommit(path, lambda table: table[-1].__setitem__(3, 2**40))


@hostile("ZR-002", "zarr")
def array_of_2_to_the_63_rows(path: Path) -> None:
    edit(path, LANE, lambda d: d.update(shape=[2**63, 48]))


@hostile("CORE-009", "zarr")
def table_that_is_one_hole(path: Path) -> None:
    edit(path, STEP, lambda d: d["chunk_grid"]["configuration"].update(chunk_shape=[2**24]))
    with (path / STEP / "c.0").open("r+b") as file:
        file.truncate(8 * 2**24)


# JSON


@hostile("CORE-013")
def deep_manifest(path: Path) -> None:
    deep = b'{"metadata":{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}}\n"
    rewrite(path, lambda lines: [*lines[:-1], deep])


@hostile("ZR-002", "zarr")
def deep_document(path: Path) -> None:
    (path / LANE / "zarr.json").write_text('{"attributes":' + "[" * 10**6)


@hostile("ZR-002", "zarr")
def huge_document(path: Path) -> None:
    with (path / LANE / "zarr.json").open("r+b") as file:
        file.truncate(2**33)


@hostile("CORE-002", "zarr")
def deep_root(path: Path) -> None:
    (path / "zarr.json").write_text("[" * 10**6)


# Chunks that inflate, and indexes that mislead


def packed(compression: str, size: int) -> bytes:
    """So many zero bytes, compressed as small as can be."""
    if compression == "zstd":
        from numcodecs.zstd import Zstd

        return bytes(Zstd(19).encode(np.zeros(size, np.uint8)))
    # One MiB that refers to nothing before it, again and again: deflating all takes seconds.
    packer, (count, rest) = zlib.compressobj(9, wbits=-15), divmod(size, 2**20)
    mebibyte = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    body = mebibyte * count + packer.compress(bytes(rest)) + packer.flush()
    if compression == "zlib":
        return b"\x78\xda" + body + struct.pack(">I", size % 65521 << 16 | 1)
    crc = zlib.crc32(bytes(rest))
    for _ in range(count):
        crc = zlib.crc32(bytes(2**20), crc)
    head = b"\x1f\x8b\x08\0\0\0\0\0\2\xff"
    return head + body + struct.pack("<II", crc, size % 2**32)


def lie_about_size(frame: bytes, size: int) -> bytes:
    """The same zstd frame, declaring another size in four bytes."""
    assert frame[4] >> 6 == 2  # the size takes four bytes
    start = 5 if frame[4] & 0x20 else 6
    return frame[:start] + struct.pack("<I", size) + frame[start + 4 :]


def bomb(path: Path, compression: str, *, lying: bool = False) -> None:
    """Put a chunk that inflates to 600 MB in place of one of a few bytes."""
    if path.is_dir():
        payload = packed(compression, BOMB)
        width = json.loads((path / LANE / "zarr.json").read_bytes())
        columns = width["codecs"][0]["configuration"]["chunk_shape"][1]
        payload = lie_about_size(payload, 4 * columns) if lying else payload
        chunk = payload + struct.pack("<I", crc32c(payload))
        index = struct.pack("<QQ", 0, len(chunk))
        index += struct.pack("<I", crc32c(index))
        (path / LANE / "c.1.0").write_bytes(chunk + index)
        return
    deflated = compression == "gzip"
    payload = packed("zlib", BOMB_OF_64_KIB) if deflated else packed(compression, BOMB)
    with h5py.File(path, "r+") as file:
        lane = file[LANE]
        payload = lie_about_size(payload, 4 * lane.chunks[1]) if lying else payload
        checksum = struct.pack("<I", fletcher32(np.frombuffer(payload, np.uint8)))
        lane.id.write_direct_chunk((1, 0), payload + checksum)


@hostile("SUM-003", "zarr")
def chunk_outside_its_shard(path: Path) -> None:
    _index(path, 2**40, 196)


@hostile("SUM-003", "zarr")
def chunk_of_a_negative_size(path: Path) -> None:
    _index(path, 0, 2**64 - 8)


@hostile("SUM-002", "zarr")
def chunk_said_to_be_missing(path: Path) -> None:
    _index(path, 2**64 - 1, 2**64 - 1)


def _index(path: Path, offset: int, size: int) -> None:
    shard = path / LANE / "c.1.0"
    data = shard.read_bytes()[:-20]
    index = struct.pack("<QQ", offset, size)
    shard.write_bytes(data + index + struct.pack("<I", crc32c(index)))


# Many


@hostile("H5-004", "h5")
def very_deep_groups(path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.create_group("/".join("g" * 2000))
