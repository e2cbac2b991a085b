"""How surely a tensor is scale-invariant, against simulated chance."""

from __future__ import annotations

import numpy as np
import pytest

from tests.twin import Dense, measure
from trajfile.metrics.elr import Elr
from trajfile.metrics.scale_invariance import (
    InvarianceRule,
    chance_of,
    find_invariant,
    invariance_needs,
)


def find(dense, **rule):
    measured = measure(dense, invariance_needs(dense.header))
    return find_invariant(measured, InvarianceRule(**rule))


def vectors(rows, size, seed, invariant=False):
    normal = np.random.default_rng(seed).normal
    theta, slope = normal(size=(rows, size)), normal(size=(rows, size))
    if invariant:
        slope -= theta * ((theta * slope).sum(1) / (theta**2).sum(1))[:, None]
    return theta, slope


def dense(rows, **tensors):
    """Tensors by (size, invariant)."""
    at = np.arange(rows)
    made = {n: vectors(rows, *a) for n, a in tensors.items()}
    return Dense(
        {"params": at, "gradients": at},
        {
            "params": {n: x[0] for n, x in made.items()},
            "gradients": {n: x[1] for n, x in made.items()},
        },
    )


@pytest.mark.parametrize(("size", "count", "limit"), [(4, 3, 0.2), (50, 7, 0.05), (1000, 21, 0.02)])
def test_chance_is_that_of_unrelated_vectors(size, count, limit):
    medians = []
    for seed in range(1500):
        theta, slope = vectors(count, size, seed)
        cos = (theta * slope).sum(1) / np.linalg.norm(theta, axis=1) / np.linalg.norm(slope, axis=1)
        medians.append(np.median(np.abs(cos)))
    middle, chance = chance_of(limit, count, size)
    assert np.mean(np.array(medians) <= limit) == pytest.approx(chance, abs=0.035)
    assert np.median(medians) == pytest.approx(middle, rel=0.12)


def test_found_tensors_say_how_surely():
    found = find(dense(8, a=(30, 1, True), b=(30, 2), c=(400, 3, True)))
    assert found.tensors == ("a", "c")
    assert found.evidence["a"].gradients == 8
    assert found.evidence["a"].chance < 1e-12 < 0.1 < found.evidence["b"].chance
    assert found.evidence["b"].cosine == pytest.approx(found.evidence["b"].chance_cosine, rel=0.8)
    assert "8 gradients or more" in found.note
    assert "by chance with probability" in found.note


def test_large_tensors_are_not_found_by_chance_alone():
    # Unrelated vectors of 10⁶ elements have |cos| near 1e-3, the limit itself.
    big = dense(3, w=(1_000_000, 0))
    found = [find(dense(3, w=(1_000_000, seed))).tensors for seed in range(3)]
    assert found == [()] * 3
    loose = find(big, scale_invariance_cosine=1e-2)
    assert loose.tensors == ()
    assert "could be chance" in loose.reason


def test_few_gradients_sparse_in_time_are_enough_if_they_are_orthogonal():
    at = np.array([0, 1000, 9000])
    run = dense(3, w=(64, 5, True))
    run.steps = {"params": at, "gradients": at}
    assert find(run).tensors == ("w",)
    run.steps = {"params": at, "gradients": at[:2]}
    run.arrays["gradients"]["w"] = run.arrays["gradients"]["w"][:2]
    assert "too few gradients" in find(run).reason


def test_every_tensor_of_the_report_says_how_surely():
    run = dense(12, a=(30, 1, True), b=(30, 2))
    run.scalars["learning_rate"] = (np.arange(12), np.full(12, 0.1))
    metric = Elr()
    got = metric.compute(measure(run, metric.needs(run.header)))
    entry = got.per_tensor["a"].summary
    assert entry["scale_invariance_gradients"] == 12
    assert entry["scale_invariance_chance"] < 1e-12
    assert entry["scale_invariance_chance_cosine"] == pytest.approx(0.6745 / np.sqrt(30), rel=0.05)
    assert entry["effective_gradient_norm_interval"][0] < entry["effective_gradient_norm"]
