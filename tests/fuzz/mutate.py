"""Ways to spoil an image: each knows the structure it works on, and leaves checksums true."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

from tests.fuzz.image import Image
from trajfile.containers.record import crc32c

_NUMBERS: tuple[int | float, ...] = (
    *(0, 1, 2, 7, 255, 2**15, 2**31 - 1, 2**31, 2**32, 2**48, 2**53, 2**62, 2**63 - 1, 2**63),
    *(2**64 - 1, 2**64, 10**30, -1, -(2**63), 1e308, 0.5),
)
_TEXTS = (
    *("", "x", "params", "w", "float32", "float33", "../../etc/passwd", "/dev/zero", "\0"),
    *("\x1b[31m", "<script>", "NaN", "\ud7ff", "x" * 5000, "gzip", "zstd", "sharding_indexed"),
)

Mutator = Callable[[Image, Random], None]


def spoil(image: Image, rng: Random) -> None:
    """Apply one to four mutators that suit the container."""
    mutators = _COMMON + (_HDF5 if image.suffix == ".h5" else _ZARR)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        try:
            rng.choice(mutators)(image, rng)
        except Exception:
            continue  # what it works on is no longer as it should be: the next one may do


def _some_file(image: Image, rng: Random) -> bytearray:
    return image.files[rng.choice(sorted(image.files))]


def flip_bits(image: Image, rng: Random) -> None:
    data = _some_file(image, rng)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def overwrite(image: Image, rng: Random) -> None:
    data = _some_file(image, rng)
    _put_number(data, rng.randrange(len(data)), rng)


def _put_number(data: bytearray, at: int, rng: Random) -> None:
    size = rng.choice((1, 2, 4, 8))
    value = rng.choice((*_NUMBERS[:15], rng.getrandbits(64)))
    at = min(at, len(data) - size)
    data[at : at + size] = (int(value) % 256**size).to_bytes(size, "little")


def move_range(image: Image, rng: Random) -> None:
    data = _some_file(image, rng)
    start, length = rng.randrange(len(data)), rng.choice((1, 4, 8, 64, 512))
    piece = data[start : start + length]
    if rng.random() < 0.3:
        del data[start : start + length]
    else:
        at = rng.randrange(len(data))
        data[at : at + len(piece)] = piece


def cut_or_extend(image: Image, rng: Random) -> None:
    data = _some_file(image, rng)
    if rng.random() < 0.7:
        del data[rng.randrange(len(data)) :]
    else:
        data += bytes(rng.choice((1, 100, 10_000)))
    if image.suffix == ".h5" and rng.random() < 0.7 and len(data) >= 48:
        struct.pack_into("<Q", data, 28, len(data))
        image.seal()


def state_otherwise(image: Image, rng: Random) -> None:
    """Change the manifest as JSON."""
    lines = image.manifest()
    which = rng.randrange(len(lines)) if rng.random() < 0.3 else len(lines) - 1
    document = json.loads(lines[which])
    document["metadata"] = {}
    if rng.random() < 0.1:
        lines[which] = b'{"metadata":' + b"[" * 1000 + b"\n"
    else:
        for _ in range(rng.choice((1, 1, 2, 3))):
            document = change_json(document, rng)
        lines[which] = json.dumps(document).encode() + b"\n"
    image.rewrite(lines)


def commit_otherwise(image: Image, rng: Random) -> None:
    table = image.commits()
    row, column = rng.randrange(len(table)), rng.randrange(table.shape[1] - 1)
    if rng.random() < 0.5:
        row = len(table) - 1
    value = rng.choice((*_NUMBERS[:15], int(table[row, column]) + rng.choice((-1, 1, 8))))
    table[row, column] = int(value) % 2**64
    image.recommit()


def key_otherwise(image: Image, rng: Random) -> None:
    name, index = rng.choice((("params", 0), ("gradients", 1)))
    file, offset = image.tables[f"streams/{name}/step"]
    value = int(rng.choice(_NUMBERS[:15])) % 2**64
    struct.pack_into("<Q", image.files[file], offset + 8 * rng.randrange(4), value)
    image.rekey(index, name)


def change_json(value: Any, rng: Random) -> Any:
    """The same structure with one place changed."""
    inner = isinstance(value, (dict, list)) and len(value) > 0
    if not inner or rng.random() < 0.08:
        return _odd_value(value, rng)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        if rng.random() < 0.15:
            edited = value[:at] + value[at + 1 :]
        elif rng.random() < 0.15:
            edited = value[: at + 1] + value[at:]
        else:
            edited = [*value[:at], change_json(value[at], rng), *value[at + 1 :]]
        return edited
    key = rng.choice(sorted(value))
    if rng.random() < 0.1:
        return {name: item for name, item in value.items() if name != key}
    return {**value, key: change_json(value[key], rng)}


def _odd_value(value: Any, rng: Random) -> Any:
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.4:
        return value + rng.choice((-1, 1, 2, 40))
    nested: Any = rng.choice(_NUMBERS)
    for _ in range(rng.choice((1, 5, 200))):
        nested = [nested] if rng.random() < 0.5 else {"a": nested}
    return rng.choice((rng.choice(_NUMBERS), rng.choice(_TEXTS), None, True, [], {}, nested))


# HDF5


def change_metadata(image: Image, rng: Random) -> None:
    """Change some bytes of metadata and make its checksum true: the library believes them."""
    data = image.files[""]
    for _ in range(rng.choice((1, 1, 2, 4))):
        start, end = rng.choice(image.blocks)
        if rng.random() < 0.5:
            _put_number(data, rng.randrange(start + 4, end), rng)
        else:
            data[rng.randrange(start + 4, end)] ^= 1 << rng.randrange(8)
    image.seal()


def swap_metadata(image: Image, rng: Random) -> None:
    data = image.files[""]
    (a, end), (b, other) = rng.choice(image.blocks), rng.choice(image.blocks)
    length = min(end - a, other - b)
    data[a : a + length] = bytes(data[b : b + length])
    image.seal()


def change_superblock(image: Image, rng: Random) -> None:
    data = image.files[""]
    _put_number(data, rng.randrange(8, 44), rng)
    image.seal()


# Zarr


def change_document(image: Image, rng: Random) -> None:
    name = rng.choice([name for name in sorted(image.files) if name.endswith("zarr.json")])
    document = json.loads(image.files[name])
    for _ in range(rng.choice((1, 1, 2))):
        document = change_json(document, rng)
    image.files[name] = bytearray(json.dumps(document).encode())


def change_shard(image: Image, rng: Random) -> None:
    """Change the index or a chunk of a shard and make both checksums true."""
    names = [n for n in sorted(image.files) if "/float" in n or "/int" in n]
    name = rng.choice([n for n in names if not n.endswith("json")])
    data = image.files[name]
    if rng.random() < 0.5:
        _put_number(data, len(data) - 4 - rng.choice((8, 16)), rng)
    else:
        size = len(data) - 20 - 4
        if rng.random() < 0.3:
            bomb = zlib.compressobj(9, wbits=31)
            packed = bomb.compress(bytes(2**22)) + bomb.flush()
            data[:] = packed + bytes(4 + 16)
            size = len(packed)
            struct.pack_into("<QQ", data, size + 4, 0, size + 4)
            data += bytes(4)
        else:
            _put_number(data, rng.randrange(size), rng)
        struct.pack_into("<I", data, size, crc32c(bytes(data[:size])))
    struct.pack_into("<I", data, len(data) - 4, crc32c(bytes(data[-20:-4])))


def lose_or_misplace(image: Image, rng: Random) -> None:
    name, other = rng.choice(sorted(image.files)), rng.choice(sorted(image.files))
    kind = rng.choice(("lose", "swap", "pipe", "folder", "link", "/etc/passwd", "/dev/zero"))
    if kind == "swap":
        image.files[name], image.files[other] = image.files[other], image.files[name]
    elif kind != "lose":
        image.special[name] = name.rpartition("/")[2] if kind == "link" else kind
    if kind != "swap":
        image.files.pop(name)


_COMMON = [flip_bits, overwrite, move_range, cut_or_extend]
_COMMON += [state_otherwise] * 4 + [commit_otherwise] * 2 + [key_otherwise]
_HDF5: list[Mutator] = [change_metadata] * 6 + [swap_metadata, change_superblock]
_ZARR: list[Mutator] = [change_document] * 4 + [change_shard] * 3 + [lose_or_misplace] * 2
