"""Ways to spoil a Zarr folder, with plain file operations."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.conformance.vectors.image import crc
from tests.conformance.vectors.in_zarr import compress

Spoil = Callable[[Path], None]


def edited(key: str, **changes: Any) -> Spoil:
    """Change fields of an array's or group's document."""

    def spoil(path: Path) -> None:
        file = path / key / "zarr.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}, indent=1))

    return spoil


def inner(key: str, **changes: Any) -> Spoil:
    """Change the configuration of a lane's shards."""

    def spoil(path: Path) -> None:
        (codec,) = json.loads((path / key / "zarr.json").read_text())["codecs"]
        codec["configuration"].update(changes)
        edited(key, codecs=[codec])(path)

    return spoil


def removed(key: str) -> Spoil:
    """Take an array away."""
    return lambda path: shutil.rmtree(path / key)


def without(place: str) -> Spoil:
    """Take a chunk away."""
    return lambda path: (path / place).unlink()


def unfinished(path: Path) -> None:
    """What is there when a writer is killed before it writes the root's document."""
    (path / "zarr.json").rename(path / "zarr.json.partial")


def linked(place: str, target: str) -> Spoil:
    """Put a symbolic link in place of a file or folder, to one beside it."""

    def spoil(path: Path) -> None:
        found = path / place
        shutil.rmtree(found) if found.is_dir() else found.unlink()
        found.symlink_to(target)

    return spoil


def piped(place: str) -> Spoil:
    """Put a pipe in place of a file: opening it would wait for ever."""

    def spoil(path: Path) -> None:
        (path / place).unlink()
        os.mkfifo(path / place)

    return spoil


def byte_flipped(place: str, offset: int) -> Spoil:
    """Flip a bit of a file."""

    def spoil(path: Path) -> None:
        data = bytearray((path / place).read_bytes())
        data[offset] ^= 0x10
        (path / place).write_bytes(data)

    return spoil


def cut(place: str, size: int) -> Spoil:
    """Keep only the first bytes of a file."""
    return lambda path: (path / place).write_bytes((path / place).read_bytes()[:size]) and None


def reindexed(key: str, row: int, *, entry: int, value: bytes = b"\xff" * 16) -> Spoil:
    """Change an entry of a shard's index; without a value the chunk counts as missing."""

    def spoil(path: Path) -> None:
        file = path / key / f"c.{row}.0"
        document = json.loads((path / key / "zarr.json").read_text())
        columns = document["chunk_grid"]["configuration"]["chunk_shape"][1]
        width = document["codecs"][0]["configuration"]["chunk_shape"][1]
        data, size = file.read_bytes(), 16 * (columns // width)
        index = bytearray(data[-size - 4 : -4])
        index[16 * entry : 16 * entry + 16] = value
        check = crc(bytes(index)).to_bytes(4, "little")
        file.write_bytes(data[: -size - 4] + index + check)

    return spoil


def bomb(key: str, compression: str, size: int = 2**24) -> Spoil:
    """Put a chunk in row 1 that holds so many zero bytes."""

    def spoil(path: Path) -> None:
        packed = compress(bytes(size), compression)
        packed += crc(packed).to_bytes(4, "little")
        index = (0).to_bytes(8, "little") + len(packed).to_bytes(8, "little")
        whole = packed + index + crc(index).to_bytes(4, "little")
        for shard in (path / key).glob("c.1.*"):
            shard.write_bytes(whole)

    return spoil
