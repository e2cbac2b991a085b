"""The row dimension of a pass: which recorded rows, and which products between them, are needed.

Needs name rows by stream, timeline, form and reference. Different names often mean the same rows
(two timelines with the same steps; a pair and its mirror image), so needs are first reduced to
tracks, sequences and pairs:

* a *track* is the recorded rows of one stream at the steps of one timeline;
* a *sequence* is a track in one form: its values, their differences, or offsets from a reference;
* a *pair* is two sequences and the lags at which their rows are multiplied.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from trajfile.engine.header import Header
from trajfile.engine.needs import Form, Inner, LayerPair, Need, Row, SampleGram, Timeline
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Track:
    """The recorded rows of one stream at the steps of one timeline.

    Attributes:
        stream: The stream.
        positions: Which of the stream's selected rows, int64, increasing.
    """

    stream: str
    positions: Index


@dataclass(frozen=True)
class Sequence:
    """A track in one form.

    Attributes:
        track: Index of the track.
        form: As in `Row`.
        reference: Index of the reference row in `RowNeeds.references`; -1 without one.
    """

    track: int
    form: Form
    reference: int = -1

    @property
    def shortfall(self) -> int:
        """How many rows fewer than its track it has: a difference needs the row that follows."""
        return 1 if self.form == "difference" else 0


@dataclass(frozen=True)
class Pair:
    """Two sequences and the lags at which their rows are multiplied.

    Attributes:
        left: Index of the left sequence.
        right: Index of the right one; `left` <= `right`, and lags >= 0 where they are equal.
        lags: The lags, increasing.
        tensor_lags: Those wanted tensor by tensor too.
    """

    left: int
    right: int
    lags: tuple[int, ...]
    tensor_lags: tuple[int, ...]


@dataclass(frozen=True)
class Answer:
    """Where a declared pair of rows finds its inner products.

    Attributes:
        pair: Index of the pair.
        mirrored: Whether left and right changed places.
        lags: The declared lags, increasing.
        tensor_lags: The lags declared with ``per_tensor``, increasing.
    """

    pair: int
    mirrored: bool
    lags: tuple[int, ...]
    tensor_lags: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RowNeeds:
    """All row-wise work of a set of needs, each piece of it once.

    Attributes:
        tracks: The tracks.
        sequences: The sequences.
        pairs: The pairs.
        answers: By declared (left, right).
        references: (stream, position) of each reference row.
        samples: Whether centred Grams of gradient samples are wanted.
        layers: The layer pairs.
        needed: For each stream the positions of the rows to read, increasing.
    """

    tracks: list[Track] = field(default_factory=list)
    sequences: list[Sequence] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    answers: dict[tuple[Row, Row], Answer] = field(default_factory=dict)
    references: list[tuple[str, int]] = field(default_factory=list)
    samples: bool = False
    layers: tuple[LayerPair, ...] = ()
    needed: dict[str, Index] = field(default_factory=dict)

    def carry(self, track: int) -> int:
        """How many rows of a track must outlive a time block for the products still to come."""
        longest = 0
        for pair in self.pairs:
            left, right = self.sequences[pair.left], self.sequences[pair.right]
            for lag in pair.lags:
                # Rows made so far end at `-shortfall`, counted from the last row read. The next
                # product of this lag starts at the left row `start`.
                start = min(-left.shortfall, -right.shortfall - lag)
                if left.track == track:
                    longest = max(longest, -start)
                if right.track == track:
                    longest = max(longest, -(start + lag))
        return min(longest, len(self.tracks[track].positions))


def layer_streams(need: LayerPair) -> tuple[str, ...]:
    """The streams a layer pair draws on."""
    return (PARAMS, GRADIENTS) if need.law is not None else (PARAMS,)


def positions_of(steps: Index, wanted: Index) -> Index:
    """Where each of `wanted` lies in the increasing `steps`.

    Args:
        steps: Steps, int64, increasing.
        wanted: Steps, int64.

    Returns:
        Their positions, int64.

    Raises:
        ValueError: If one of them is not there; a metric asked for a row that does not exist.
    """
    index = np.searchsorted(steps, wanted)
    last = max(0, len(steps) - 1)
    if len(wanted) and not (len(steps) and (steps[np.minimum(index, last)] == wanted).all()):
        raise ValueError(f"steps {wanted} are not all recorded")
    return index.astype(np.int64)


def reduce_needs(header: Header, needs: Iterable[Need]) -> RowNeeds:
    """Reduce needs to tracks, sequences and pairs, each once.

    Args:
        header: The selected part of the run.
        needs: What the metrics declared.

    Returns:
        The work, in an order that depends on the needs alone.

    Raises:
        ValueError: If a need contradicts itself or the header: a bug of the metric.
    """
    ordered = sorted(needs, key=repr)
    builder = _Builder(header)
    for need in ordered:
        if isinstance(need, Inner):
            builder.add(need)
    layers = tuple(need for need in ordered if isinstance(need, LayerPair))
    samples = any(isinstance(need, SampleGram) for need in ordered) and header.has(GRADIENT_SAMPLES)
    return builder.conclude(samples=samples, layers=layers)


class _Builder:
    def __init__(self, header: Header) -> None:
        self.header = header
        self.tracks: dict[tuple[str, bytes], int] = {}
        self.named: dict[tuple[str, Timeline], int] = {}
        self.track_list: list[Track] = []
        self.sequences: dict[Sequence, int] = {}
        self.references: dict[tuple[str, int], int] = {}
        self.wanted: dict[tuple[Row, Row], tuple[set[int], set[int]]] = {}

    def add(self, need: Inner) -> None:
        lags, tensor_lags = self.wanted.setdefault((need.left, need.right), (set(), set()))
        lags.update(need.lags)
        if need.per_tensor:
            tensor_lags.update(need.lags)

    def track(self, row: Row) -> int:
        if row.stream == GRADIENT_SAMPLES:
            raise ValueError("gradient samples have no rows of their own to multiply")
        named = row.stream, row.timeline
        if named not in self.named:
            steps = self.header.timeline_steps(row.timeline)
            key = row.stream, steps.tobytes()
            if key not in self.tracks:
                recorded = self.header.steps.get(row.stream, np.empty(0, np.int64))
                self.tracks[key] = len(self.track_list)
                self.track_list.append(Track(row.stream, positions_of(recorded, steps)))
            self.named[named] = self.tracks[key]
        return self.named[named]

    def sequence(self, row: Row) -> int:
        reference = -1
        if (row.form == "offset") != (row.reference is not None):
            raise ValueError(f"a reference step belongs to the form 'offset' alone: {row}")
        if row.reference is not None:
            at = positions_of(self.header.steps[row.stream], np.array([row.reference], np.int64))
            key = row.stream, int(at[0])
            reference = self.references.setdefault(key, len(self.references))
        found = Sequence(self.track(row), row.form, reference)
        return self.sequences.setdefault(found, len(self.sequences))

    def conclude(self, *, samples: bool, layers: tuple[LayerPair, ...]) -> RowNeeds:
        merged: dict[tuple[int, int], tuple[set[int], set[int]]] = {}
        resolved: dict[tuple[Row, Row], tuple[tuple[int, int], bool]] = {}
        for (left, right), (lags, tensor_lags) in self.wanted.items():
            a, b = self.sequence(left), self.sequence(right)
            tracks = [self.track_list[self.track(row)] for row in (left, right)]
            if len(tracks[0].positions) != len(tracks[1].positions):
                raise ValueError(f"{left} and {right} do not share one timeline")
            mirrored = a > b
            key = (b, a) if mirrored else (a, b)
            resolved[left, right] = key, mirrored
            union = merged.setdefault(key, (set(), set()))
            for kept, asked in zip(union, (lags, tensor_lags), strict=True):
                kept.update(_canonical_lag(lag, mirrored=mirrored, same=a == b) for lag in asked)
        index = {key: number for number, key in enumerate(merged)}
        answers = {
            rows: Answer(index[key], mirrored, *(tuple(sorted(x)) for x in self.wanted[rows]))
            for rows, (key, mirrored) in resolved.items()
        }
        found = RowNeeds(
            tracks=self.track_list,
            sequences=list(self.sequences),
            pairs=[Pair(*key, *(tuple(sorted(x)) for x in sets)) for key, sets in merged.items()],
            answers=answers,
            references=list(self.references),
            samples=samples,
            layers=layers,
        )
        found.needed.update(_needed(self.header, found))
        return found


def _canonical_lag(lag: int, *, mirrored: bool, same: bool) -> int:
    return abs(lag) if same else -lag if mirrored else lag


def _needed(header: Header, rows: RowNeeds) -> dict[str, Index]:
    """For each stream the union of the positions that anything needs."""
    parts: dict[str, list[Index]] = {}
    for track in rows.tracks:
        parts.setdefault(track.stream, []).append(track.positions)
    for stream, position in rows.references:
        parts.setdefault(stream, []).append(np.array([position], np.int64))
    if rows.samples:
        parts[GRADIENT_SAMPLES] = [np.arange(len(header.steps[GRADIENT_SAMPLES]), dtype=np.int64)]
    for need in rows.layers:
        steps = header.timeline_steps(need.timeline)
        for stream in layer_streams(need):
            parts.setdefault(stream, []).append(positions_of(header.steps[stream], steps))
    needed: dict[str, Index] = {}
    for stream, several in parts.items():
        marked = np.zeros(len(header.steps.get(stream, ())), bool)
        for positions in several:
            marked[positions] = True
        needed[stream] = np.flatnonzero(marked).astype(np.int64)
    return needed
