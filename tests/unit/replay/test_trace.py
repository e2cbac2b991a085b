"""Hutch++: exact where it can be, and elsewhere within its own standard error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from trajfile.replay.trace import trace


def estimate(matrix: np.ndarray, products: int):
    held = torch.from_numpy(matrix)
    return trace(lambda v: held @ v, held[0], products)


def random_matrix(seed: int, size: int = 80) -> np.ndarray:
    half = np.random.default_rng(seed).standard_normal((size, size))
    return (half + half.T) / 2 + np.diag(np.linspace(0, 5, size))


def test_exact_with_as_many_products_as_coordinates():
    matrix = random_matrix(0, 12)
    got = estimate(matrix, 12)
    assert got.value == pytest.approx(np.trace(matrix), rel=1e-13)
    assert (got.error, got.products) == (0.0, 12)


def test_exact_where_the_sketch_holds_everything():
    half = np.random.default_rng(1).standard_normal((60, 4))
    matrix = half @ half.T
    got = estimate(matrix, 18)
    assert got.value == pytest.approx(np.trace(matrix), rel=1e-10)
    assert got.error < 1e-10
    assert got.products == 18


def test_the_standard_error_covers_as_a_standard_error_should():
    # Ten samples: Student's t with nine degrees of freedom, 92 % within two standard errors.
    off = []
    for seed in range(200):
        matrix = random_matrix(seed)
        got = estimate(matrix, 30)
        off.append((got.value - np.trace(matrix)) / got.error)
    assert 0.86 < np.mean(np.abs(off) < 2) < 0.98
    assert abs(np.mean(off)) < 0.25  # fifteen standard errors of nothing: no bias to speak of


def test_an_image_that_is_not_finite_gives_no_number():
    matrix = random_matrix(0)
    matrix[0, 0] = np.inf
    got = estimate(matrix, 9)
    assert np.isnan(got.value)
    assert np.isnan(got.error)
