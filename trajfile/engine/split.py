"""How the products of some columns are added up tensor by tensor, in few operations.

The number of operations does not depend on how many tensors there are, and each number is added
only to those of its own tensor, in an order that depends on the columns alone. So what is not
finite stays where it is, and sums are the same bits in every run. The products of a row of columns
are the beginning of a row of a buffer; what is added up of them follows in the same row:

* columns are summed in groups of `GROUP`, wherever tensors begin and end;
* the columns of a tensor that are not in a group of its own alone are gathered, and summed in
  groups of `_EDGE`, filled up with zeros;
* what a tensor then has, sums of groups and of edges, is gathered and summed in groups of `_FAN`,
  again and again until one number is left.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trajfile.engine.rows import Index

#: Neighbouring columns that are summed together.
GROUP = 128
#: Columns of a tensor beside its groups that are summed together.
_EDGE = 8
#: Sums of a tensor that are summed together.
_FAN = 32
#: A row of the buffer is a multiple of this many numbers.
_ALIGNED = 8


@dataclass(frozen=True)
class Step:
    """Numbers of a row are gathered, and summed in groups.

    Attributes:
        index: Which of the indices of the split say what to gather; None if groups lie in place.
        at: Where they are gathered to, or lie.
        group: Numbers of a group.
        into: Where the first group's sum goes to.
        groups: How many groups.
    """

    index: slice | None
    at: int
    group: int
    into: int
    groups: int


@dataclass(frozen=True, eq=False)
class Split:
    """How a row is added up.

    Attributes:
        columns: Columns; a row begins with their products.
        tensors: How many tensors they are of, one after another.
        zero: Where each row must hold a zero.
        width: Numbers of a row of the buffer.
        steps: What is done, in order.
        last: Which of the indices say where each tensor's sum is in the end.
        result: Where these are gathered to.
        indices: Indices of all steps.
    """

    columns: int
    tensors: int
    zero: int
    width: int
    steps: tuple[Step, ...]
    last: slice
    result: int
    indices: Index


def split(bounds: Index) -> Split:
    """Work out how columns are added up.

    Args:
        bounds: Where each tensor begins among the columns, and where the last ends: increasing
            from zero.

    Returns:
        The split.
    """
    return _Maker(bounds).make()


def even(columns: int, most: int) -> int:
    """How many columns to split at a time: as seldom as can be, in parts alike, of whole groups.

    Args:
        columns: How many there are.
        most: How many can be split at a time.

    Returns:
        How many to split at a time; the last part may have fewer.
    """
    part = -(-columns // -(-columns // most))
    whole = -(-part // GROUP) * GROUP
    return whole if whole <= most else max(most - most % GROUP, min(part, most))


class _Maker:
    def __init__(self, bounds: Index) -> None:
        self.begin, self.end = bounds[:-1], bounds[1:]
        self.columns = int(bounds[-1])
        self.zero = self.columns
        self.width = self.columns + 1
        self.steps: list[Step] = []
        self.indices: list[Index] = []

    def make(self) -> Split:
        elements, counts = self._edges_and_groups()
        while (counts > 1).any():
            elements, counts = self._summed(elements, counts, _FAN)
        last = self._kept(elements)
        result = self._room(len(elements))
        return Split(
            self.columns,
            len(self.begin),
            self.zero,
            -(-self.width // _ALIGNED) * _ALIGNED,
            tuple(self.steps),
            last,
            result,
            np.concatenate(self.indices),
        )

    def _room(self, size: int) -> int:
        start, self.width = self.width, self.width + size
        return start

    def _kept(self, index: Index) -> slice:
        start = sum(map(len, self.indices))
        self.indices.append(index)
        return slice(start, start + len(index))

    def _edges_and_groups(self) -> tuple[Index, Index]:
        """The elements of each tensor after the first steps, and how many each has."""
        groups = self.columns // GROUP
        first, after = -(-self.begin // GROUP), self.end // GROUP
        own = np.maximum(after - first, 0)  # groups
        place = 0
        if own.any():
            place = self._room(groups)
            self.steps.append(Step(None, 0, GROUP, place, groups))
        starts = np.stack([self.begin, np.where(own > 0, after * GROUP, self.end)], axis=1)
        stops = np.stack([np.where(own > 0, first * GROUP, self.end), self.end], axis=1)
        edges = (stops - starts).sum(1)
        elements, counts = self._summed(_ranges(starts, stops - starts), edges, _EDGE)
        # Of each tensor, first its groups and then its edges.
        edge_starts = np.cumsum(counts) - counts
        both = np.concatenate([place + np.arange(groups), elements])
        starts = np.stack([first, groups + edge_starts], axis=1)
        sizes = np.stack([own, counts], axis=1)
        return both[_ranges(starts, sizes)], sizes.sum(1)

    def _summed(self, elements: Index, counts: Index, group: int) -> tuple[Index, Index]:
        """One step; tensors with a single element keep it."""
        many = counts > 1
        groups = np.where(many, -(-counts // group), 0)
        if not many.any():
            return elements, counts
        begin = np.cumsum(counts) - counts
        index = np.full(int(groups.sum()) * group, self.zero, np.int64)
        to = (np.cumsum(groups) - groups) * group
        index[_ranges(to[many], counts[many])] = elements[_ranges(begin[many], counts[many])]
        at, into = self._room(len(index)), self._room(int(groups.sum()))
        self.steps.append(Step(self._kept(index), at, group, into, int(groups.sum())))
        left = np.where(many, groups, counts)
        found = np.empty(int(left.sum()), np.int64)
        place = np.cumsum(left) - left
        found[_ranges(place[many], groups[many])] = into + np.arange(int(groups.sum()))
        found[place[counts == 1]] = elements[begin[counts == 1]]
        return found, left


def _ranges(starts: Index, counts: Index) -> Index:
    """The numbers start, start + 1, ..., as many as counted, of one range after another."""
    starts, counts = starts.ravel(), counts.ravel()
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))
