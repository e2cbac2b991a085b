"""The ``zarr.json`` documents of a trajectory: written in one form, read in any allowed one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from trajfile.containers.identity import Attributes
from trajfile.containers.shards import ShardLayout
from trajfile.containers.store import MAX_CHUNK_COLUMNS, ArraySpec
from trajfile.dtypes import EXTENDED, ITEM_SIZES

#: A shard holds at most about this many bytes; a row beyond takes several.
SHARD_BYTES = 64 * 2**20

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_KNOWN_CODECS = {"sharding_indexed", "bytes", "gzip", "zstd", "crc32c"}
_COMPRESSORS: dict[str | None, list[dict[str, Any]]] = {
    None: [],
    "gzip": [{"name": "gzip", "configuration": {"level": 4}}],
    "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": False}}],
}


class _Named(msgspec.Struct):
    name: str
    configuration: dict[str, Any] = {}


class GroupDocument(msgspec.Struct):
    """``zarr.json`` of a group."""

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}


class ArrayDocument(msgspec.Struct):
    """``zarr.json`` of an array, as far as a reader needs it."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: list[int]
    data_type: str
    chunk_grid: _Named
    chunk_key_encoding: _Named
    codecs: list[_Named]
    storage_transformers: list[_Named] = []

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of what one file holds."""
        return tuple(int(n) for n in self.chunk_grid.configuration["chunk_shape"])


def group_document(attributes: Attributes | None = None) -> dict[str, Any]:
    """``zarr.json`` of a group with these attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def array_document(spec: ArraySpec, compression: str | None) -> dict[str, Any]:
    """``zarr.json`` of a new, empty array."""
    codecs: list[dict[str, Any]] = [_BYTES]
    chunk = spec.chunk
    if spec.lane:
        inner = [_BYTES, *_COMPRESSORS[compression], _CRC]
        chunk = (1, _shard_columns(spec))
        configuration = {
            "chunk_shape": spec.chunk,
            "codecs": inner,
            "index_codecs": [_BYTES, _CRC],
            "index_location": "end",
        }
        codecs = [{"name": "sharding_indexed", "configuration": configuration}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": (0,) if spec.columns is None else (0, spec.columns),
        "data_type": zarr_type(spec.dtype),
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        "fill_value": _fill_value(spec),
        "codecs": codecs,
        "attributes": {"dtype": spec.dtype} if spec.lane else {},
    }


def zarr_type(dtype: str) -> str:
    """Zarr's name of the type that holds a dtype; bits of those that Zarr does not know."""
    return f"uint{8 * ITEM_SIZES[dtype]}" if dtype in EXTENDED else dtype


class UnknownCodecError(ValueError):
    """A codec that a safe reader does not run."""


def check_array(document: ArrayDocument, spec: ArraySpec) -> ShardLayout | None:
    """Check an array's document against the layout.

    Args:
        document: As found.
        spec: As it must be; more columns are allowed, and other chunk sizes within the limits.

    Returns:
        How its shards are cut, if it is a lane.

    Raises:
        ValueError: Saying what is wrong; an `UnknownCodecError` if it is a codec.
    """
    if document.data_type != zarr_type(spec.dtype):
        raise ValueError(f"holds {document.data_type} instead of {spec.dtype}")
    shape = document.shape
    if len(shape) != (1 if spec.columns is None else 2) or min(shape) < 0:
        raise ValueError(f"has shape {shape}")
    if spec.columns is not None and shape[1] < spec.columns:
        raise ValueError(f"has fewer than {spec.columns} columns")
    chunk = document.chunk_shape
    if len(chunk) != len(shape) or min(chunk) < 1 or document.chunk_grid.name != "regular":
        raise ValueError(f"has chunks {chunk} on a {document.chunk_grid.name!r} grid")
    separator = document.chunk_key_encoding.configuration.get("separator", "/")
    if document.chunk_key_encoding.name != "default" or separator != ".":
        raise ValueError("has chunk keys other than c.<row>.<column>")
    if document.storage_transformers:
        raise ValueError("has storage transformers")
    if spec.lane:
        return _shard_layout(document, spec)
    _check_codecs(document.codecs, ["bytes"])
    if chunk[0] * (chunk[1] if len(chunk) > 1 else 1) > 2**24:
        raise ValueError(f"has chunks {chunk}, above the limit of 2^24 elements")
    return None


def _shard_layout(document: ArrayDocument, spec: ArraySpec) -> ShardLayout:
    _check_codecs(document.codecs, ["sharding_indexed"])
    settings: Mapping[str, Any] = document.codecs[0].configuration
    inner = msgspec.convert(settings["codecs"], list[_Named])
    names = [codec.name for codec in inner]
    compression = names[1] if len(names) == 3 else None
    if compression not in {None, "zstd", "gzip"}:
        raise UnknownCodecError(f"passes through the codec {compression!r}")
    _check_codecs(inner, ["bytes", *([compression] if compression else []), "crc32c"])
    _check_codecs(msgspec.convert(settings["index_codecs"], list[_Named]), ["bytes", "crc32c"])
    if settings.get("index_location", "end") != "end":
        raise ValueError("has its shard index elsewhere than at the end")
    rows, width = (int(n) for n in settings["chunk_shape"])
    outer_rows, columns = document.chunk_shape
    if not (rows == outer_rows == 1 <= width <= MAX_CHUNK_COLUMNS and columns % width == 0):
        raise ValueError(f"has chunks of {rows} x {width} in shards of {outer_rows} x {columns}")
    if columns > max(width, 2**26):
        raise ValueError(f"has shards of {columns} columns, above the limit of 2^26")
    return ShardLayout(
        width,
        columns,
        ITEM_SIZES[spec.dtype],
        "zstd" if compression == "zstd" else "gzip" if compression == "gzip" else None,
    )


def _check_codecs(found: list[_Named], names: list[str]) -> None:
    unknown = [codec.name for codec in found if codec.name not in _KNOWN_CODECS]
    if unknown:
        raise UnknownCodecError(f"passes through the codec {unknown[0]!r}")
    if [codec.name for codec in found] != names:
        raise ValueError(f"has codecs {[codec.name for codec in found]} instead of {names}")
    if any(
        c.name == "bytes" and c.configuration.get("endian", "little") != "little" for c in found
    ):
        raise ValueError("is not little-endian")


def _shard_columns(spec: ArraySpec) -> int:
    width = spec.chunk[1]
    chunks = max(1, -(-(spec.columns or 0) // width))
    return width * min(chunks, max(1, SHARD_BYTES // (width * ITEM_SIZES[spec.dtype])))


def _fill_value(spec: ArraySpec) -> int | str:
    """What a plain Zarr reader shows where nothing was written: never a plausible number."""
    name = zarr_type(spec.dtype)
    if spec.fill:
        return hex(spec.fill)
    if not spec.lane:
        return 0
    if name.startswith("float"):
        return "NaN"
    bits = 8 * ITEM_SIZES[spec.dtype]
    highest: int = 2**bits - 1
    return highest if name.startswith("u") else -(highest // 2) - 1
