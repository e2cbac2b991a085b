"""What must not change an answer: how a run is cut up, stored and counted, and the scale of θ."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import trajfile
from tests.recorded import recorded
from tests.twin import Dense
from trajfile.reader import Trajectory

INVARIANT = ("a", "b")
#: Names in the order of the tensors; and notes, which print residuals that are rounding alone.
WORDS = {"scale_invariant_tensors", "notes"}


def train(seed, *, rate=0.05, decay=0.02, steps=48, scale=1.0, linear=True):
    """SGD on two scale-invariant tensors (and two linear layers), with every stream recorded.

    With `scale` c everything scale-invariant is c times as long, at the same effective rates.
    """
    random = np.random.default_rng(seed)
    shapes = {"a": (4, 3), "b": (6,)} | ({"first": (3, 4), "second": (2, 3)} if linear else {})
    theta = {name: random.normal(size=shape) for name, shape in shapes.items()}
    goals = {name: random.normal(size=shape) for name, shape in shapes.items() if name in INVARIANT}
    for name in goals:
        theta[name] = theta[name] * scale
    aim = random.normal(size=(2, 4))
    noise = np.random.default_rng(seed + 1)

    def gradients(theta, jitter):
        """Of Σ (1 - cos(θ, goal)) and of ‖W₂W₁ - aim‖²/2."""
        found, loss = {}, 0.0
        for name, goal in goals.items():
            at = theta[name]
            length = np.linalg.norm(at)
            unit = goal / np.linalg.norm(goal)
            cosine = float((at * unit).sum()) / length
            disturbed = unit + jitter * noise.normal(size=unit.shape)
            along = float((disturbed * at).sum()) / length**2
            found[name] = (along * at - disturbed) / length
            loss += 1 - cosine
        if not linear:
            return found, loss
        off = theta["second"] @ theta["first"] - aim
        found["first"], found["second"] = theta["second"].T @ off, off @ theta["first"].T
        return found, loss + float((off**2).sum()) / 2

    held = {stream: {name: [] for name in shapes} for stream in ("params", "gradients", "updates")}
    samples, sampled = {name: [] for name in shapes}, []
    losses = []
    rates = {name: rate * scale**2 if name in INVARIANT else rate for name in shapes}
    decays = {name: decay / scale**2 if name in INVARIANT else decay for name in shapes}
    for step in range(steps):
        slopes, loss = gradients(theta, 0.3)
        losses.append(loss)
        updates = {name: slopes[name] + decays[name] * theta[name] for name in shapes}
        rows = zip(held.values(), (theta, slopes, updates), strict=True)
        for kept, row in rows:
            for name in shapes:
                kept[name].append(row[name])
        if step % 6 == 0:
            for _ in range(5):
                drawn, _ = gradients(theta, 1.0)
                sampled.append(step)
                for name in shapes:
                    samples[name].append(drawn[name])
        theta = {name: theta[name] - rates[name] * updates[name] for name in shapes}
    at = np.arange(steps)
    return Dense(
        {**dict.fromkeys(held, at), "gradient_samples": np.array(sampled)},
        {
            **{s: {n: np.array(v) for n, v in named.items()} for s, named in held.items()},
            "gradient_samples": {n: np.array(v) for n, v in samples.items()},
        },
        {"loss": (at, np.array(losses)), "learning_rate": (at, np.full(steps, rate))},
        {"name": "SGD", "momentum": 0.0, "weight_decay": decay},
        {"scale_invariant": INVARIANT} | ({"layers": ("first", "second")} if linear else {}),
        {"stage": "raw", "source": "full_batch", "batch_size": 8, "dataset_size": 64},
    )


def analysed(dense, *, width=262144, **given):
    """The metrics of a run in memory, in plain JSON types."""
    report = trajfile.analyze(Trajectory(recorded(dense, width=width)), device="cpu", **given)
    return figures(report)


def figures(report):
    """All that is said by all metrics, in plain JSON types."""
    built = report.to_dict()["metrics"]
    assert [n for n, m in built.items() if m["status"] == "error"] == []
    return built


def same(one, other, *, skip=(), rtol=1e-7, where=""):
    """Equal in every word, every null and every count, and in numbers to a relative tolerance."""
    assert type(one) is type(other) or {type(one), type(other)} <= {int, float}, where
    if isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            if key not in skip:
                same(one[key], other[key], skip=skip, rtol=rtol, where=f"{where}.{key}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for k, (a, b) in enumerate(zip(one, other, strict=True)):
            same(a, b, skip=skip, rtol=rtol, where=f"{where}[{k}]")
    elif isinstance(one, float) or isinstance(other, float):
        assert math.isclose(one, other, rel_tol=rtol, abs_tol=rtol * 1e-5), (where, one, other)
    else:
        assert one == other, (where, one, other)


SEEDS = st.integers(0, 2**31)


def with_tensors(dense, change):
    """The run with each stream's tensors by name changed."""
    return replace(dense, arrays={s: change(named) for s, named in dense.arrays.items()})


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.permutations(["a", "b", "first", "second"]))
def test_order_of_tensors(seed, order):
    dense = train(seed)
    shuffled = with_tensors(dense, lambda named: {name: named[name] for name in order})
    same(analysed(dense), analysed(shuffled), skip=WORDS)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.integers(0, 3))
def test_split_of_a_tensor(seed, rows):
    """Two halves of a matrix count as the matrix, in all that is not said of single tensors."""
    dense = train(seed)

    def split(named):
        halves = {"a.0": named["a"][:, :rows], "a.1": named["a"][:, rows:]}
        return {**halves, **{name: held for name, held in named.items() if name != "a"}}

    halved = with_tensors(dense, split)
    halved.groups = dense.groups | {"scale_invariant": ("a.0", "a.1", "b")}
    # A half is not scale-invariant by itself, which the report says; the group is.
    same(
        analysed(dense),
        analysed(halved),
        skip=WORDS | {"per_tensor", "findings"},
    )


def recast(dense, dtype):
    """The same values in another lane."""
    return with_tensors(dense, lambda named: {n: v.astype(dtype) for n, v in named.items()})


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([("f4", "f8"), (ml_dtypes.bfloat16, "f4"), ("f2", "f8")]))
def test_lane_of_the_same_values(seed, lanes):
    narrow, wide = lanes
    dense = recast(train(seed), narrow)
    # What the imbalance shows beyond rounding depends on the lane, and so does whether updates
    # may miss the displacements by it; only that.
    one, other = analysed(dense), analysed(recast(dense, wide))
    rounded = [
        {name: metrics.pop(name)["series"] for name in ("imbalance", "alignment")}
        for metrics in (one, other)
    ]
    same(one, other, skip=WORDS)
    same(*rounded)


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([1, 3, 7]), st.sampled_from(["400KiB", "1MiB", "2GiB"]))
def test_width_of_chunks_and_memory(seed, width, memory):
    dense = train(seed)
    same(analysed(dense), analysed(dense, width=width, memory=memory), skip=WORDS)


def write(path, dense, **given):
    with trajfile.Writer(
        path, optimizer=dense.optimizer, groups=dense.groups, gradient=dense.gradient, **given
    ) as writer:
        for step in dense.steps["params"].tolist():
            rows = {}
            for stream, named in dense.arrays.items():
                at = np.flatnonzero(dense.steps[stream] == step)
                if len(at):
                    whole = slice(at[0], at[-1] + 1) if stream == "gradient_samples" else at[0]
                    rows[stream] = {name: held[whole] for name, held in named.items()}
            scalars = {name: float(held[step]) for name, (_, held) in dense.scalars.items()}
            writer.append(step, scalars=scalars, **rows)
    return path


@settings(max_examples=3, deadline=None)
@given(SEEDS)
def test_container_and_compression(seed):
    dense = train(seed)
    expected = analysed(dense)
    with TemporaryDirectory() as folder:
        for name, compression in (("a.h5", None), ("b.h5", "gzip"), ("c.zarr", "zstd")):
            path = write(Path(folder) / name, dense, compression=compression)
            same(expected, figures(trajfile.analyze(path, device="cpu")), skip=WORDS)


def at_steps(dense, change):
    """The run with every step renamed."""
    return replace(
        dense,
        steps={stream: change(steps) for stream, steps in dense.steps.items()},
        scalars={name: (change(at), held) for name, (at, held) in dense.scalars.items()},
    )


#: Summaries that are steps, or pairs of them.
STEPS = {
    *("gamma_trajectory_step", "reference_step", "regime_since_step", "regime_since_interval"),
    *("phase_boundary_step", "phase_boundary_range", "edge_since_step", "edge_since_range"),
    *("jump_steps", "jump_intervals", "lambda_1_max_step", "break_even_step", "break_even_range"),
}


def renamed_steps(result, change):
    """The series of a result at other steps."""
    return {
        name: {"step": [change(step) for step in held["step"]], "value": held["value"]}
        for name, held in result["series"].items()
    }


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(1, 10**6))
def test_count_of_steps_that_begins_later(seed, offset):
    """A run that was resumed: all as before, each step by so much later."""
    dense = train(seed)
    # The first losses recorded stand for the random level only near step 0.
    stated = {"elr.random_loss": float(dense.scalars["loss"][1][0])}
    one = analysed(dense, options=stated)
    later = analysed(at_steps(dense, lambda steps: steps + offset), options=stated)
    for name, result in one.items():
        same(renamed_steps(result, lambda step: step + offset), later[name]["series"])
        summary = dict(result["summary"])
        for key in summary.keys() & STEPS:
            held = np.array(summary[key], float) + offset
            summary[key] = None if summary[key] is None else held.astype(int).tolist()
        same(summary, later[name]["summary"], where=name)
        same(result["per_tensor"], later[name]["per_tensor"], where=name)


@settings(max_examples=5, deadline=None)
@given(SEEDS, st.integers(2, 50))
def test_unit_of_time(seed, factor):
    """Steps counted c at a time: what is said of single steps goes, what was measured stays.

    Snapshots are then c steps apart. Norms, distances, angles, curvature and covariance are of the
    rows themselves; laws and equilibria lead from one step to the next, so there are none.
    """
    dense = train(seed)
    one, counted = analysed(dense), analysed(at_steps(dense, lambda steps: steps * factor))
    for name, result in one.items():
        same(renamed_steps(result, lambda step: step * factor), counted[name]["series"])
        assert counted[name]["status"] == result["status"]
    for name in ("norms", "geometry", "gradient_noise"):
        steps = {key for key in one[name]["summary"] if "step" in key or "stride" in key}
        same(one[name]["summary"], counted[name]["summary"], skip=steps, where=name)
    assert counted["elr"]["summary"]["regime"] == one["elr"]["summary"]["regime"]
    assert counted["elr"]["summary"]["equilibrium_ratio"] is None
    assert counted["imbalance"]["summary"]["law_residual"] is None
    assert counted["periodicity"]["summary"]["law_residual_median"] is None


#: What goes with the length of scale-invariant tensors, and by which power of it.
POWERS = {"rho_squared": 2, "elr": 0, "effective_gradient_norm": 0, "angular_update": 0}


@settings(max_examples=8, deadline=None)
@given(SEEDS, st.sampled_from([1e-3, 0.5, 2.0, 1e3]), st.floats(0.02, 0.4))
def test_scale_of_a_scale_invariant_run_at_one_effective_learning_rate(seed, scale, rate):
    """θ by c, η by c², λ by 1/c² (so g by 1/c): the same turns, rates and regime."""

    def run(scale):
        dense = train(seed, rate=rate, scale=scale, linear=False)
        at, held = dense.scalars["learning_rate"]
        dense.scalars["learning_rate"] = (at, held * scale**2)
        dense.optimizer = dense.optimizer | {
            "weight_decay": dense.optimizer["weight_decay"] / scale**2
        }
        return dense

    dense, scaled = run(1.0), run(scale)
    np.testing.assert_allclose(
        scaled.arrays["gradients"]["a"] * scale, dense.arrays["gradients"]["a"], rtol=1e-6
    )
    one, other = analysed(dense), analysed(scaled)
    for name, power in POWERS.items():
        np.testing.assert_allclose(
            np.array(other["elr"]["series"][name]["value"], float),
            np.array(one["elr"]["series"][name]["value"], float) * scale**power,
            rtol=1e-6,
        )
    lengths = {key for key in one["elr"]["summary"] if key.startswith("rho_squared")}
    same(one["elr"]["summary"], other["elr"]["summary"], skip=WORDS | lengths, rtol=1e-5)
    for key in ("periodic", "jump_steps", "jumps"):
        assert other["periodicity"]["summary"][key] == one["periodicity"]["summary"][key]
    turns = [m["periodicity"]["series"]["cosine_distance"]["value"] for m in (one, other)]
    np.testing.assert_allclose(*np.array(turns, float), rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_the_runs_show_what_is_compared(seed):
    """Every metric has figures on them, so that equality is of numbers and not of nulls."""
    metrics = analysed(train(seed))
    assert {m["status"] for m in metrics.values()} == {"ok"}
    assert metrics["imbalance"]["summary"]["law_residual"] < 1e-9
    assert metrics["periodicity"]["summary"]["law_residual_median"] < 1e-9
