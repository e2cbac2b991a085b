"""Safetensors: a header of bounded size, then the tensors' bytes, without holes or overlaps.

The header is read here and not by the library: what is wanted of it are places in the file, which
the library does not tell.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from trajfile.dtypes import ITEM_SIZES
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import File, Files, known
from trajfile.importers.names import parameters
from trajfile.importers.places import Place, Span
from trajfile.importers.refusal import half_written, leads_out, too_large, unknown_layout

#: safetensors' name of a dtype -> ours; other dtypes (bool, complex, sub-byte) are left out.
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
}
_MAX_HEADER = 100_000_000  # the library's own limit
_MAX_INDEX = 2**28
_INDEX_SUFFIX = ".index.json"


class _Entry(msgspec.Struct):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


class _Index(msgspec.Struct):
    weight_map: dict[str, str]


def read_safetensors(path: Path, root: Path, files: Files) -> Checkpoint:
    """A checkpoint in one file.

    Args:
        path: The file.
        root: The folder that it must lie in.
        files: Reads it.

    Returns:
        Its tensors' places.
    """
    return read_file(known(path, root), files)


def read_file(file: File, files: Files) -> Checkpoint:
    """A checkpoint in one file that was looked at already; see `read_safetensors`."""
    places, stated = read_header(file, files)
    params, left_out = parameters(places)
    return Checkpoint(
        path=file.path,
        params=params,
        files=(file,),
        kind="safetensors",
        step=_count(stated, "step", "global_step", "iteration"),
        epoch=_count(stated, "epoch"),
        left_out=left_out,
    )


def read_sharded(index: Path, root: Path, files: Files) -> dict[str, Place]:
    """The tensors of a checkpoint whose index says which shard holds which tensor.

    Args:
        index: The file ``*.safetensors.index.json``.
        root: The folder that all must lie in.
        files: Reads them.

    Returns:
        The tensors' places by name, in the order of the index.
    """
    shards: dict[str, dict[str, Place]] = {}
    found: dict[str, Place] = {}
    for name, shard in weight_map(index, root, files).items():
        if shard not in shards:
            file = shard_of(index, shard, root)
            shards[shard] = read_header(file, files)[0]
        if name not in shards[shard]:
            half_written(
                index, f"it says that {shard} holds {name[:100]!r}, which that shard does not"
            )
        found[name] = shards[shard][name]
    return found


def weight_map(index: Path, root: Path, files: Files) -> dict[str, str]:
    """Which shard holds which tensor, as an index file says."""
    file = known(index, root)
    data = files.bytes(file, 0, file.size, _MAX_INDEX)
    try:
        return msgspec.json.decode(data, type=_Index).weight_map
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        half_written(index, f"it is not an index of shards ({error})", error)


def shard_of(index: Path, shard: str, root: Path) -> File:
    """The file of a shard, which must lie beside its index."""
    if not shard or Path(shard).name != shard or "\\" in shard or "\0" in shard:
        leads_out(index, f"names the shard {shard[:100]!r}, a path to elsewhere")
    try:
        return known(index.parent / shard, root)
    except FileNotFoundError:
        half_written(index, f"the shard {shard} is missing")


def read_header(file: File, files: Files) -> tuple[dict[str, Place], dict[str, str]]:
    """Where the tensors of a file lie.

    Args:
        file: The file.
        files: Reads it.

    Returns:
        The places in the order of the bytes, and the free text of ``__metadata__``.
    """
    path = file.path
    if file.size < 8:
        half_written(path, f"{file.size} bytes do not hold a safetensors header")
    length = int.from_bytes(files.bytes(file, 0, 8), "little")
    if length > _MAX_HEADER and length > file.size:
        unknown_layout(path, "is not a safetensors file", "check what wrote it")
    if length > _MAX_HEADER:
        too_large(path, f"has a header of {length} bytes")
    if 8 + length > file.size:
        half_written(path, f"its header ends at byte {8 + length}, the file at {file.size}")
    try:
        raw = msgspec.json.decode(
            files.bytes(file, 8, length, _MAX_HEADER), type=dict[str, dict[str, Any]]
        )
        stated = msgspec.convert(raw.pop("__metadata__", {}), dict[str, str])
        entries = msgspec.convert(raw, dict[str, _Entry])
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as e:
        half_written(path, f"its safetensors header is not valid ({e})", e)
    places: dict[str, Place] = {}
    at = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        begin, end = entry.data_offsets
        if begin != at or end < begin:
            half_written(
                path, f"{name[:100]!r} lies at bytes {begin} to {end}, expected to begin at {at}"
            )
        at = end
        dtype = _DTYPES.get(entry.dtype)
        if dtype is None:
            places[name] = Span(entry.dtype, entry.shape, file, 8 + length + begin)
            continue
        expected = math.prod(entry.shape) * ITEM_SIZES[dtype]
        if min(entry.shape, default=0) < 0 or end - begin != expected:
            half_written(path, f"{name[:100]!r} has shape {entry.shape}, but {end - begin} bytes")
        places[name] = Span(dtype, entry.shape, file, 8 + length + begin)
    if 8 + length + at != file.size:
        half_written(path, f"its tensors end at byte {8 + length + at}, the file at {file.size}")
    return places, stated


def _count(stated: dict[str, str], *keys: str) -> int | None:
    for key in keys:
        text = stated.get(key, "")
        if text.isascii() and text.isdigit() and len(text) < 19:
            return int(text)
    return None
