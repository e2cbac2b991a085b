"""Writing an `Image` as a Zarr v3 folder with plain file operations: section 7, Zarr."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
from numcodecs.blosc import Blosc
from numcodecs.zstd import Zstd

from tests.conformance.vectors.image import Image, Lane, Style, crc, item
from tests.conformance.vectors.runs import ABSENT, Bits

_BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
_CRC = {"name": "crc32c"}
_COMPRESSORS: dict[str | None, list[dict[str, Any]]] = {
    None: [],
    "gzip": [{"name": "gzip", "configuration": {"level": 6}}],
    "blosc": [
        {
            "name": "blosc",
            "configuration": {"cname": "zstd", "clevel": 5, "shuffle": "shuffle", "blocksize": 0},
        }
    ],
    "zstd": [{"name": "zstd", "configuration": {"level": 3, "checksum": True}}],
}


def write(image: Image, path: Path) -> None:
    """Write every array and, last, the root's document."""
    path.mkdir()
    for key, table in image.tables.items():
        _write_table(path / key, key, table, image.style)
    for key, lane in image.lanes.items():
        _write_lane(path / key, lane, image.style)
    for key, other in image.others.items():
        _write_table(path / key, key, other, image.style)
    folders = {folder for key in _keys(image) for folder in list((path / key).parents)}
    for folder in folders:
        if folder != path and path in folder.parents:
            _put(folder / "zarr.json", {**_group(), "attributes": {}})
    if image.style.killed:
        (path / "commits/c.0.0.partial").write_bytes(b"half a chun")
        (path / "zarr.json.partial").write_bytes(b'{"zarr_format": 3, "node_ty')
        (path / "streams/params/float32/c.99.0.partial").write_bytes(b"")
    _put(path / "zarr.json", {**_group(), "attributes": image.attributes})


def array(data_type: str, shape: list[int], chunk: list[int], fill: object) -> dict[str, Any]:
    """``zarr.json`` of an array whose codecs are still those of a table."""
    return {
        **{"zarr_format": 3, "node_type": "array", "shape": shape, "data_type": data_type},
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": chunk}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
        **{"fill_value": fill, "codecs": [_BYTES], "attributes": {}},
    }


def shard(rows: Bits, width: int, chunks: int, compression: str | None) -> bytes:
    """One shard: the chunks that the columns of its rows reach, then the index."""
    data, index = b"", np.full((chunks, 2), 2**64 - 1, "<u8")
    for number in range(-(-rows.shape[1] // width)):
        chunk = rows[:, number * width : (number + 1) * width]
        chunk = np.pad(chunk, ((0, 0), (0, width - chunk.shape[1])))
        payload = compress(chunk.tobytes(), compression, chunk.itemsize)
        payload += crc(payload).to_bytes(4, "little")
        index[number] = len(data), len(payload)
        data += payload
    return data + index.tobytes() + crc(index.tobytes()).to_bytes(4, "little")


def compress(payload: bytes, compression: str | None, size: int = 1) -> bytes:
    """Compress a chunk of elements of this size; the same bytes each time."""
    if compression == "blosc":
        return bytes(Blosc("zstd", 5, Blosc.SHUFFLE).encode(np.frombuffer(payload, f"<u{size}")))
    if compression == "gzip":
        return gzip.compress(payload, 6, mtime=0)
    if compression == "zstd":
        return bytes(Zstd(level=3, checksum=True).encode(payload))
    return payload


def _write_table(folder: Path, key: str, table: np.ndarray, style: Style) -> None:
    folder.mkdir(parents=True)
    name, fill = np.dtype(table.dtype).name, 0
    height = 64 * style.table_rows if key == "manifest" else style.table_rows
    spare = 0
    if key == "scalars/value":
        name, fill, spare = "float64", hex(ABSENT), style.spare[1]
    shape = [len(table) + style.spare[0], *(n + spare for n in table.shape[1:])]
    chunk = [height, *(max(2, n) for n in table.shape[1:])]
    _put(folder / "zarr.json", array(name, shape, chunk, fill))
    empty = ABSENT if key == "scalars/value" else 0
    for number in range(-(-len(table) // height)):
        part = table[number * height : (number + 1) * height]
        whole = np.full(chunk, empty, table.dtype)
        whole[tuple(slice(0, n) for n in part.shape)] = part
        (folder / ("c." + ".".join([str(number), *"0" * (table.ndim - 1)]))).write_bytes(
            whole.tobytes()
        )


def _write_lane(folder: Path, lane: Lane, style: Style) -> None:
    folder.mkdir(parents=True)
    columns = style.width * style.shard
    most = max((len(row) for row in lane.rows), default=0)
    shape = [len(lane.rows) + style.spare[0], max(most, lane.at_creation) + style.spare[1]]
    native = lane.dtype.removeprefix("u") in {f"int{n}" for n in (8, 16, 32, 64)}
    native |= lane.dtype in {"float16", "float32", "float64"}
    name = lane.dtype if native else f"uint{8 * item(lane.dtype)}"
    bits = 8 * item(lane.dtype)
    fill = {"f": "NaN", "i": -(2 ** (bits - 1)), "u": 2**bits - 1}[name[0]]
    height = style.height
    document = array(name, shape, [height, columns], fill)
    packers = copy.deepcopy(_COMPRESSORS[style.compression])
    if style.compression == "blosc":
        packers[0]["configuration"]["typesize"] = item(lane.dtype)
    inner = {
        "chunk_shape": [height, style.width],
        "codecs": [_BYTES, *packers, _CRC],
        "index_codecs": [_BYTES, _CRC],
        "index_location": "end",
    }
    document["codecs"] = [{"name": "sharding_indexed", "configuration": inner}]
    document["attributes"] = {"dtype": lane.dtype}
    _put(folder / "zarr.json", document)
    for number in range(-(-len(lane.rows) // height)):
        rows = lane.rows[number * height : (number + 1) * height]
        block = np.zeros((height, max(map(len, rows))), f"<u{item(lane.dtype)}")
        for target, row in zip(block, rows, strict=False):
            target[: len(row)] = row
        for place, first in enumerate(range(0, block.shape[1], columns)):
            part = block[:, first : first + columns]
            data = shard(part, style.width, style.shard, style.compression)
            (folder / f"c.{number}.{place}").write_bytes(data)


def _keys(image: Image) -> list[str]:
    return [*image.tables, *image.lanes, *image.others]


def _group() -> dict[str, Any]:
    return {"zarr_format": 3, "node_type": "group"}


def _put(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=1), encoding="utf-8")
