"""Tensors as text: a line for each row, a column for each element."""

from __future__ import annotations

import csv
import io
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.containers.pieces import PIECE_BYTES
from trajfile.dtypes import EXTENDED
from trajfile.extract import Extract

#: Text takes up to this many times the bytes of the elements it shows.
_EXPANSION = 32


def write_csv(file: BinaryIO, extracts: list[Extract]) -> list[str]:
    """Write tensors over steps; a tensor that joined later has empty cells before.

    Floats are the shortest decimals that give the same number back in the recorded dtype; those
    that NumPy lacks are written as the float32 of the same value. A NaN's payload is lost.

    Args:
        file: Where to.
        extracts: The tensors.

    Returns:
        What must be known to read them back, a sentence each.
    """
    longest = max(extracts, key=lambda one: len(one.rows))
    text = io.TextIOWrapper(file, "utf-8", newline="")
    try:
        _header(text, extracts)
        row_bytes = sum(one.spec.size * one.dtype.itemsize for one in extracts)
        height = max(1, PIECE_BYTES // _EXPANSION // max(1, row_bytes))
        for start in range(0, len(longest.rows), height):
            _lines(text, longest, extracts, start, min(start + height, len(longest.rows)))
    finally:
        text.detach()
    return []


def _header(text: io.TextIOWrapper, extracts: list[Extract]) -> None:
    keys = ["step"] if extracts[0].samples is None else ["step", "sample"]
    csv.writer(text, lineterminator="").writerow(keys)
    for one in extracts:
        for first in range(0, one.spec.size, 2**16):
            flat = range(first, min(first + 2**16, one.spec.size))
            names = [_element(one.name, one.spec.shape, number) for number in flat]
            text.write(",")
            csv.writer(text, lineterminator="").writerow(names)
    text.write("\n")


def _element(name: str, shape: tuple[int, ...], number: int) -> str:
    if not shape:
        return name
    return f"{name}[{','.join(str(i) for i in np.unravel_index(number, shape))}]"


def _lines(
    text: io.TextIOWrapper, longest: Extract, extracts: list[Extract], start: int, stop: int
) -> None:
    """Write some rows; of each tensor a piece of these rows is held at a time."""
    if stop - start == 1:
        _key(text, longest, start)
        for one in extracts:
            row = start - (len(longest.rows) - len(one.rows))
            if row < 0:
                text.write("," * one.spec.size)
                continue
            for part in one.parts(row, row + 1):
                for first in range(0, part.shape[1], 2**16):
                    text.write("," + ",".join(_cells(part[0, first : first + 2**16])))
        text.write("\n")
        return
    blocks = []
    for one in extracts:
        late = len(longest.rows) - len(one.rows)
        parts = list(one.parts(max(0, start - late), max(0, stop - late)))
        cells: NDArray[np.str_] | None = None
        if parts:
            cells = _cells(np.concatenate(parts))
        blocks.append((max(0, late - start), one.spec.size, cells))
    for row in range(start, stop):
        _key(text, longest, row)
        for absent, size, cells in blocks:
            if row - start < absent or cells is None:
                text.write("," * size)
            else:
                text.write("," + ",".join(cells[row - start - absent]))
        text.write("\n")


def _key(text: io.TextIOWrapper, longest: Extract, row: int) -> None:
    text.write(str(longest.steps[row]))
    if longest.samples is not None:
        text.write(f",{longest.samples[row]}")


def _cells(values: Array) -> NDArray[np.str_]:
    shown = values
    if values.dtype.name in EXTENDED:
        whole = np.int64 if "int" in values.dtype.name else np.float32
        shown = values.astype(whole)
    return shown.astype(np.str_)
