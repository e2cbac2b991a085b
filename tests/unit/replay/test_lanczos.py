"""The eigensolver against dense algebra, scipy, and the bound that a residual is."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse.linalg import eigsh

from trajfile.replay.lanczos import top_eigenpairs


def symmetric(size: int, seed: int, decay: float = 0.0) -> np.ndarray:
    """A random symmetric matrix; with decay, a few large eigenvalues and many small ones."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((size, size)))[0]
    spectrum = rng.standard_normal(size) * np.exp(-decay * np.arange(size))
    return (basis * spectrum) @ basis.T


def solve(matrix: np.ndarray, **options):
    held = torch.from_numpy(matrix)
    start = torch.randn(len(held), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = {"top": 3, "tolerance": 1e-8, "iterations": 500, "capacity": 100} | options
    return top_eigenpairs(lambda v: held @ v, start, **wanted)


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 40),
    seed=st.integers(0, 2**16),
    top=st.integers(1, 5),
    iterations=st.integers(2, 30),
    capacity=st.integers(2, 20),
    decay=st.sampled_from([0.0, 0.2, 1.0]),
)
def test_an_eigenvalue_lies_within_the_residual(size, seed, top, iterations, capacity, decay):
    matrix = symmetric(size, seed, decay)
    got = solve(matrix, top=top, iterations=iterations, capacity=capacity, tolerance=1e-3)
    exact = np.linalg.eigvalsh(matrix)
    slack = 1e-12 * max(np.abs(exact).max(), 1e-30)
    for value, residual, vector in zip(got.values, got.residuals, got.vectors, strict=True):
        assert np.abs(exact - value).min() <= residual + slack
        assert value <= exact[-1] + slack
        image = matrix @ vector.numpy()
        assert residual == pytest.approx(np.linalg.norm(image - value * vector.numpy()), abs=slack)
    assert (np.diff(got.values) <= slack).all()


@pytest.mark.parametrize("capacity", [8, 100], ids=["restarted", "whole"])
@pytest.mark.parametrize("seed", range(5))
def test_the_largest_are_those_of_scipy(seed, capacity):
    matrix = symmetric(120, seed, 0.05)
    got = solve(matrix, capacity=capacity)
    expected = eigsh(matrix, k=3, which="LA", return_eigenvectors=False)
    assert got.converged.all()
    assert got.values == pytest.approx(np.sort(expected)[::-1], rel=1e-10)


def test_a_restart_holds_no_more_vectors_than_it_may():
    seen = []
    matrix = torch.from_numpy(symmetric(300, 1))

    def operator(vector):
        seen.append(vector.untyped_storage().nbytes() // (8 * 300))
        return matrix @ vector

    start = torch.ones(300, dtype=torch.float64)
    got = top_eigenpairs(operator, start, top=2, tolerance=1e-6, iterations=900, capacity=12)
    assert got.converged.all()
    assert max(seen) == 12
    assert got.values == pytest.approx(np.linalg.eigvalsh(matrix.numpy())[:-3:-1], rel=1e-9)


def test_the_largest_of_a_spectrum_that_lies_below_zero_is_not_the_largest_in_size():
    matrix = np.diag(np.linspace(-9.0, -1.0, 50))
    assert solve(matrix, top=2).values == pytest.approx([-1.0, -1.0 - 8 / 49], rel=1e-9)


@pytest.mark.parametrize(
    "spectrum", [[5, 5, 1, 1, 1], [2, 2, 2, 2, 2], [0, 0, 0, 0, 0], [-1, -1, -1, -2, -3]]
)
def test_eigenvalues_that_occur_twice_are_found_twice(spectrum):
    matrix = symmetric(5, 0)
    basis = np.linalg.eigh(matrix)[1]
    got = solve((basis * np.array(spectrum, float)) @ basis.T, top=2)
    assert got.values == pytest.approx(sorted(spectrum)[:-3:-1], abs=1e-12)
    assert got.residuals.max() < 1e-12


def test_a_search_that_is_cut_short_says_so():
    matrix = symmetric(200, 3)
    got = solve(matrix, iterations=5, top=1, tolerance=1e-6)
    assert not got.converged.any()
    assert got.products == 6
    assert got.residuals[0] > 1e-3
    assert got.values[0] < np.linalg.eigvalsh(matrix)[-1]


def test_an_image_that_is_not_finite_gives_no_number():
    matrix = symmetric(10, 0)
    matrix[3, 3] = np.nan
    got = solve(matrix)
    assert np.isnan(got.values).all()
    assert np.isnan(got.residuals).all()
    assert not got.converged.any()
