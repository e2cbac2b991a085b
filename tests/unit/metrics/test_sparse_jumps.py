"""The same jumps at every cadence: strides, bursts, and what only the loss betrays."""

from __future__ import annotations

import numpy as np
import pytest

from tests import toys
from tests.unit.metrics.test_intervals import autoregressive
from trajfile.metrics.periodicity import Periodicity

RATE, DECAY, STEPS = 0.1, 0.005, 16_000


def run(thetas, slopes, steps, *, losses=None, decay=DECAY, **options):
    """The metric on chosen snapshots of one tensor; losses are those of every step."""
    thetas, slopes = thetas[steps], slopes[steps]
    dense = toys.dense(
        thetas, slopes, steps=steps, rates=RATE, groups={"scale_invariant": ("w",)},
        optimizer={"name": "SGD", "weight_decay": decay, "momentum": 0.0},
    )  # fmt: skip
    if losses is not None:
        dense.scalars["loss"] = (np.arange(len(losses)), losses)
    metric = Periodicity(**options)
    return metric.compute(toys.measure_long(dense, metric.needs(dense.header), thetas, slopes))


@pytest.fixture(scope="module")
def jumping():
    """Jumps about every 950 steps: the less noise, the later and the higher each one."""
    return toys.decaying_circle(RATE, DECAY, STEPS, noise=1e-100)


@pytest.fixture(scope="module")
def truth(jumping):
    rows = np.flatnonzero(1 - np.cos(np.diff(jumping[2])) > 0.1)
    return rows[np.diff(rows, prepend=-100) > 10]


def bursts(every, length):
    return np.concatenate([np.arange(at, at + length) for at in range(0, STEPS - length, every)])


@pytest.mark.parametrize("stride", [1, 3, 10, 100])
def test_every_stride_shows_the_same_jumps(jumping, truth, stride):
    thetas, slopes, _ = jumping
    got = run(thetas, slopes, np.arange(0, STEPS, stride)).summary
    assert len(truth) > 12
    assert got["periodic"] is True
    assert got["jumps"] == len(truth)
    for (low, high), step, true in zip(
        got["jump_intervals"], got["jump_steps"], truth, strict=True
    ):
        assert low - stride <= true <= high + stride
        assert step == low
        assert high - low == stride - 1
    low, high = got["period_mean_interval"]
    assert low <= np.diff(truth).mean() <= high


@pytest.mark.parametrize(("every", "length"), [(100, 10), (60, 2)])
def test_bursts_show_the_same_jumps_and_place_those_inside_exactly(jumping, truth, every, length):
    thetas, slopes, _ = jumping
    steps = bursts(every, length)
    got = run(thetas, slopes, steps).summary
    assert got["method"] == "norm"
    assert got["jumps"] == len(truth)
    inside = np.isin(truth, steps[:-1][np.diff(steps) == 1])
    for (low, high), true, exact in zip(got["jump_intervals"], truth, inside, strict=True):
        if exact:
            assert low == high == true
        assert low - every <= true <= high + every


def test_a_jump_that_falls_into_a_burst_is_placed_exactly(jumping, truth):
    thetas, slopes, _ = jumping
    start = int(truth[3])
    steps = np.unique(np.concatenate([np.arange(0, STEPS, 100), np.arange(start - 3, start + 6)]))
    got = run(thetas, slopes, steps).summary
    assert [start, start] in got["jump_intervals"]
    assert got["jumps"] == len(truth)


def hidden(decay=0.05):
    """Kicks of ln 2 in ‖θ‖² at 400, 900, 1400; a stride's decay takes more than they give."""
    theta, thetas, losses = np.array([1.0, 0.0]), [], []
    for step in range(1800):
        thetas.append(theta)
        theta = theta * (1 - RATE * decay)
        losses.append(0.1)
        if step in (425, 925, 1425):
            theta = theta + np.array([-theta[1], theta[0]])
            losses[-1] = 3.0
    return np.array(thetas), np.array(losses)


def test_a_jump_that_decay_hides_is_betrayed_by_the_loss():
    thetas, losses = hidden()
    steps = np.arange(0, 1800, 100)  # the norm falls by e^{-1} a stride, and by half that in three
    assert np.all(np.diff((thetas[steps] ** 2).sum(axis=1)) < 0)
    blind = run(thetas, 0 * thetas, steps, decay=0.05).summary
    assert blind["jumps"] == 0
    assert blind["periodic"] is None
    seen = run(thetas, 0 * thetas, steps, losses=losses, decay=0.05).summary
    assert seen["jump_intervals"] == [[400, 499], [900, 999], [1400, 1499]]
    assert seen["jump_loss_factor"] == pytest.approx([30, 30, 30])
    # A spike alone is no jump, nor is a kick alone.
    calm, _ = hidden()
    calm = calm[0] * np.exp(np.log1p(-RATE * 0.05) * np.arange(1800))[:, None]
    assert run(calm, 0 * calm, steps, losses=losses, decay=0.05).summary["jumps"] == 0
    flat = np.full(1800, 0.1)
    assert run(thetas, 0 * thetas, steps, losses=flat, decay=0.05).summary["jumps"] == 0


@pytest.mark.parametrize("stride", [1, 10, 100])
def test_equilibrium_and_noise_never_show_jumps(stride):
    for seed in range(15):
        noise = autoregressive(0.5, 3000, 1, seed)[0]
        # A walk in angle with a norm that wavers by some percent, and a noisy loss.
        angle = np.cumsum(0.05 * noise)
        length = np.exp(0.01 * autoregressive(0.9, 3000, 1, seed + 50)[0])
        thetas = np.stack([np.sin(angle), np.cos(angle)], axis=1) * length[:, None]
        loss = 0.4 * np.exp(0.3 * noise)
        got = run(thetas, 0 * thetas, np.arange(0, 3000, stride), losses=loss, decay=1e-4)
        assert got.summary["jumps"] == 0, seed


def test_rises_below_delta_are_counted_at_every_cadence():
    # In the printed control no single step passes δ, yet the norm rises again and again.
    thetas, slopes, _ = toys.decaying_circle(RATE, 0.01, 10_000)
    every, tenth = (run(thetas, slopes, np.arange(0, 10_000, k), decay=0.01) for k in (1, 10))
    assert every.summary["jumps"] == 0
    assert every.summary["norm_rises"] > 30
    assert tenth.summary["jumps"] == tenth.summary["norm_rises"] == every.summary["norm_rises"]


@pytest.mark.parametrize("stride", [1, 10, 100])
def test_descent_without_decay_shows_no_jump_at_any_stride(stride):
    thetas, slopes, angles = toys.decaying_circle(RATE, 0.0, 10_000)
    got = run(thetas, slopes, np.arange(0, 10_000, stride), losses=np.sin(angles) ** 2, decay=0.0)
    assert got.summary["jumps"] == got.summary["norm_rises"] == 0


def test_too_few_rows_give_no_bare_residual(jumping):
    thetas, slopes, _ = jumping
    steps = np.array([0, 1, 2, 500, 1000])
    got = run(thetas, slopes, steps)
    assert got.summary["law_rows"] == 2
    assert got.summary["law_residual_median"] is None
    assert run(thetas, slopes, steps, law_rows=2).summary["law_residual_median"] < 1e-9


def test_large_turns_at_the_start_or_all_the_time_are_no_jumps():
    rng = np.random.default_rng(0)
    thetas = rng.normal(size=(2000, 2))  # nearly every step turns by more than δ
    thetas /= np.linalg.norm(thetas, axis=1)[:, None]
    steps = np.unique(np.concatenate([np.arange(0, 2000, 25), np.arange(0, 2000, 200) + 1]))
    assert run(thetas, 0 * thetas, steps, decay=0.0).summary["jumps"] == 0
    angle = 0.001 * np.arange(2000) + (np.arange(2000) > 0)  # only the first one does
    thetas = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    assert run(thetas, 0 * thetas, steps, decay=0.0).summary["jumps"] == 0
