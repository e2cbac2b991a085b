"""The ``zarr.json`` documents of a trajectory: written in one form, read in any allowed one."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

import msgspec
import numpy as np

from trajfile.containers.identity import Attributes
from trajfile.containers.packing import BLOSC_LEVEL, GZIP_LEVEL, zstd_level
from trajfile.containers.shards import ShardLayout
from trajfile.containers.store import MAX_CHUNK_COLUMNS, ArraySpec
from trajfile.dtypes import EXTENDED, ITEM_SIZES

#: A shard holds at most about this many bytes; a row beyond takes several.
SHARD_BYTES = 64 * 2**20

_MAX_TABLE_CHUNK = 2**24

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_KNOWN_CODECS = {"sharding_indexed", "bytes", "gzip", "zstd", "crc32c"}
_PACKERS: dict[str, Literal["zstd", "gzip", "blosc"]] = {
    "zstd": "zstd",
    "gzip": "gzip",
    "blosc": "blosc",
}
_COMPRESSORS: dict[str | None, list[dict[str, Any]]] = {
    None: [],
    "gzip": [{"name": "gzip", "configuration": {"level": GZIP_LEVEL}}],
    "zstd": [
        {
            "name": "zstd",
            "configuration": {"level": zstd_level(search=True), "checksum": False},
        }
    ],
}


_Length = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_ChunkShape = tuple[Annotated[int, msgspec.Meta(ge=1, le=2**62)], ...]


class _Named(msgspec.Struct):
    name: str
    configuration: dict[str, Any] = {}


class _Sharding(msgspec.Struct):
    chunk_shape: _ChunkShape
    codecs: list[_Named]
    index_codecs: list[_Named]
    index_location: str = "end"


class GroupDocument(msgspec.Struct):
    """``zarr.json`` of a group."""

    zarr_format: Literal[3]
    node_type: Literal["group"]
    attributes: dict[str, Any] = {}


class ArrayDocument(msgspec.Struct):
    """``zarr.json`` of an array, as far as a reader needs it."""

    zarr_format: Literal[3]
    node_type: Literal["array"]
    shape: list[_Length]
    data_type: str
    chunk_grid: _Named
    chunk_key_encoding: _Named
    codecs: list[_Named]
    fill_value: Any
    attributes: dict[str, Any] = {}
    storage_transformers: list[_Named] = []

    @property
    def chunk_shape(self) -> tuple[int, ...]:
        """Shape of what one file holds; raises `LayoutError` if none is stated."""
        try:
            return msgspec.convert(self.chunk_grid.configuration.get("chunk_shape"), _ChunkShape)
        except msgspec.ValidationError as error:
            raise LayoutError(f"has a chunk grid that is not valid: {error}", "ZR-004") from error


def group_document(attributes: Attributes | None = None) -> dict[str, Any]:
    """``zarr.json`` of a group with these attributes."""
    return {"zarr_format": 3, "node_type": "group", "attributes": dict(attributes or {})}


def array_document(
    spec: ArraySpec, compression: str | None, *, archive: bool = False
) -> dict[str, Any]:
    """``zarr.json`` of a new, empty array."""
    codecs: list[dict[str, Any]] = [_BYTES]
    chunk = spec.chunk
    if spec.lane:
        compressors = _COMPRESSORS[compression]
        if archive and compression == "zstd":
            compressors = [_shuffled(ITEM_SIZES[spec.dtype], math.prod(spec.chunk))]
        inner = [_BYTES, *compressors, _CRC]
        chunk = (spec.chunk[0], _shard_columns(spec))
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


def _shuffled(item: int, elements: int) -> dict[str, Any]:
    """Zstd over the bytes of elements taken apart: what Zarr has for it is Blosc."""
    settings = {"cname": "zstd", "clevel": BLOSC_LEVEL, "shuffle": "shuffle"}
    sizes = {"typesize": item, "blocksize": item * elements}
    return {"name": "blosc", "configuration": {**settings, **sizes}}


def zarr_type(dtype: str) -> str:
    """Zarr's name of the type that holds a dtype; bits of those that Zarr does not know."""
    return f"uint{8 * ITEM_SIZES[dtype]}" if dtype in EXTENDED else dtype


class LayoutError(ValueError):
    """An array that is not as the format has it; ``rule`` is the broken rule's id."""

    def __init__(self, message: str, rule: str):
        super().__init__(message)
        self.rule = rule


def check_array(
    document: ArrayDocument, spec: ArraySpec, *, archive: bool = False
) -> ShardLayout | None:
    """Check an array's document against the layout.

    Args:
        document: As found.
        spec: As it must be; more columns are allowed, and other chunk sizes within the limits.
        archive: Whether chunks may span several rows.

    Returns:
        How its shards are cut, if it is a lane.

    Raises:
        LayoutError: Saying what is wrong.
    """
    if document.data_type != zarr_type(spec.dtype):
        raise LayoutError(f"holds {document.data_type} instead of {spec.dtype}", "DT-002")
    shape = document.shape
    if len(shape) != (1 if spec.columns is None else 2):
        raise LayoutError(f"has shape {shape}", "CORE-007")
    if spec.columns is not None and shape[1] < spec.columns:
        raise LayoutError(f"has fewer than {spec.columns} columns", "CORE-007")
    chunk = document.chunk_shape
    if len(chunk) != len(shape) or document.chunk_grid.name != "regular":
        what = f"has chunks {list(chunk)} on a {document.chunk_grid.name!r} grid"
        raise LayoutError(what, "ZR-004")
    separator = document.chunk_key_encoding.configuration.get("separator", "/")
    if document.chunk_key_encoding.name != "default" or separator != ".":
        raise LayoutError("has chunk keys other than c.<row>.<column>", "ZR-005")
    if document.storage_transformers:
        raise LayoutError("has storage transformers", "ZR-006")
    if spec.lane and document.attributes.get("dtype") != spec.dtype:
        raise LayoutError(f"lacks the attribute dtype={spec.dtype!r}", "DT-003")
    if not _same_fill(document.fill_value, _fill_value(spec)):
        raise LayoutError(f"has the fill value {str(document.fill_value)[:40]!r}", "ZR-012")
    if spec.lane:
        return _shard_layout(document, spec, archive)
    _check_codecs(document.codecs, ["bytes"], "ZR-010")
    if math.prod(chunk) > _MAX_TABLE_CHUNK:
        what = f"has chunks {list(chunk)}, above the limit of 2^24 elements"
        raise LayoutError(what, "ZR-011")
    return None


def _shard_layout(document: ArrayDocument, spec: ArraySpec, archive: bool) -> ShardLayout:
    _check_codecs(document.codecs, ["sharding_indexed"], "ZR-008")
    try:
        settings = msgspec.convert(document.codecs[0].configuration, _Sharding)
    except msgspec.ValidationError as error:
        raise LayoutError(f"has a sharding that is not valid: {error}", "ZR-008") from error
    names = [codec.name for codec in settings.codecs]
    compression = names[1] if len(names) == 3 else None
    packers = [compression] if compression in {"zstd", "gzip"} else []
    if archive and compression == "blosc":
        packers = [compression]
    _check_codecs(settings.codecs, ["bytes", *packers, "crc32c"], "ZR-008")
    _check_codecs(settings.index_codecs, ["bytes", "crc32c"], "ZR-008")
    if settings.index_location != "end":
        raise LayoutError("has its shard index elsewhere than at the end", "ZR-008")
    inner, outer = list(settings.chunk_shape), list(document.chunk_shape)
    whole = len(inner) == 2 and inner[0] == outer[0] and outer[1] % inner[1] == 0
    if not whole or (inner[0] > 1 and not archive) or math.prod(inner) > MAX_CHUNK_COLUMNS:
        raise LayoutError(f"has chunks {inner} in shards {outer}", "ZR-009")
    if outer[1] > max(inner[1], 2**26):
        raise LayoutError(f"has shards {outer}, above the limit of 2^26 columns", "ZR-009")
    return ShardLayout(
        inner[1],
        outer[1],
        ITEM_SIZES[spec.dtype],
        None if compression is None else _PACKERS[compression],
        inner[0],
    )


def _check_codecs(found: list[_Named], names: list[str], rule: str) -> None:
    known = _KNOWN_CODECS.union(names)
    unknown = [codec.name for codec in found if codec.name not in known]
    if unknown:
        raise LayoutError(f"passes through the codec {unknown[0][:80]!r}", "ZR-007")
    if [codec.name for codec in found] != names:
        raise LayoutError(f"has codecs {[c.name for c in found][:8]} instead of {names}", rule)
    if any(
        c.name == "bytes" and c.configuration.get("endian", "little") != "little" for c in found
    ):
        raise LayoutError("is not little-endian", rule)


def _same_fill(found: object, due: int | str) -> bool:
    """Whether a fill value says what is due; libraries spell the same NaN in several ways."""
    if due != "NaN" or not isinstance(found, str) or not found.startswith("0x"):
        return (type(found) is type(due) and found == due) or found == 0.0 == due
    digits = found[2:]
    if len(digits) not in {4, 8, 16} or not set(digits.lower()) <= set("0123456789abcdef"):
        return False
    bits = np.frombuffer(
        int(digits, 16).to_bytes(len(digits) // 2, "little"), f"<f{len(digits) // 2}"
    )
    return bool(np.isnan(bits[0]))


def _shard_columns(spec: ArraySpec) -> int:
    width = spec.chunk[1]
    chunks = max(1, -(-(spec.columns or 0) // width))
    chunk_bytes = spec.chunk[0] * width * ITEM_SIZES[spec.dtype]
    return width * min(chunks, max(1, SHARD_BYTES // chunk_bytes))


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
