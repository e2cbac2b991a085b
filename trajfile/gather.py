"""Reading columns of a lane that lie elsewhere in another container's lane of that dtype."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from trajfile.containers.base import Array, Container
from trajfile.dtypes import bits_of
from trajfile.schema import StreamSpec


class Stretch(NamedTuple):
    """Columns ``start`` to ``stop`` - 1, which begin at column ``source`` in the other lane."""

    start: int
    stop: int
    source: int


def stretches(wanted: StreamSpec, held: StreamSpec | None, lane: str) -> list[Stretch]:
    """Where the columns of a lane lie in another table of the same stream.

    Args:
        wanted: The table whose columns are asked for.
        held: The table of the container that holds them; None if it lacks the stream.
        lane: The lane.

    Returns:
        Stretches as long as can be; tensors that ``held`` lacks are in none.
    """
    found: list[Stretch] = []
    for tensor in wanted.tensors:
        source = held.by_name.get(tensor.name) if held is not None else None
        if tensor.dtype != lane or source is None or not tensor.size:
            continue
        start, stop = tensor.columns.start, tensor.columns.stop
        last = found[-1] if found else None
        if last and last.stop == start and last.source + last.stop - last.start == source.offset:
            found[-1] = Stretch(last.start, stop, last.source)
        else:
            found.append(Stretch(start, stop, source.offset))
    return found


def gather(
    container: Container,
    stream: str,
    lane: str,
    rows: slice,
    columns: slice,
    places: list[Stretch],
    out: Array,
) -> None:
    """Read a block whose columns are scattered over the container's lane.

    Args:
        container: Where from.
        stream: The stream.
        lane: The lane.
        rows: Contiguous rows of the container.
        columns: Contiguous columns of those asked for.
        places: Where all of those lie; see `stretches`.
        out: C-contiguous, shape (rows, columns); columns in no stretch become zero bits.
    """
    covered = 0
    for place in places:
        start, stop = max(place.start, columns.start), min(place.stop, columns.stop)
        if start >= stop:
            continue
        source = slice(place.source + start - place.start, place.source + stop - place.start)
        if (start, stop) == (columns.start, columns.stop):
            container.read(stream, lane, rows, source, out)
            return
        if not covered:
            bits_of(out)[...] = 0
        part = np.empty((len(out), stop - start), out.dtype)
        container.read(stream, lane, rows, source, part)
        bits_of(out)[:, start - columns.start : stop - columns.start] = bits_of(part)
        covered += stop - start
    if not covered:
        bits_of(out)[...] = 0
