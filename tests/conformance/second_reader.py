"""A second reader of trajectories, written from spec/format.md alone: not a line of trajfile.

It reads whole files into a plain answer, and refuses what every reader must refuse. It is an
adapter of spec/vectors/run.py: paths on standard input, one line of JSON for each on standard
output. NumPy, h5py and, for zstd, numcodecs are all it needs.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import os
import re
import stat
import struct
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np

ABSENT, NOT_YET, NEVER = 0x7FF8000074726A66, 2**48, 2**64 - 1
STREAM = "params|gradients|gradient_samples|updates|optimizer/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
SIZES = {f"{kind}{8 * n}": n for kind in ("int", "uint") for n in (1, 2, 4, 8)}
SIZES |= {"float16": 2, "float32": 4, "float64": 8}
ONE_BYTE = (
    *("float8_e5m2", "float8_e4m3fn", "float8_e3m4", "float8_e4m3", "float8_e4m3b11fnuz"),
    *("float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu", "float6_e2m3fn", "float6_e3m2fn"),
    *("float4_e2m1fn", "int2", "int4", "uint2", "uint4"),
)
AS_BITS = {"bfloat16": 2, **dict.fromkeys(ONE_BYTE, 1)}
FLOATS = {"bfloat16": (15, 7, 8, 0, 7, 127), "float8_e5m2": (7, 2, 5, 0, 2, 15)}
CODECS = {"sharding_indexed", "bytes", "gzip", "zstd", "crc32c"}
UUID = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"
TABLE = [0]
for _byte in range(1, 256):
    for _ in range(8):
        _byte = _byte >> 1 ^ (0x82F63B78 if _byte & 1 else 0)
    TABLE.append(_byte)
#: Bytes of a piece of much data.
PIECE = 1024


class RefusedError(Exception):
    """Not to be read; its text is the id of the rule that is broken."""


def passed_over(values: np.ndarray, pieces: np.ndarray) -> np.ndarray:
    """Remainders, uint32, each after the bytes of its piece, shape (values, bytes)."""
    table = np.array(TABLE, np.uint32)
    for bytes_ in pieces.T:
        values = values >> 8 ^ table[(values ^ bytes_) & 255]
    return values


def crc32c(data: bytes) -> int:
    """CRC-32C, a byte at a time; of much data a byte of each of its pieces at a time."""
    if len(data) < 16 * PIECE:
        value = 0xFFFFFFFF
        for byte in data:
            value = value >> 8 ^ TABLE[(value ^ byte) & 255]
        return value ^ 0xFFFFFFFF
    # To begin with ones is to begin with zeros and the first four bytes inverted, and then zeros
    # before the data change nothing.
    whole = bytes(-len(data) % PIECE) + bytes(byte ^ 255 for byte in data[:4]) + data[4:]
    pieces = np.frombuffer(whole, np.uint8).reshape(-1, PIECE)
    value = 0
    for piece in passed_over(np.zeros(len(pieces), np.uint32), pieces).tolist():
        # It is linear: what came before, passed over as many zeros, and the piece by itself.
        moved = (OVER_ZEROS[k][value >> 8 * k & 255] for k in range(4))
        value = functools.reduce(operator.xor, moved, piece)
    return value ^ 0xFFFFFFFF


def fletcher32(data: bytes) -> int:
    """As HDF5 computes it, over big-endian words of 16 bits."""
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.uint64)
    low = int(words.sum())
    high = int((words * np.arange(len(words), 0, -1, dtype=np.uint64)).sum())  # a sum of such sums
    low, high = ((n - 1) % 65535 + 1 if n else 0 for n in (low, high))
    return high << 16 | low


#: By the place of a byte in a remainder, and the byte: what becomes of it over a piece of zeros.
OVER_ZEROS = [
    passed_over(
        np.arange(256, dtype=np.uint32) << np.uint32(8 * k), np.zeros((256, PIECE), np.uint8)
    ).tolist()
    for k in range(4)
]


def demand(holds: object, rule: str) -> None:
    """Refuse unless it holds."""
    if not holds:
        raise RefusedError(rule)


def inflate(data: bytes, codec: str | None, size: int) -> bytes:
    """Decompress to exactly so many bytes and never more."""
    if codec == "zstd":
        from numcodecs.zstd import Zstd

        single, wide = data[4] & 32, data[4] >> 6  # RFC 8878: what the frame says of its size
        start = (5 if single else 6) + (0, 1, 2, 4)[data[4] & 3]
        length = (1 if single else 0, 2, 4, 8)[wide]
        stated = int.from_bytes(data[start : start + length], "little") + 256 * (wide == 1)
        demand(length and stated == size, "SUM-003")
        data = Zstd().decode(data)
    elif codec == "blosc":
        from numcodecs.blosc import Blosc

        sizes = [int.from_bytes(data[at : at + 4], "little") for at in (4, 12)]
        demand(len(data) >= 16 and sizes == [size, len(data)], "SUM-003")
        data = Blosc().decode(data)
    elif codec is not None:
        data = zlib.decompressobj(31 if codec == "gzip" else 15).decompress(data, size + 1)
    demand(len(data) == size, "SUM-003")
    return data


def regular(path: Path, rule: str) -> bytes:
    """The bytes of a regular file that is not a link; None of it is read before that is known."""
    demand(not path.is_symlink(), "ZR-001")
    demand(path.exists(), rule)
    demand(stat.S_ISREG(path.stat().st_mode), "CORE-010")
    return path.read_bytes()


class Hdf5:
    """The arrays of an HDF5 file."""

    archive = False

    def __init__(self, path: Path):
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as raw:
            demand(stat.S_ISREG(os.fstat(raw.fileno()).st_mode), "CORE-010")
            head, length = raw.read(48), os.fstat(raw.fileno()).st_size
        demand(head[:8] == b"\x89HDF\r\n\x1a\n", "CORE-002")
        demand(len(head) == 48, "CORE-006")
        demand(head[8] < 2 or struct.unpack_from("<Q", head, 28)[0] <= length, "CORE-006")
        demand(head[11] & 5 != 1 or head[8] < 2, "CORE-012")
        self.file = h5py.File(path, "r", swmr=head[8] >= 2 and head[11] & 5 == 5)
        self.present: dict[str, dict[tuple[int, ...], int]] = {}

    def attributes(self) -> dict[str, object]:
        """Of the root; no text of variable length is read."""
        found = {}
        for name in ("format", "format_version", "uuid", "requires", "uses"):
            if name in self.file.attrs:
                demand(self.file.attrs.get_id(name).dtype.kind != "O", "H5-012")
                value = self.file.attrs[name]
                listed = value.tolist() if isinstance(value, np.ndarray) else value.decode()
                found[name] = (
                    [x.decode() if isinstance(x, bytes) else x for x in listed]
                    if isinstance(listed, list)
                    else listed
                )
        return found

    def check(self) -> None:
        """Every object is reached by one hard link."""
        pending, seen = [self.file.id], {h5py.h5g.get_objinfo(self.file.id, b".").objno}
        while pending:
            group = pending.pop()
            for name in list(group):
                demand(group.links.get_info(name).type == h5py.h5l.TYPE_HARD, "H5-002")
                info = h5py.h5g.get_objinfo(group, name)
                demand(info.objno not in seen, "H5-003")
                seen.add(info.objno)
                if info.type == h5py.h5g.GROUP:
                    pending.append(h5py.h5g.open(group, name))

    def open(self, key: str, rank: int, dtype: str, *, lane: bool) -> h5py.h5d.DatasetID:
        """A dataset, once it is known to be as it must."""
        demand(key in self.file, "CORE-007")
        dataset = h5py.h5d.open(self.file.id, key.encode())
        plist, found = dataset.get_create_plist(), dataset.get_type()
        elsewhere = plist.get_external_count() or plist.get_layout() == h5py.h5d.VIRTUAL
        demand(not elsewhere, "H5-001")
        filters = [plist.get_filter(n)[0] for n in range(plist.get_nfilters())]
        demand(set(filters) <= {1, 2, 3, 32015}, "H5-006")
        demand(plist.get_layout() == h5py.h5d.CHUNKED, "H5-009")
        demand(dataset.rank == rank, "CORE-007")
        if dtype in FLOATS:
            bias = FLOATS[dtype][-1]
            demand(found.get_class() == h5py.h5t.FLOAT, "DT-002")
            demand((*found.get_fields(), found.get_ebias()) == (*FLOATS[dtype][:5], bias), "DT-002")
        else:
            demand(dataset.dtype == np.dtype(stored_as(dtype)).newbyteorder("<"), "DT-002")
        if lane:
            order = [f for f in (2, 1, 32015, 3) if f in filters]
            demand(filters == order and 3 in filters and not {1, 32015} <= {*filters}, "H5-007")
            chunk = plist.get_chunk()
            demand((chunk[0] == 1 or self.archive) and math.prod(chunk) <= 262144, "H5-010")
        else:
            demand(not filters, "H5-008")
        return dataset

    def table(self, key: str, dtype: str, rank: int, rows: int | None = None) -> np.ndarray:
        """The first rows of a table, or all."""
        dataset = self.open(key, rank, dtype, lane=False)
        count = dataset.shape[0] if rows is None else rows
        demand(count <= dataset.shape[0], "COM-002")
        shape = (count, *dataset.shape[1:])
        claimed = math.prod(shape) * dataset.dtype.itemsize
        demand(claimed <= 2**20 + 256 * dataset.get_storage_size(), "CORE-009")
        out = np.empty(shape, dataset.dtype)
        if out.size:
            space = dataset.get_space()
            space.select_hyperslab((0,) * rank, shape)
            dataset.read(h5py.h5s.create_simple(shape), space, out, dataset.get_type())
        return out

    def columns(self, key: str, dtype: str, row: int, count: int, item: int) -> bytes:
        """The first columns of a row of a lane, some of which may lie in a second dataset."""
        dataset = self.open(key, 2, dtype, lane=True)
        first = min(count, dataset.shape[1])
        data = self.chunks(key, dataset, row, first, item)
        if count > first or key + ".joined" in self.file:
            more = self.open(key + ".joined", 2, dtype, lane=True)
            demand(h5py.Dataset(more).maxshape[1] is None, "H5-009")
            data += self.chunks(key + ".joined", more, row, count - first, item)
        return data

    def chunks(self, key: str, dataset: h5py.h5d.DatasetID, row: int, n: int, item: int) -> bytes:
        """The first columns of a row of one dataset, chunk by chunk."""
        demand(n == 0 or (row < dataset.shape[0] and n <= dataset.shape[1]), "COM-002")
        plist, data = dataset.get_create_plist(), b""
        filters = {plist.get_filter(k)[0] for k in range(plist.get_nfilters())}
        height, width = plist.get_chunk()
        tile, line = row // height * height, row % height
        if key not in self.present:
            self.present[key] = {}
            dataset.chunk_iter(
                lambda c: self.present[key].__setitem__(tuple(c.chunk_offset), c.filter_mask)
            )
        for column in range(0, n, width):
            skipped = self.present[key].get((tile, column))
            demand(skipped is not None, "SUM-002")
            demand(skipped == 0, "H5-011")
            stored = dataset.read_direct_chunk((tile, column))[1]
            demand(fletcher32(stored[:-4]) == int.from_bytes(stored[-4:], "little"), "SUM-003")
            codec = "zlib" if 1 in filters else "zstd" if 32015 in filters else None
            chunk = inflate(stored[:-4], codec, height * width * item)
            if 2 in filters:
                planes = np.frombuffer(chunk, np.uint8).reshape(item, height * width)
                chunk = planes.T.tobytes()
            data += chunk[line * width * item :][: width * item]
        return data[: n * item]


class Zarr:
    """The arrays of a Zarr v3 folder."""

    archive = False

    def __init__(self, path: Path):
        self.path, self.documents = path, {}
        unfinished = (path / "manifest" / "zarr.json").exists()
        try:
            text = regular(path / "zarr.json", "CORE-012" if unfinished else "CORE-002")
            self.root = json.loads(text)
            group = (self.root["zarr_format"], self.root["node_type"])
        except (ValueError, KeyError, TypeError, RecursionError):
            group = ()
        demand(group == (3, "group"), "CORE-002")

    def attributes(self) -> dict[str, object]:
        """Of the root."""
        return dict(self.root.get("attributes", {}))

    def check(self) -> None:
        """Nothing: what is opened is looked at then."""

    def open(self, key: str, rank: int, dtype: str, *, lane: bool) -> dict:
        """An array's document, once it is known to be as it must."""
        if key in self.documents:
            return self.documents[key]
        folder = self.path
        for part in key.split("/"):
            folder /= part
            demand(not folder.is_symlink(), "ZR-001")
        try:
            found = json.loads(regular(folder / "zarr.json", "CORE-007"))
            keys, grid, codecs = (found[k] for k in ("chunk_key_encoding", "chunk_grid", "codecs"))
            names, found["chunk"] = (
                [c["name"] for c in codecs],
                grid["configuration"]["chunk_shape"],
            )
            inner = codecs[0].get("configuration", {}) if lane else {}
            packed = [codec["name"] for codec in inner.get("codecs", [])]
            ends = [codec["name"] for codec in inner.get("index_codecs", [])]
            little = [*codecs, *inner.get("codecs", []), *inner.get("index_codecs", [])]
            little = [c.get("configuration", {}).get("endian", "little") for c in little]
            separator = keys.get("configuration", {}).get("separator", "/")
            demand((found["zarr_format"], found["node_type"]) == (3, "array"), "ZR-002")
            demand(found["data_type"] == stored_as(dtype), "DT-002")
            demand(len(found["shape"]) == rank, "CORE-007")
            demand(grid["name"] == "regular" and len(found["chunk"]) == rank, "ZR-004")
            demand((keys["name"], separator) == ("default", "."), "ZR-005")
            demand(not found.get("storage_transformers"), "ZR-006")
            packers = ("gzip", "zstd", *(["blosc"] if self.archive and lane else []))
            demand({*names, *packed, *ends} <= CODECS | {*packers}, "ZR-007")
            demand(
                names == ["sharding_indexed" if lane else "bytes"], "ZR-008" if lane else "ZR-010"
            )
            demand({*little} == {"little"}, "ZR-008" if lane else "ZR-010")
            if lane:
                found["codec"] = packed[1] if len(packed) == 3 else None
                demand(packed[:1] + packed[-1:] == ends == ["bytes", "crc32c"], "ZR-008")
                demand(len(packed) == 2 or found["codec"] in packers, "ZR-008")
                demand(inner.get("index_location", "end") == "end", "ZR-008")
                (row, found["width"]), (outer, columns) = inner["chunk_shape"], found["chunk"]
                demand(row == outer and (row == 1 or self.archive), "ZR-009")
                demand(row >= 1 and 1 <= row * found["width"] <= 262144, "ZR-009")
                demand(columns % found["width"] == 0 and 1 <= columns <= 2**26, "ZR-009")
            else:
                demand(1 <= math.prod(found["chunk"]) <= 2**24, "ZR-011")
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
            raise RefusedError("ZR-002") from None
        self.documents[key] = found
        return found

    def table(self, key: str, dtype: str, rank: int, rows: int | None = None) -> np.ndarray:
        """The first rows of a table, or all: whatever the shape says, until a chunk is missing."""
        found = self.open(key, rank, dtype, lane=False)
        item, fill = np.dtype(stored_as(dtype)).itemsize, ABSENT if key == "scalars/value" else 0
        (height, width), columns = (*found["chunk"], 1)[:2], (*found["shape"], 1)[1]
        bands: list[np.ndarray] = []
        while rows is None or len(bands) * height < rows:
            parts = []
            for number in range(max(1, -(-columns // width))):
                place = f"c.{len(bands)}" + (f".{number}" if rank > 1 else "")
                file = self.path / key / place
                if number == 0 or file.is_symlink() or file.exists():
                    if number == 0 and rows is None and not file.exists():
                        later = [int(c.name.split(".")[1]) for c in file.parent.glob("c.*")]
                        demand(max(later, default=-1) < len(bands), "COM-001")
                        break
                    data = regular(file, "COM-002")
                    demand(len(data) == height * width * item, "SUM-003")
                    parts.append(np.frombuffer(data, f"<u{item}").reshape(height, width))
                else:  # columns that joined later
                    parts.append(np.full((height, width), fill, f"<u{item}"))
            if not parts:
                break
            bands.append(np.concatenate(parts, axis=1)[:, :columns])
        whole = np.concatenate([np.empty((0, columns), f"<u{item}"), *bands])[:rows]
        return (whole if rank > 1 else whole[:, 0]).view(np.dtype(stored_as(dtype)))

    def columns(self, key: str, dtype: str, row: int, count: int, item: int) -> bytes:
        """The first columns of a row of a lane."""
        found, data = self.open(key, 2, dtype, lane=True), b""
        demand(count <= found["shape"][1], "CORE-007")
        (height, columns), width = found["chunk"], found["width"]
        chunks, line = columns // width, row % height
        for first in range(0, count, columns):
            place = f"c.{row // height}.{first // columns}"
            shard = regular(self.path / key / place, "SUM-002")
            index, end = shard[-16 * chunks - 4 : -4], len(shard) - 16 * chunks - 4
            demand(end >= 0 and crc32c(index) == int.from_bytes(shard[-4:], "little"), "SUM-003")
            needed = -(-min(count - first, columns) // width)
            for number in range(needed):
                start, size = struct.unpack_from("<QQ", index, 16 * number)
                demand(start != NEVER, "SUM-002")
                demand(size >= 4 and start + size <= end, "SUM-003")
                stored, check = shard[start : start + size - 4], shard[start + size - 4 :][:4]
                demand(crc32c(stored) == int.from_bytes(check, "little"), "SUM-003")
                chunk = inflate(stored, found["codec"], height * width * item)
                data += chunk[line * width * item :][: width * item]
        return data[: count * item]


def stored_as(dtype: str) -> str:
    """NumPy's and Zarr's name of the type that holds a dtype."""
    return f"uint{8 * AS_BITS[dtype]}" if dtype in AS_BITS else dtype


def in_force(table: np.ndarray) -> tuple[list[list[int]], list[int], int]:
    """The commits that no rewind took back, the last valid row, and the number of streams."""
    demand(table.shape[1] >= 8 and table.shape[1] % 2 == 0, "COM-007")
    n = (table.shape[1] - 8) // 2
    rows = [[int(value) for value in row] for row in table]
    valid = [
        row[0] == number and row[-1] == crc32c(table[number, :-1].astype("<u8").tobytes())
        for number, row in enumerate(rows)
    ]
    count = (*valid, False).index(False)
    demand(all(row[-1] == 0 for row in rows[count:]), "COM-001")  # a kill leaves no checksum
    commits: list[list[int]] = []
    before = [0] * table.shape[1]
    for row in rows[:count]:
        demand(before[3] <= row[3], "COM-008")
        back = 2**64 - 1 - row[1] if row[1] >= 2**63 else None  # the step of a rewind
        if back is None:
            counts = zip(before[4 : 5 + n], row[4 : 5 + n], strict=True)
            demand(all(old <= new for old, new in counts), "COM-008")
            commits.append(row)
        else:
            commits = [commit for commit in commits if commit[1] < back]
            known = commits[-1] if commits else [0] * len(row)
            again = [*range(4, 5 + n), *range(6 + n, 7 + 2 * n)]
            demand(all(row[c] == known[c] for c in again), "COM-008")
        before = row
    return commits, before, n


def revision_in_force(data: bytes) -> dict:
    """The last line of the manifest, checked."""
    demand(data.endswith(b"\n"), "CORE-013")
    try:
        last = data[:-1].rpartition(b"\n")[2].decode("utf-8")
        found = json.loads(last, parse_constant=lambda text: demand(False, "CORE-013"))
        streams = [(s["name"], s["tensors"]) for s in found.get("streams", [])]
        names = [name for name, _ in streams]
        scalars = found.get("scalars", [])
        demand(len({*names}) == len(names), "STR-001")
        demand(len({*scalars}) == len(scalars), "STR-002")
        demand(all(1 <= len(s) <= 1024 and s.isprintable() for s in scalars), "STR-003")
        for name, tensors in streams:
            demand(re.fullmatch(STREAM, name), "STR-001")
            labels, ends, joined = [t["name"] for t in tensors], {}, {}
            demand(len({*labels}) == len(labels), "STR-004")
            demand(all(1 <= len(s) <= 1024 and s.isprintable() for s in labels), "STR-003")
            for t in tensors:
                lane, first = t["dtype"], t.setdefault("first_row", 0)
                numbers = [*t["shape"], t["offset"], first]
                demand(all(type(number) is int for number in numbers), "CORE-013")
                demand(lane in SIZES or lane in AS_BITS, "DT-001")
                demand(min(*t["shape"], first, 0) >= 0, "STR-005")
                demand(t["offset"] == ends.get(lane, 0), "STR-006")
                demand(first >= joined.get(lane, 0), "STR-007")
                joined[lane], ends[lane] = first, t["offset"] + math.prod(t["shape"])
                demand(ends[lane] <= 2**48, "STR-005")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise RefusedError("CORE-013") from None
    return {"streams": [], "scalars": [], **found}


def scalar_columns(store: Hdf5 | Zarr, record: list[int], names: list[str], crc: int) -> dict:
    """The committed scalars; null where absent."""
    rows = record[4]
    steps = store.table("scalars/step", "int64", 1, rows)
    table = store.table("scalars/value", "float64", 2, rows)
    demand(table.shape[1] >= len(names), "CORE-007")
    values, entries = np.ascontiguousarray(table).view(np.uint64).reshape(table.shape), b""
    for row in range(rows):
        entries += struct.pack("<QIq", row, 2**32 - 1, steps[row])
        for column in range(len(names)):
            if values[row, column] != ABSENT:
                entries += struct.pack("<QIQ", row, column, values[row, column])
    demand(crc32c(entries) == crc, "SUM-001")
    text = [[None if v == ABSENT else f"{v:016x}" for v in map(int, row)] for row in values]
    columns = [{"name": n, "bits": [row[c] for row in text]} for c, n in enumerate(names)]
    return {"steps": steps.tolist(), "columns": columns}


def stream(store: Hdf5 | Zarr, spec: dict, rows: int, crc: int) -> dict:
    """A stream: its keys, and the rows of each tensor from its first on."""
    name, place = spec["name"], "streams/" + spec["name"]
    steps = store.table(f"{place}/step", "int64", 1, rows)
    samples = None
    if name == "gradient_samples":
        samples = store.table(f"{place}/sample", "int32", 1, rows)
        keys = b"".join(struct.pack("<qi", *key) for key in zip(steps, samples, strict=True))
    else:
        keys = steps.astype("<i8").tobytes()
    demand(crc32c(keys) == crc, "SUM-001")
    tensors = [dict(t, rows=[]) for t in spec["tensors"]]
    for lane in {t["dtype"]: None for t in tensors}:
        item, inside = (SIZES | AS_BITS)[lane], [t for t in tensors if t["dtype"] == lane]
        store.open(f"{place}/{lane}", 2, lane, lane=True)
        for row in range(rows):
            there = [t for t in inside if t["first_row"] <= row]
            end = max((t["offset"] + math.prod(t["shape"]) for t in there), default=0)
            data = store.columns(f"{place}/{lane}", lane, row, end, item)
            bits = np.frombuffer(data, f"<u{item}")
            for t in there:
                part = bits[t["offset"] :][: math.prod(t["shape"])]
                t["rows"].append(" ".join(f"{int(value):0{2 * item}x}" for value in part))
    keys = ("name", "dtype", "shape", "first_row", "rows")
    answer = {"name": name, "steps": steps.tolist()}
    answer |= {} if samples is None else {"samples": samples.tolist()}
    return answer | {"tensors": [{key: t[key] for key in keys} for t in tensors]}


def read(path: Path) -> dict:
    """All that a trajectory holds, as spec/vectors/README.md lays it out."""
    demand(path.exists(), "CORE-001")
    store = Zarr(path) if path.is_dir() else Hdf5(path)
    root = store.attributes()
    demand(root.get("format") == "trajfile", "CORE-003")
    kinds = {"format_version": list, "uuid": str, "requires": list, "uses": list}
    demand(all(isinstance(root.get(name), kind) for name, kind in kinds.items()), "CORE-008")
    demand(re.fullmatch(UUID, root["uuid"]), "CORE-008")
    version = root["format_version"]
    demand(len(version) == 2 and all(type(n) is int for n in version), "CORE-008")
    demand(version[0] == 1, "CORE-004")
    demand({*root["requires"]} <= {"archive"}, "CORE-005")
    store.archive = "archive" in root["requires"]
    store.check()
    commits, record, n = in_force(store.table("commits", "uint64", 2))
    demand(record[3] <= 2**30, "CORE-011")
    stored = store.table("manifest", "uint8", 1, record[3] or None).tobytes()
    lines = stored if record[3] else stored.partition(b"\n")[0] + b"\n"
    demand(not record[3] or crc32c(lines) == record[5 + n], "SUM-001")
    manifest = revision_in_force(lines)
    demand(len(manifest["streams"]) == n, "COM-007")
    again = manifest.get("identity", {"uuid": root["uuid"], "format_version": version})
    demand((again["uuid"], again["format_version"]) == (root["uuid"], version), "SUM-004")
    stated = {
        "optimizer": {},
        "groups": {},
        "gradient": {},
        "metadata": {},
        "software": "",
        "lineage": [],
    }
    return {
        "format_version": version,
        "uuid": root["uuid"],
        "commits": [{"step": row[1], "wall_ns": str(row[2])} for row in commits],
        "scalars": scalar_columns(store, record, manifest["scalars"], record[6 + n]),
        "streams": [
            stream(store, spec, record[5 + number], record[7 + n + number])
            for number, spec in enumerate(manifest["streams"])
        ],
        **{name: manifest.get(name, empty) for name, empty in stated.items()},
    }


def answer(path: Path) -> dict:
    """What the runner wants to know of a path."""
    try:
        return {"content": read(path)}
    except RefusedError as refusal:
        return {"refused": [str(refusal)]}
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        zlib.error,
    ) as error:  # the libraries gave up
        return {"refused": [], "because": f"{type(error).__name__}: {error}"}


if __name__ == "__main__":
    for given in sys.stdin:
        print(json.dumps(answer(Path(given.rstrip("\n")))), flush=True)
