"""Attributes of HDF5 files, read so that nothing in them can mislead the library.

Text of variable length is never read: it lies in a heap without a checksum, where one flipped bit
sends the library into an endless loop.
"""

from __future__ import annotations

import math

import h5py
import numpy as np
from h5py import h5a, h5t

from trajfile.containers.hdf5_damage import LIBRARY_FAILURES
from trajfile.containers.identity import Attributes
from trajfile.errors import Damaged
from trajfile.schema import FORMAT

IDENTITY = ("format", "format_version", "uuid", "requires", "uses")
_MAX_BYTES = 2**16


def read_identity(file: h5py.File) -> Attributes:
    """The root attributes that have the types they should have.

    Args:
        file: The open file.

    Returns:
        Text, and tuples of integers or of text, by name.

    Raises:
        Damaged: If the file is a trajectory and one of them is text of variable length.
    """
    found: dict[str, str | tuple[int, ...] | tuple[str, ...]] = {}
    unread = []
    for name in IDENTITY:
        try:
            attribute = h5a.open(file.id, name.encode())
            kind = attribute.get_type()
            if isinstance(kind, h5t.TypeStringID) and kind.is_variable_str():
                unread.append(name)
                continue
            value = _read(attribute)
        except LIBRARY_FAILURES:
            continue
        if value is not None:
            found[name] = value
    if found.get("format") == FORMAT and unread:
        raise Damaged(
            f"{file.filename}: the root attribute {unread[0]!r} is text of variable length, which "
            "is not safe to read; write the file anew with a conforming writer",
            path=file.filename,
            location="/",
            rule="H5-012",
        )
    return found


def read_text(dataset: h5py.h5d.DatasetID, name: str) -> str | None:
    """The text of an attribute; None if there is none of fixed length."""
    try:
        value = _read(h5a.open(dataset, name.encode()))
    except LIBRARY_FAILURES:
        return None
    return value if isinstance(value, str) else None


def _read(attribute: h5a.AttrID) -> str | tuple[int, ...] | tuple[str, ...] | None:
    """Text or integers, alone or in a list; None for anything else."""
    kind, shape = attribute.get_type(), attribute.shape
    if len(shape) > 1 or math.prod(shape) * kind.get_size() > _MAX_BYTES:
        return None
    if isinstance(kind, h5t.TypeStringID) and not kind.is_variable_str():
        texts = np.empty(shape, f"S{kind.get_size()}")
        if texts.size:
            attribute.read(texts)
        decoded = tuple(item.decode("utf-8", "replace") for item in texts.ravel().tolist())
        return decoded if shape else decoded[0]
    if isinstance(kind, h5t.TypeIntegerID) and shape:
        numbers = np.empty(shape, np.int64)
        if numbers.size:
            attribute.read(numbers)
        return tuple(numbers.tolist())
    return None
