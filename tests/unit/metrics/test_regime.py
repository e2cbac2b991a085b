"""Words over seeds and cadences: robust to noise, and undetermined rather than guessed."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.unit.metrics.test_intervals import autoregressive
from trajfile.metrics.regime import RegimeRule, classify

N = 2000
SEEDS = 20


def noisy(course, seed, phi=0.0, scale=0.2):
    """A course times exp of noise whose standard deviation is `scale`, whatever φ."""
    noise = autoregressive(phi, len(course), 1, seed)[0]
    return course * np.exp(scale * np.sqrt(1 - phi**2) * noise)


def judge(loss, slope, *, every=1, level=2.3, **rule):
    at = np.arange(len(loss))[::every]
    return classify(
        at, loss[::every], slope[::every], level=level, turned=10.0, rule=RegimeRule(**rule)
    )


def words(course, slope, *, every=1, phi=0.0, scale=0.2):
    return Counter(
        judge(
            noisy(course, seed, phi, scale), noisy(slope, seed + 100, phi, scale), every=every
        ).word
        for seed in range(SEEDS)
    )


FLAT = np.where(np.arange(N) < 100, 2.3 * np.exp(-np.arange(N) / 60), 0.45)
FALL = 2.0 * (1 + np.arange(N) / 50) ** -0.8


@pytest.mark.parametrize("every", [1, 5, 25])
def test_noise_and_cadence_do_not_change_the_word(every):
    assert words(FLAT, 20 * FLAT, every=every)["chaotic_equilibrium"] >= 0.9 * SEEDS
    assert words(FALL, 5 * FALL, every=every)["convergence"] >= 0.9 * SEEDS
    high = np.full(N, 2.4)
    assert words(high, 9 * high, every=every, scale=0.1)["divergence"] >= 0.8 * SEEDS


@pytest.mark.parametrize("phi", [0.9, 0.98])
def test_correlated_noise_is_never_taken_for_convergence(phi):
    found = words(FLAT, 20 * FLAT, phi=phi)
    assert found["convergence"] == found["divergence"] == 0
    assert found["chaotic_equilibrium"] >= 0.6 * SEEDS


@pytest.mark.parametrize("every", [1, 10, 25])
def test_the_onset_is_a_change_point_and_lies_in_its_interval(every):
    # A rate that is cut at step 800: the loss drops, and both curves are flat from there on.
    course = np.where(np.arange(N) < 800, 1.6, 0.3)
    held, off = 0, []
    for seed in range(SEEDS):
        found = judge(noisy(course, seed), noisy(20 * course, seed + 50), every=every)
        assert found.word == "chaotic_equilibrium"
        low, high = found.since_interval
        held += low <= 800 <= high
        off.append(abs(found.since_step - 800))
    assert held >= 0.9 * SEEDS
    assert np.median(off) <= max(4 * every, N / 60)


def test_a_change_near_the_end_is_left_undetermined():
    course = np.where(np.arange(N) < 1900, 1.6, 0.1)
    found = [
        judge(noisy(course, s, scale=0.05), noisy(course, s + 9, scale=0.05)) for s in range(5)
    ]
    assert {f.word for f in found} == {"undetermined"}
    assert all("too late to judge" in f.reason for f in found)
    assert all(f.since_step is None and f.since_interval is None for f in found)


def test_rising_curves_and_curves_that_disagree_are_undetermined():
    rise = np.linspace(0.2, 0.9, N)
    assert set(words(rise, rise)) == {"undetermined"}
    assert set(words(FALL, np.full(N, 9.0))) == {"undetermined"}


def test_a_slow_end_of_a_fall_is_still_convergence():
    # The last stretch alone falls by less than `falling`.
    course = np.where(np.arange(N) < 1400, 2 * np.exp(-np.arange(N) / 400), 0)
    tail = course[1399] * np.exp(-(np.arange(N) - 1400) / 9000)
    course = np.where(np.arange(N) < 1400, course, tail)
    found = judge(noisy(course, 0, scale=0.01), noisy(course, 1, scale=0.01))
    assert found.word == "convergence"


def test_the_evidence_has_intervals_that_hold_the_truth():
    held = 0
    for seed in range(SEEDS):
        found = judge(noisy(FLAT, seed), noisy(20 * FLAT, seed + 100))
        low, high = found.evidence["loss_mean_interval"]
        held += low <= 0.45 * np.exp(0.02) <= high  # mean of exp(N(0, .2²))
        low, high = found.evidence["loss_change_factor_interval"]
        assert low < 1.05
        assert high > 0.95
    assert held >= 0.8 * SEEDS


@pytest.mark.parametrize("course", [FALL, np.where(np.arange(N) < 300, FALL, 1e-4)])
def test_a_run_that_blows_up_again_and_again_has_not_converged(course):
    loss, slope = noisy(course, 0, scale=0.05), noisy(course, 1, scale=0.05)
    assert judge(loss, slope).word == "convergence"
    one = loss.copy()
    one[1500] = 2.6  # an odd sample changes nothing
    assert judge(one, slope).word == "convergence"
    # Single rows that trimmed means of the blocks leave out.
    loss[400::100] = 2.5
    loss[1500] = 2.6
    found = judge(loss, slope)
    assert found.word == "undetermined"
    assert "spikes again and again" in found.reason
    assert "most at step 1500 (2.6)" in found.reason


def test_scaling_the_gradient_norm_changes_nothing():
    loss, slope = noisy(FLAT, 3), noisy(FLAT, 4)
    a, b = judge(loss, slope), judge(loss, 1e6 * slope)
    assert (a.word, a.since_step, a.since_interval) == (b.word, b.since_step, b.since_interval)
