"""A trajectory as bytes in memory, with what a mutator must know to keep checksums true."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch
from uuid import UUID

import h5py
import numpy as np

from tests.conformance.breakers import sound_run
from tests.conformance.forge import streams
from trajfile.containers.hdf5_resume import lookup3
from trajfile.containers.record import crc32c, keys_crc

#: What begins a block of HDF5 metadata that ends in a checksum.
_SIGNATURES = (b"OHDR", b"OCHK", b"EAHD", b"EAIB", b"EASB", b"EADB", b"FAHD", b"FADB", b"BTHD",
               b"BTLF", b"BTIN", b"FRHP", b"FHDB", b"FHIB", b"FSHD", b"SMTB")  # fmt: skip
_LONGEST_BLOCK = 2048


@dataclass
class Image:
    """One trajectory.

    Attributes:
        suffix: ``.h5`` or ``.zarr``.
        files: Content by name within the folder; of HDF5 the only one, by the name ``""``.
        tables: For each table the file and the offset at which its rows begin.
        blocks: Blocks of HDF5 metadata as (start, end), a checksum following.
        shape: Rows and columns of /commits.
        special: Names to be made as links, pipes or folders instead of files.
    """

    suffix: str
    files: dict[str, bytearray]
    tables: dict[str, tuple[str, int]]
    blocks: list[tuple[int, int]]
    shape: tuple[int, int]
    special: dict[str, str] = field(default_factory=dict)

    def copy(self) -> Image:
        """One of its own to spoil."""
        files = {name: bytearray(data) for name, data in self.files.items()}
        return Image(self.suffix, files, self.tables, self.blocks, self.shape)

    def seal(self) -> None:
        """Make the checksum of every block of HDF5 metadata, and of the superblock, true."""
        data = self.files.get("")
        if data is not None:
            for start, end in [(0, 44), *self.blocks]:
                if end + 4 <= len(data):
                    struct.pack_into("<I", data, end, lookup3(bytes(data[start:end])))

    def commits(self) -> np.ndarray:
        """The commit records, writable in place."""
        file, offset = self.tables["commits"]
        rows, columns = self.shape
        data = np.frombuffer(self.files[file], "<u8", rows * columns, offset)
        return data.reshape(rows, columns)

    def recommit(self) -> None:
        """Make the checksum of every commit record true."""
        for row in self.commits():
            row[-1] = crc32c(np.ascontiguousarray(row[:-1]))

    def manifest(self) -> list[bytes]:
        """The committed lines of the manifest."""
        file, offset = self.tables["manifest"]
        length = int(self.commits()[-1, 3])
        return bytes(self.files[file][offset : offset + length]).splitlines(keepends=True)

    def rewrite(self, lines: list[bytes]) -> None:
        """Put other lines in the manifest's place and make every checksum true.

        The place is as long as it was: short lines are padded, what is too long is cut.
        """
        file, offset = self.tables["manifest"]
        table = self.commits()
        length = int(table[-1, 3])
        text = b"".join(lines)[: length - 1]
        text = (
            text.removesuffix(b"\n") + b" " * (length - 1 - len(text.removesuffix(b"\n"))) + b"\n"
        )
        self.files[file][offset : offset + length] = text
        ends = [i + 1 for i, byte in enumerate(text) if byte == 10]
        for row in table:
            first = min(ends[0] if int(row[3]) < length else length, length)
            row[3] = first if first < length else length
            row[5 + streams(table)] = crc32c(text[: int(row[3])])
        self.recommit()

    def rekey(self, stream: int, name: str) -> None:
        """Make the checksums over the steps of a stream without samples true."""
        file, offset = self.tables[f"streams/{name}/step"]
        table = self.commits()
        for row in table:
            steps = np.frombuffer(self.files[file], "<i8", int(row[5 + stream]), offset)
            row[7 + streams(table) + stream] = keys_crc(steps.copy(), None)
        self.recommit()

    def write(self, path: Path) -> None:
        """Put it on the disk, in place of what is there."""
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        for name, data in self.files.items():
            file = path / name if name else path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(data)
        for name, kind in self.special.items():
            file = path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            if kind == "pipe":
                os.mkfifo(file)
            elif kind == "folder":
                file.mkdir()
            else:
                file.symlink_to(kind)


def corpus(folder: Path) -> Iterator[Image]:
    """Valid runs of both containers under every compression."""
    always = UUID(int=42)
    with (
        patch("trajfile.containers.identity.uuid4", lambda: always),
        patch("trajfile.containers.journal.time.time_ns", lambda: 10**18),
    ):
        for suffix in (".h5", ".zarr"):
            for compression in (None, "gzip", "zstd"):
                yield _load(sound_run(folder / f"{compression}{suffix}", compression))


def _load(path: Path) -> Image:
    if path.is_dir():
        names = [file for file in sorted(path.rglob("*")) if file.is_file()]
        files = {str(file.relative_to(path)): bytearray(file.read_bytes()) for file in names}
        tables = {
            name.rpartition("/")[0]: (name, 0)
            for name in files
            if name.endswith(("/c.0", "/c.0.0")) and "float" not in name and "int" not in name
        }
        shape = json.loads(files["commits/zarr.json"])["shape"]
        return Image(".zarr", files, tables, [], (shape[0], shape[1]))
    data = bytearray(path.read_bytes())
    tables = {}
    with h5py.File(path, "r") as file:
        shape = file["commits"].shape

        def note(name: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Dataset) and not item.fletcher32 and item.id.get_num_chunks():
                tables[name] = ("", int(item.id.get_chunk_info(0).byte_offset))

        file.visititems(note)
    return Image(".h5", {"": data}, tables, list(_blocks(bytes(data))), shape)


def _blocks(data: bytes) -> Iterator[tuple[int, int]]:
    """Blocks of metadata, found by their signatures and by where their checksum holds."""
    for signature in _SIGNATURES:
        start = data.find(signature)
        while start >= 0:
            for end in range(start + 8, min(start + _LONGEST_BLOCK, len(data) - 4)):
                if data[end : end + 4] != b"\0\0\0\0" and lookup3(
                    data[start:end]
                ) == int.from_bytes(data[end : end + 4], "little"):
                    yield start, end
                    break
            start = data.find(signature, start + 1)
