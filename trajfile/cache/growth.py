"""A run that gained rows: which measurements stand, and which rows complete the others.

A product of two rows stands for ever once both are there, because committed rows never change.
So of a run that grew behind what was measured, only products with a new row are missing: for them
the new rows are read, the rows that reach back from them by the largest lag, and the rows that
offsets are taken from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from trajfile.cache.entry import Entry
from trajfile.engine.header import Header
from trajfile.engine.measurements import Band, Measurements, SampleGrams
from trajfile.engine.needs import Inner, Need, Row, SampleGram

Steps = NDArray[np.int64]


@dataclass(frozen=True)
class Extension:
    """How measurements are completed.

    Attributes:
        kept: The old measurements, of the needs `grown`.
        grown: Needs of which only products with new rows are missing.
        tail: The selection that they are measured of: new rows and those they reach back to.
        anew: Needs that are measured anew, because old rows take part in what is new of them.
    """

    kept: Measurements
    grown: frozenset[Need]
    tail: Header
    anew: frozenset[Need]


def extension(entry: Entry, header: Header, needs: frozenset[Need]) -> Extension | None:
    """How an entry of fewer rows is completed.

    Args:
        entry: The entry; its run and all its commits are those of `header`.
        header: The selection now.
        needs: What is wanted of it.

    Returns:
        What to do; None if nothing of the entry can be used.
    """
    steps = entry.steps()
    if steps.keys() != header.steps.keys() or not all(
        _begins(header.steps[stream], old) for stream, old in steps.items()
    ):
        return None
    old = replace(header, steps=steps)
    tail = replace(header, steps=_tail(old, header, needs))
    anew = {n for n in needs if not (entry.covers([n]) and _grows(n, old, header, tail))}
    pairs = {(n.left, n.right) for n in anew if isinstance(n, Inner)}
    anew |= {n for n in needs if isinstance(n, Inner) and (n.left, n.right) in pairs}
    grown = frozenset(needs) - anew
    if not grown:
        return None
    return Extension(entry.measurements(old, grown), grown, tail, frozenset(anew))


def merged(kept: Measurements, added: Measurements, header: Header) -> Measurements:
    """The measurements of all rows.

    Args:
        kept: Of the old rows.
        added: Of the tail of the selection.
        header: The selection.

    Returns:
        For each pair of rows that was added: old products where all rows of them are old, added
        ones elsewhere.
    """
    return Measurements(
        header=header,
        bands={
            rows: _joined(kept.bands[rows], band, rows, kept.header, header)
            for rows, band in added.bands.items()
        },
        sample_grams={
            need: _all_grams(kept.sample_grams[need], grams)
            for need, grams in added.sample_grams.items()
        },
        per_tensor_kept=kept.per_tensor_kept and added.per_tensor_kept,
    )


def united(parts: Iterable[Measurements]) -> Measurements:
    """Measurements of one selection, made for needs that share no pair of rows."""
    first, *others = parts
    bands, grams = dict(first.bands), dict(first.sample_grams)
    layers, refused = dict(first.layer_balances), dict(first.refused)
    kept = first.per_tensor_kept
    for part in others:
        bands |= part.bands
        grams |= part.sample_grams
        layers |= part.layer_balances
        refused |= part.refused
        kept &= part.per_tensor_kept
    return replace(
        first,
        bands=bands,
        sample_grams=grams,
        layer_balances=layers,
        refused=refused,
        per_tensor_kept=kept,
    )


def _begins(now: Steps, old: Steps) -> bool:
    """Whether the old steps are the first of those now, and no sample joined the last of them."""
    count = len(old)
    if count > len(now) or not np.array_equal(now[:count], old):
        return False
    return not 0 < count < len(now) or bool(now[count] > old[-1])


def _tail(old: Header, header: Header, needs: frozenset[Need]) -> dict[str, Steps]:
    """The steps to be read: those that are new, and those that products of them reach back to."""
    first = np.iinfo(np.int64).max
    references: dict[str, set[int]] = {}
    for stream, steps in header.steps.items():
        new = steps[len(old.steps[stream]) :]
        first = min([first, *new[:1].tolist()])
    for need in needs:
        if not isinstance(need, Inner):
            continue
        known = old.timeline_steps(need.left.timeline)
        if need.left.timeline.limit is None and len(known):
            first = min(first, int(known[max(0, len(known) - _reach(need))]))
        for row in (need.left, need.right):
            if row.reference is not None:
                references.setdefault(row.stream, set()).add(row.reference)
    return {
        stream: steps[(steps >= first) | np.isin(steps, sorted(references.get(stream, ())))]
        for stream, steps in header.steps.items()
    }


def _reach(need: Inner) -> int:
    """How many rows before the first new one take part in products with new ones."""
    return max(map(abs, need.lags)) + 1


def _grows(need: Need, old: Header, header: Header, tail: Header) -> bool:
    """Whether all that is missing of a need can be measured of the tail."""
    if isinstance(need, SampleGram):
        return True
    if not isinstance(need, Inner):
        return False
    timeline = need.left.timeline
    known, now, later = (h.timeline_steps(timeline) for h in (old, header, tail))
    if not _begins(now, known) or need.right.timeline != timeline:
        return False
    reach = min(_reach(need), len(known))
    due = len(now) - len(known) + reach
    return len(later) >= due and np.array_equal(later[len(later) - due :], now[len(now) - due :])


def _joined(old: Band, new: Band, rows: tuple[Row, Row], before: Header, header: Header) -> Band:
    """The products of all rows of a pair."""
    timeline = rows[0].timeline
    known, now = len(before.timeline_steps(timeline)), len(header.timeline_steps(timeline))
    short = [row.form == "difference" for row in rows]
    index = np.arange(now)[:, None]

    def joined(
        kept: NDArray[np.float64],
        kept_lags: tuple[int, ...],
        added: NDArray[np.float64],
        lags: tuple[int, ...],
    ) -> NDArray[np.float64]:
        lag = np.array(lags, np.int64)[None, :]
        stands = np.maximum(index + short[0], index + lag + short[1]) < known
        whole = np.full((now, len(lags)), np.nan)
        whole[:known] = kept[:, [kept_lags.index(n) for n in lags]]
        # The tail may begin with rows that offsets are taken from: only its end is aligned.
        late = np.full((now, len(lags)), np.nan)
        count = min(now, len(added))
        late[now - count :] = added[len(added) - count :]
        return np.where(stands, whole, late)

    return Band(
        new.lags,
        joined(old.total, old.lags, new.total, new.lags),
        {
            name: joined(
                old.tensors[name],
                old.tensor_lags or old.lags,
                values,
                new.tensor_lags or new.lags,
            )
            for name, values in new.tensors.items()
        },
        new.tensor_lags,
    )


def _all_grams(old: SampleGrams, new: SampleGrams) -> SampleGrams:
    """The Gram matrices of old and of new steps; a step that both have is of the old."""
    late = ~np.isin(new.steps, old.steps)
    return SampleGrams(
        np.concatenate([old.steps, new.steps[late]]),
        old.grams + tuple(gram for gram, is_new in zip(new.grams, late, strict=True) if is_new),
        np.concatenate([old.mean_norm_squared, new.mean_norm_squared[late]]),
        _all_traces(old.tensors, new.tensors, late),
    )


def _all_traces(
    old: Mapping[str, NDArray[np.float64]],
    new: Mapping[str, NDArray[np.float64]],
    late: NDArray[np.bool_],
) -> dict[str, NDArray[np.float64]]:
    return {name: np.concatenate([old[name], new[name][late]]) for name in new if name in old}
