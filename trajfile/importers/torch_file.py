"""Files of ``torch.save``: a zip archive with one pickle and one uncompressed record a storage.

Neither PyTorch nor its unpickler is needed: the pickle is read as data (`trajfile.importers
.pickled`) and gives for every tensor the place of its bytes.
"""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from trajfile.importers.files import File, Files
from trajfile.importers.pickled import Inert, PickleError
from trajfile.importers.places import Place
from trajfile.importers.refusal import half_written, too_large, unknown_layout
from trajfile.importers.torch_storage import Reader, View, item_size
from trajfile.importers.unpickle import unpickle

_MAX_PICKLE = 2**28
_MAX_RECORDS = 2_000_000
_LOCAL = struct.Struct("<4s22xHH")
ZIP = b"PK\x03\x04"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Saved:
    """What ``torch.save`` put into a file.

    Attributes:
        value: The saved object: plain data, `View` for tensors, `Inert` for objects.
        file: The file.
        storages: Where each storage lies: first byte and length, by key.
        foreign: Names of code that the pickle mentions, beyond PyTorch's own; none of it was run.
        built: Where the storages lie if not in the file itself: its code was run, and built them.
        digest: Of what was built; empty of what was read as data.
    """

    value: Any
    file: File
    storages: dict[str, tuple[int, int]]
    foreign: frozenset[str]
    built: File | None = None
    digest: str = ""

    def place(self, view: View) -> Place:
        """Where a tensor lies."""
        found = self.storages.get(view.storage.key)
        if found is None:
            half_written(self.file.path, f"the storage {view.storage.key[:50]!r} is missing")
        if found[1] < view.storage.count * item_size(view.storage.dtype):
            half_written(
                self.file.path,
                f"the storage {view.storage.key[:50]!r} has {found[1]} bytes, expected "
                f"{view.storage.count * item_size(view.storage.dtype)}",
            )
        try:
            return view.place(self.built or self.file, *found)
        except PickleError as error:
            half_written(self.file.path, str(error), error)


class Record(NamedTuple):
    """An uncompressed record of an archive: first byte in the file, length and CRC-32."""

    start: int
    size: int
    crc: int


def read_saved(file: File, files: Files, start: int = 0, size: int | None = None) -> Saved:
    """Read the pickle of a file and find its storages.

    Args:
        file: The file.
        files: Reads it.
        start: The first byte of the archive in the file.
        size: The archive's length; all the rest by default.

    Returns:
        What was saved, no tensor read.
    """
    size = file.size - start if size is None else size
    head = files.bytes(file, start, min(size, 4))
    if head != ZIP:
        return _read_legacy(file, files, start, size)
    records = archive(file, files, start, size)
    pickles = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(pickles) != 1:
        unknown_layout(
            file.path, "is a zip archive, but not one of torch.save", "check what wrote it"
        )
    prefix = pickles[0].removesuffix("data.pkl")
    if prefix + "constants.pkl" in records:
        unknown_layout(
            file.path, "is a TorchScript program", "save its state_dict() with torch.save"
        )
    order = records.get(prefix + "byteorder")
    if order is not None and files.bytes(file, order.start, order.size, 16) != b"little":
        unknown_layout(
            file.path, "holds big-endian numbers", "save it again on a little-endian machine"
        )
    record = records[pickles[0]]
    data = files.bytes(file, record.start, record.size, _MAX_PICKLE)
    try:
        value, foreign = _parsed(data)
    except PickleError as error:
        half_written(file.path, str(error), error)
    prefix += "data/"
    storages = {
        name.removeprefix(prefix): (found.start, found.size)
        for name, found in records.items()
        if name.startswith(prefix)
    }
    return Saved(value, file, storages, foreign)


def archive(file: File, files: Files, start: int, size: int) -> dict[str, Record]:
    """The records of a zip archive within a file, all of them uncompressed.

    Args:
        file: The file.
        files: Reads it.
        start: The archive's first byte.
        size: Its length.

    Returns:
        Each record's place by name.
    """
    records: dict[str, Record] = {}
    for info in entries(file, files, start, size):
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            unknown_layout(
                file.path,
                f"holds the compressed record {info.filename[:100]!r}",
                "save it again with torch.save",
            )
        records[info.filename] = located(file, files, info, start, size)
    return records


def entries(file: File, files: Files, start: int, size: int) -> list[zipfile.ZipInfo]:
    """The table of contents of a zip archive within a file."""
    try:
        with zipfile.ZipFile(_Window(file, files, start, size)) as opened:
            listed = opened.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, struct.error, OSError) as error:
        half_written(file.path, f"the zip archive has no end ({error})", error)
    if len(listed) > _MAX_RECORDS:
        too_large(file.path, f"holds {len(listed)} records")
    if len({info.filename for info in listed}) < len(listed):
        half_written(file.path, "a record is listed twice")
    return listed


def located(
    file: File, files: Files, info: zipfile.ZipInfo, start: int = 0, size: int | None = None
) -> Record:
    """Where the bytes of a record begin, which only its local header says."""
    end = start + (file.size - start if size is None else size)
    at = start + info.header_offset
    if info.header_offset < 0 or at + _LOCAL.size > end:
        half_written(file.path, f"the record {info.filename[:100]!r} lies beyond its end")
    signature, name, extra = _LOCAL.unpack(files.bytes(file, at, _LOCAL.size))
    first = at + _LOCAL.size + name + extra
    if signature != ZIP or first + info.compress_size > end:
        half_written(file.path, f"the record {info.filename[:100]!r} lies beyond its end")
    return Record(first, info.compress_size, info.CRC)


@lru_cache(maxsize=2)  # checkpoints of one training often have the very same pickle
def _parsed(data: bytes) -> tuple[Any, frozenset[str]]:
    reader = Reader()
    value, _ = unpickle(data, reader.rebuild, reader.refer)
    return value, frozenset(reader.foreign)


def _read_legacy(file: File, files: Files, start: int, size: int) -> Saved:
    """The format before PyTorch 1.6: five pickles, then each storage's count and bytes."""
    data = files.bytes(file, start, min(size, _MAX_PICKLE), _MAX_PICKLE)
    reader, parts, at = Reader(), [], 0
    try:
        for number in range(5):
            part, at = unpickle(data, reader.rebuild, reader.refer, at)
            parts.append(part)
            if number == 0 and part != _LEGACY_MAGIC:
                break
    except PickleError as error:
        if parts[:1] == [_LEGACY_MAGIC]:
            half_written(file.path, str(error), error)
        parts = []
    if parts[:1] != [_LEGACY_MAGIC] or len(parts) < 5:
        unknown_layout(file.path, "is not a file of torch.save", "check what wrote it")
    views = [item for item in leaves(parts[3]) if isinstance(item, View)]
    sizes = {view.storage.key: item_size(view.storage.dtype) for view in views}
    storages, at = {}, start + at
    for key in parts[4] if isinstance(parts[4], list) else []:
        count = int.from_bytes(files.bytes(file, at, 8), "little")
        length = count * sizes.get(key, 1)
        if at + 8 + length > file.size:
            half_written(file.path, f"the storage {str(key)[:50]!r} ends beyond its end")
        storages[str(key)] = (at + 8, length)
        at += 8 + length
    return Saved(parts[3], file, storages, frozenset(reader.foreign))


def leaves(value: Any) -> Iterator[View | Inert]:
    """Every tensor, and every object that was not built, in a nested one; each visited once."""
    pending, seen = [value], set()
    while pending:
        item = pending.pop()
        if isinstance(item, View):
            yield item
        elif id(item) not in seen:
            seen.add(id(item))
            if isinstance(item, dict):
                pending.extend(item.values())
            elif isinstance(item, (list, tuple)):
                pending.extend(item)
            elif isinstance(item, Inert):
                yield item
                pending.extend([item.items, item.state, item.elements, item.args])


class _Window(io.RawIOBase):
    """A part of a file, as the zip library reads it."""

    def __init__(self, file: File, files: Files, start: int, size: int):
        self._file, self._files, self._start, self._size = file, files, start, size
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._size - self._at)
        count = left if size < 0 else min(size, left)
        data = self._files.bytes(self._file, self._start + self._at, count, _MAX_PICKLE)
        self._at += count
        return data
