"""A dense float64 twin of the engine: every need by brute force, in plain NumPy, for oracles.

It holds the whole run in memory, forms every row explicitly and multiplies whole vectors. It
shares no code with the engine.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from trajfile.engine.header import Header
from trajfile.engine.measurements import Band, LayerBalance, Measurements, SampleGrams
from trajfile.engine.needs import Inner, LayerPair, Need, Row, SampleGram
from trajfile.schema import TensorSpec


@dataclass
class Dense:
    """A run in memory: stream -> tensor -> array with one leading row axis.

    For gradient_samples the leading axis runs over (step, sample) pairs, and `steps` repeats.
    """

    steps: dict[str, np.ndarray]
    arrays: dict[str, dict[str, np.ndarray]]
    scalars: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    optimizer: dict = field(default_factory=dict)
    groups: dict = field(default_factory=dict)
    gradient: dict = field(default_factory=dict)
    metadata: dict = field(default_factory=dict)

    @property
    def header(self) -> Header:
        tensors: dict[str, dict[str, TensorSpec]] = {}
        for stream, named in self.arrays.items():
            offsets: dict[str, int] = {}
            tensors[stream] = {}
            for name, rows in named.items():
                dtype = rows.dtype.name
                offset = offsets.get(dtype, 0)
                spec = TensorSpec(name, tuple(rows.shape[1:]), dtype, offset)
                offsets[dtype] = offset + spec.size
                tensors[stream][name] = spec
        return Header(
            steps={s: np.asarray(v, np.int64) for s, v in self.steps.items()},
            tensors=tensors,
            scalars={
                k: (np.asarray(s, np.int64), np.asarray(v, np.float64))
                for k, (s, v) in self.scalars.items()
            },
            optimizer=self.optimizer,
            groups={k: tuple(v) for k, v in self.groups.items()},
            gradient=self.gradient,
            metadata=self.metadata,
        )


def measure(dense: Dense, needs: Iterable[Need]) -> Measurements:
    """Answer all needs on a dense run."""
    header = dense.header
    lags: dict[tuple[Row, Row], set[int]] = {}
    for need in needs:
        if isinstance(need, Inner):
            lags.setdefault((need.left, need.right), set()).update(need.lags)
    bands = {
        pair: _band(dense, header, *pair, tuple(sorted(wanted))) for pair, wanted in lags.items()
    }
    return Measurements(
        header=header,
        bands=bands,
        sample_grams={n: _grams(dense, n) for n in needs if isinstance(n, SampleGram)},
        layer_balances={n: _layers(dense, header, n) for n in needs if isinstance(n, LayerPair)},
    )


def _rows(dense: Dense, header: Header, row: Row, tensor: str) -> np.ndarray:
    """The row sequence as (n, size) float64; rows that do not exist are NaN."""
    steps = header.timeline_steps(row.timeline)
    stored = np.asarray(dense.arrays[row.stream][tensor], np.float64)
    flat = stored.reshape(len(stored), -1)
    at = {int(step): k for k, step in enumerate(header.steps[row.stream])}
    x = flat[[at[int(step)] for step in steps]]
    if row.form == "difference":
        return np.concatenate([x[1:] - x[:-1], np.full_like(x[:1], np.nan)])
    if row.form == "offset":
        return x - flat[at[row.reference]]
    return x


def _band(dense: Dense, header: Header, left: Row, right: Row, lags: tuple[int, ...]) -> Band:
    names = [n for n in header.tensors[left.stream] if n in header.tensors[right.stream]]
    n = len(header.timeline_steps(left.timeline))
    tensors = {}
    for name in names:
        a, b = _rows(dense, header, left, name), _rows(dense, header, right, name)
        values = np.full((n, len(lags)), np.nan)
        for i in range(n):
            for column, lag in enumerate(lags):
                if 0 <= i + lag < n:
                    exists = not (
                        (left.form == "difference" and i == n - 1)
                        or (right.form == "difference" and i + lag == n - 1)
                    )
                    if exists:
                        values[i, column] = float(a[i] @ b[i + lag])
        tensors[name] = values
    total = sum(tensors.values(), np.zeros((n, len(lags))))
    return Band(lags, total, tensors)


def _grams(dense: Dense, need: SampleGram) -> SampleGrams:
    all_steps = np.asarray(dense.steps[need.stream], np.int64)
    flat = np.concatenate(
        [np.asarray(v, np.float64).reshape(len(v), -1) for v in dense.arrays[need.stream].values()],
        axis=1,
    )
    steps = np.unique(all_steps)
    grams, means = [], []
    for step in steps:
        g = flat[all_steps == step]
        mean = g.mean(axis=0)
        grams.append((g - mean) @ (g - mean).T)
        means.append(float(mean @ mean))
    tensors = {}
    for name, values in dense.arrays[need.stream].items():
        own = np.asarray(values, np.float64).reshape(len(values), -1)
        parts = [own[all_steps == step] for step in steps]
        tensors[name] = np.array([np.square(g - g.mean(axis=0)).sum() for g in parts])
    return SampleGrams(steps, tuple(grams), np.asarray(means), tensors)


def _layers(dense: Dense, header: Header, need: LayerPair) -> LayerBalance:
    steps = header.timeline_steps(need.timeline)

    def matrices(stream: str, name: str) -> np.ndarray:
        at = {int(step): k for k, step in enumerate(header.steps[stream])}
        return np.asarray(dense.arrays[stream][name], np.float64)[[at[int(s)] for s in steps]]

    def imbalance(stream: str) -> np.ndarray:
        first, second = matrices(stream, need.first), matrices(stream, need.second)
        return np.stack([b.T @ b - a @ a.T for a, b in zip(first, second, strict=True)])

    d = imbalance("params")
    residual = np.full(len(steps), np.nan)
    change = np.full(len(steps), np.nan)
    if need.law is not None:
        e = imbalance("gradients")
        for i in range(len(steps) - 1):
            keep, gain = need.law.keep[i], need.law.gain[i]
            if keep is not None and gain is not None:
                residual[i] = np.linalg.norm(d[i + 1] - keep * d[i] - gain * e[i])
                change[i] = np.linalg.norm(d[i + 1] - d[i])
    return LayerBalance(
        steps,
        np.array([np.linalg.norm(x) for x in d]),
        np.array([np.abs(np.diag(x)).max() for x in d]),
        np.array([np.trace(x) for x in d]),
        residual,
        change,
    )
