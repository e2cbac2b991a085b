"""Sums of inner products, and how partial sums become measurements.

An inner product of two rows is a sum over columns. So the partial sums of any two sets of columns
add up to those of their union, in whatever order they are merged: sums form a commutative monoid
under `merge`, exact but for rounding in float64. Strips, time blocks, threads, and in time several
machines, all rest on this alone.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.device import Machine, Sum
from trajfile.engine.measurements import Band, Measurements, SampleGrams
from trajfile.engine.needs import LayerPair, SampleGram
from trajfile.engine.plan import Plan
from trajfile.engine.rows import Answer, RowNeeds
from trajfile.schema import GRADIENT_SAMPLES

Float = NDArray[np.float64]


@dataclass(eq=False)
class BandSum:
    """The inner products of one pair, summed over the columns seen so far.

    Attributes:
        total: Over all tensors, float64, shape (rows, lags).
        tensors: Tensor by tensor, float64, shape (rows, tensor lags).
    """

    total: Sum
    tensors: dict[str, Sum]

    def merge(self, other: BandSum) -> None:
        """Add the sums over other columns."""
        self.total += other.total
        for name, values in other.tensors.items():
            if name in self.tensors:
                self.tensors[name] += values
            else:
                self.tensors[name] = values


@dataclass(eq=False)
class Sums:
    """All that a pass adds up.

    Attributes:
        bands: One for each pair.
        grams: For each step with gradient samples, the centred Gram, float64, (L, L).
        means: ||mean||^2 at each of these steps, float64, shape (steps,).
        traces: Each tensor's part of the Grams' traces, float64, shape (steps,).
    """

    bands: list[BandSum]
    grams: list[Sum]
    means: Sum
    traces: dict[str, Sum] = field(default_factory=dict)

    def merge(self, other: Sums) -> None:
        """Add the sums over other columns."""
        with np.errstate(invalid="ignore"):  # inf - inf
            for mine, theirs in zip(self.bands, other.bands, strict=True):
                mine.merge(theirs)
            for gram, added in zip(self.grams, other.grams, strict=True):
                gram += added
            self.means += other.means
        for name, values in other.traces.items():
            if name in self.traces:
                self.traces[name] += values
            else:
                self.traces[name] = values

    def on_host(self) -> Sums:
        """The sums as NumPy arrays of their own, which can be sent to another process."""
        return Sums(
            [
                BandSum(_on_host(b.total), {n: _on_host(v) for n, v in b.tensors.items()})
                for b in self.bands
            ],
            [_on_host(gram) for gram in self.grams],
            _on_host(self.means),
            {name: _on_host(values) for name, values in self.traces.items()},
        )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        held = [self.means, *self.grams, *self.traces.values()]
        for band in self.bands:
            held += [band.total, *band.tensors.values()]
        return sum(tensor.nbytes for tensor in held)


def empty_sums(plan: Plan, machine: Machine) -> Sums:
    """The sums over no columns at all: zero."""
    rows = plan.rows
    bands = []
    for pair in rows.pairs:
        length = len(rows.tracks[rows.sequences[pair.left].track].positions)
        bands.append(BandSum(machine.zeros((length, len(pair.lags))), {}))
    counts = sample_counts(plan)
    return Sums(
        bands, [machine.zeros((count, count)) for count in counts], machine.zeros((len(counts),))
    )


def sample_counts(plan: Plan) -> list[int]:
    """How many gradient samples each step has that has any."""
    if not plan.rows.samples:
        return []
    steps = plan.header.steps[GRADIENT_SAMPLES]
    return [int(count) for count in np.unique(steps, return_counts=True)[1]]


def conclude(plan: Plan, sums: Sums) -> Measurements:
    """The measurements, without layer balances.

    Args:
        plan: The plan of the pass.
        sums: Merged over all columns; taken over, not to be used again.

    Returns:
        For every declared pair its inner products, NaN where a row or tensor does not exist.
    """
    header, rows = plan.header, plan.rows
    totals: list[Float] = []
    singles: list[dict[str, Float]] = []
    for number, band in enumerate(sums.bands):
        total = _on_host(band.total)
        total[~_exists(rows, number, rows.pairs[number].lags)] = np.nan
        totals.append(total)
        singles.append(_single_tensors(plan, number, band) if plan.per_tensor else {})
    grams: dict[SampleGram, SampleGrams] = {}
    if rows.samples:
        steps = np.unique(header.steps[GRADIENT_SAMPLES])
        squares = tuple(_on_host(gram) for gram in sums.grams)
        traces = {name: _on_host(sums.traces[name]) for name in sums.traces}
        grams[SampleGram()] = SampleGrams(steps, squares, _on_host(sums.means), traces)
    return Measurements(
        header=header,
        bands={
            named: _answer(rows, answer, totals[answer.pair], singles[answer.pair])
            for named, answer in rows.answers.items()
        },
        sample_grams=grams,
        per_tensor_kept=plan.per_tensor,
        refused={n: why for n, why in plan.refused.items() if isinstance(n, LayerPair)},
    )


def _on_host(values: Sum) -> Float:
    """A sum as a NumPy array."""
    return values if isinstance(values, np.ndarray) else np.asarray(values.cpu())


def _exists(
    rows: RowNeeds, number: int, lags: tuple[int, ...], first: tuple[int, int] = (0, 0)
) -> NDArray[np.bool_]:
    """Which products exist, (rows, lags); `first` is the first existing row of each track."""
    pair = rows.pairs[number]
    left, right = rows.sequences[pair.left], rows.sequences[pair.right]
    length = len(rows.tracks[left.track].positions)
    i = np.arange(length)[:, None]
    j = i + np.array(lags, np.int64)[None, :]
    found: NDArray[np.bool_] = (
        (i >= first[0])
        & (i < length - left.shortfall)
        & (j >= first[1])
        & (j < length - right.shortfall)
    )
    return found


def _single_tensors(plan: Plan, number: int, band: BandSum) -> dict[str, Float]:
    """Each tensor's own products, in the order of the left stream."""
    rows, pair = plan.rows, plan.rows.pairs[number]
    if not pair.tensor_lags:
        return {}
    tracks = [rows.tracks[rows.sequences[side].track] for side in (pair.left, pair.right)]
    left, right = (plan.header.tensors[track.stream] for track in tracks)
    shape = len(tracks[0].positions), len(pair.tensor_lags)
    singles: dict[str, Float] = {}
    found: dict[tuple[int, int], NDArray[np.bool_]] = {}  # most tensors are there from the start
    for name in left:
        if name not in right:
            continue
        summed = band.tensors.pop(name, None)  # absent if the tensor has no element
        values = np.zeros(shape) if summed is None else _on_host(summed)
        joined = left[name].first_row, right[name].first_row
        if joined not in found:
            first = [
                track_start(plan, rows.sequences[side].track, row)
                for side, row in zip((pair.left, pair.right), joined, strict=True)
            ]
            exists = _exists(rows, number, pair.tensor_lags, (first[0], first[1]))
            found[joined] = exists & references_exist(plan, number, joined)
        values[~found[joined]] = np.nan
        singles[name] = values
    return singles


def track_start(plan: Plan, track: int, first_row: int) -> int:
    """The first row of a track at which a tensor exists that joined at recorded row `first_row`."""
    if first_row == 0:
        return 0
    found = plan.rows.tracks[track]
    return int(np.searchsorted(plan.layout.rows[found.stream][found.positions], first_row))


def references_exist(plan: Plan, number: int, first_rows: tuple[int, int]) -> bool:
    """Whether the reference rows of a pair hold tensors that joined at these recorded rows."""
    pair = plan.rows.pairs[number]
    for side, first_row in zip((pair.left, pair.right), first_rows, strict=True):
        reference = plan.rows.sequences[side].reference
        if reference >= 0:
            stream, position = plan.rows.references[reference]
            if plan.layout.rows[stream][position] < first_row:
                return False
    return True


def _answer(rows: RowNeeds, answer: Answer, total: Float, singles: dict[str, Float]) -> Band:
    """The products of a pair under the names and lags by which a metric asked for them."""
    pair = rows.pairs[answer.pair]

    def turned(values: Float, stored: tuple[int, ...], asked: tuple[int, ...]) -> Float:
        if stored == asked and (asked == (0,) or (not answer.mirrored and min(asked) >= 0)):
            return values
        columns = []
        for lag in asked:
            if lag in stored and not (answer.mirrored and lag != 0):
                columns.append(values[:, stored.index(lag)])
                continue
            # <a_i, b_(i+lag)> stands in row i+lag of the mirror image, at lag -lag.
            shifted = np.full(len(values), np.nan)
            source = values[:, stored.index(-lag)]
            count = max(0, len(values) - abs(lag))
            if lag < 0:
                shifted[len(values) - count :] = source[:count]
            else:
                shifted[:count] = source[len(values) - count :]
            columns.append(shifted)
        return np.stack(columns, axis=1)

    return Band(
        answer.lags,
        turned(total, pair.lags, answer.lags),
        {name: turned(v, pair.tensor_lags, answer.tensor_lags) for name, v in singles.items()}
        if answer.tensor_lags
        else {},
        answer.tensor_lags,
    )
