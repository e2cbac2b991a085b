"""Where a tensor's bytes lie in a checkpoint, and how a range of its elements is fetched."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from trajfile.dtypes import ITEM_SIZES, bits_dtype
from trajfile.importers.files import File, Files

Bits = NDArray[Any]


class Place(Protocol):
    """A tensor in a checkpoint, not read yet."""

    @property
    def dtype(self) -> str:
        """The dtype's name in the table of dtypes."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape; ``()`` for a scalar."""
        ...

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """Fetch elements [start, stop) in C order as unsigned bits into a flat array."""
        ...


@dataclass(frozen=True)
class Span:
    """A tensor whose elements follow one another in C order.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        file: The file.
        offset: Its first byte.
    """

    dtype: str
    shape: tuple[int, ...]
    file: File
    offset: int

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """One positioned read."""
        files.read(self.file, self.offset + start * ITEM_SIZES[self.dtype], out[: stop - start])


@dataclass(frozen=True)
class Strided:
    """A view: a transposed, sliced or expanded tensor that shares a longer stretch of bytes.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        file: The file.
        offset: The byte of its first element.
        strides: Distance between neighbours along each axis, in elements, none negative.
    """

    dtype: str
    shape: tuple[int, ...]
    file: File
    offset: int
    strides: tuple[int, ...]

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """Read as many slices of the first axis as hold the elements, and reorder them.

        Where the first axis has the smallest stride, as after a transposition, its slices lie
        spread over the whole tensor, and all of it is read.
        """
        del_last = math.prod(self.shape[1:])
        first, last = start // del_last, -(-stop // del_last)
        shape, strides = (last - first, *self.shape[1:]), self.strides
        length = 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        size = ITEM_SIZES[self.dtype]
        block = np.empty(length, bits_dtype(self.dtype))
        files.read(self.file, self.offset + first * strides[0] * size, block)
        view = np.lib.stride_tricks.as_strided(
            block, shape, [s * size for s in strides], writeable=False
        )
        skip = start - first * del_last
        out[: stop - start] = view.reshape(-1)[skip : skip + stop - start]


@dataclass(frozen=True)
class Pieces:
    """A tensor that was saved in several boxes, as by the ranks of a distributed training.

    Attributes:
        dtype: Its dtype.
        shape: Its shape.
        boxes: Each box's first index along every axis, and where it lies. The boxes tile the
            tensor.
    """

    dtype: str
    shape: tuple[int, ...]
    boxes: tuple[tuple[tuple[int, ...], Place], ...]

    def read(self, files: Files, start: int, stop: int, out: Bits) -> None:
        """Fill the slices of the first axis that hold the elements, box by box."""
        rest = math.prod(self.shape[1:])
        first, last = start // rest, -(-stop // rest)
        block = np.empty((last - first, *self.shape[1:]), bits_dtype(self.dtype))
        for corner, place in self.boxes:
            top = max(first, corner[0])
            bottom = min(last, corner[0] + place.shape[0])
            if top >= bottom:
                continue
            inner = math.prod(place.shape[1:])
            part = np.empty((bottom - top) * inner, block.dtype)
            place.read(files, (top - corner[0]) * inner, (bottom - corner[0]) * inner, part)
            where = tuple(slice(c, c + n) for c, n in zip(corner[1:], place.shape[1:], strict=True))
            block[(slice(top - first, bottom - first), *where)] = part.reshape(
                bottom - top, *place.shape[1:]
            )
        skip = start - first * rest
        out[: stop - start] = block.reshape(-1)[skip : skip + stop - start]


def strided(
    dtype: str, shape: tuple[int, ...], file: File, offset: int, strides: tuple[int, ...]
) -> Place:
    """The simplest place for a tensor with strides, in elements."""
    expected, dense = 1, True
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        dense = dense and (size == 1 or stride == expected)
        expected *= size
    if dense or 0 in shape:
        return Span(dtype, shape, file, offset)
    return Strided(dtype, shape, file, offset, strides)
