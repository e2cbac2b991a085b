"""However streams advance and tensors join, what is read is what was appended."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trajfile

SHAPES = {
    "a": ((2, 3), np.float32),
    "b": ((3,), np.float64),
    "c": ((), np.float32),
    "d": ((0, 2), np.float64),
    "e": ((5,), np.float32),
    "f": ((1,), np.float64),
}
STREAMS = ("params", "gradients", "optimizer/exp_avg", "optimizer/exp_avg_sq")
STATED = {
    "optimizer": {"name": "Adam", "lr": 0.1},
    "gradient": {"stage": "raw", "source": "mini_batch"},
}
NAMES = st.sets(st.sampled_from(sorted(SHAPES)))

moves = st.lists(
    st.tuples(
        st.dictionaries(st.sampled_from(STREAMS), NAMES, max_size=3),
        st.dictionaries(
            st.sampled_from("xyz"), st.floats(allow_nan=False, allow_infinity=False), max_size=2
        ),
        st.booleans(),
    ),
    max_size=12,
)


def value(step: int, stream: str, name: str) -> np.ndarray:
    shape, dtype = SHAPES[name]
    return np.full(shape, step + STREAMS.index(stream) / 8, dtype)


@settings(deadline=None, max_examples=40)
@given(moves)
@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_any_history(suffix, moves):
    seen: dict[str, set[str]] = {stream: set() for stream in STREAMS}
    expected: dict[tuple[str, str], list[tuple[int, np.ndarray]]] = {}
    scalars: dict[str, list[tuple[int, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"run{suffix}"
        writer = trajfile.Writer(path, **STATED)
        # Both lanes must be there from the start for the others to join.
        moves = [({"params": {"a", "b"}, "gradients": {"a", "b"}}, {"x": 0.5}, False), *moves]
        for step, (streams, numbers, reopen) in enumerate(moves):
            call: dict[str, dict] = {"params": {}, "gradients": {}, "optimizer": {}}
            names: dict[str, set[str]] = {}
            for stream in STREAMS:
                if stream in streams:
                    # What was recorded stays; only params bring in new tensors.
                    allowed = set(SHAPES) if stream == "params" else seen["params"]
                    names[stream] = seen[stream] | (streams[stream] & allowed)
                    seen[stream] = names[stream]
            for stream, held in names.items():
                row = {name: value(step, stream, name) for name in sorted(held)}
                kind, _, slot = stream.partition("/")
                call[kind] |= {slot: row} if slot else row
                for name, array in row.items():
                    expected.setdefault((stream, name), []).append((step, array))
            for name, number in numbers.items():
                scalars.setdefault(name, []).append((step, number))
            writer.append(step, **call, scalars=numbers)
            if reopen:
                writer.close()
                writer = trajfile.Writer(path, "a", **STATED)
        writer.close()

        with trajfile.open(path) as run:
            for stream in run.streams:
                for name, tensor in run[stream].items():
                    rows = expected.get((stream, name), [])
                    assert tensor.steps.tolist() == [step for step, _ in rows]
                    read = tensor[:]
                    assert read.shape == (len(rows), *SHAPES[name][0])
                    for got, (_, array) in zip(read, rows, strict=True):
                        np.testing.assert_array_equal(got, array)
            for name, pairs in scalars.items():
                steps, values = run.scalars[name]
                assert list(zip(steps.tolist(), values.tolist(), strict=True)) == pairs
            assert {(s, n) for s in run.streams for n in run[s] if len(run[s][n])} == set(expected)
        assert trajfile.validate(path, deep=True) == []
