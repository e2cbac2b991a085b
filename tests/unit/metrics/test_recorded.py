"""The whole path, file to report, against whole vectors of a recorded run in plain NumPy."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

import trajfile

SAMPLES = Path(__file__).parents[3] / "sample_data"


@cache
def report(name):
    return trajfile.analyze(SAMPLES / name, device="cpu").metrics


@cache
def matrix(name, stream, only=None):
    """All rows of a stream as one float64 matrix."""
    lazy = trajfile.open(SAMPLES / name)
    names = [n for n in lazy.tensors(stream) if only is None or n in only]
    rows = [np.asarray(lazy[stream][n][:], np.float64) for n in names]
    return np.concatenate([x.reshape(len(x), -1) for x in rows], axis=1)


def series(name, metric, which):
    found = report(name)[metric].series[which]
    return np.array(found.step), np.array(found.value, np.float64)


def norm(rows):
    return np.linalg.norm(rows, axis=1)


@pytest.mark.parametrize("name", ["aligned.h5", "periodic_jumps.h5", "quickstart.zarr"])
def test_norms(name):
    theta = matrix(name, "params")
    np.testing.assert_allclose(series(name, "norms", "params")[1], norm(theta), rtol=1e-5)
    np.testing.assert_allclose(
        series(name, "norms", "relative_update")[1],
        norm(np.diff(theta, axis=0)) / norm(theta[:-1]),
        rtol=1e-5,
    )


@pytest.mark.parametrize("name", ["aligned.h5", "misaligned.h5"])
def test_alignment(name):
    steps, cosine = series(name, "alignment", "cosine")
    lazy = trajfile.open(SAMPLES / name)
    theta = matrix(name, "params")[np.isin(lazy.steps("params"), steps)]
    update = matrix(name, "updates")[np.isin(lazy.steps("updates"), steps)]
    offset = theta - matrix(name, "params")[-1]
    a, b = (offset * update).sum(axis=1), (update**2).sum(axis=1)
    np.testing.assert_allclose(cosine, a / norm(offset) / norm(update), atol=1e-6)
    np.testing.assert_allclose(series(name, "alignment", "inner")[1], a, rtol=1e-5, atol=1e-7)
    at, loss = lazy.scalars["loss"]
    gap = loss[np.isin(at, steps)]
    np.testing.assert_allclose(series(name, "alignment", "gamma")[1], a / (b / 2 + gap), rtol=1e-5)


@pytest.mark.parametrize("name", ["three_regimes_equilibrium.h5", "periodic_jumps.h5"])
def test_elr_and_periodicity(name):
    tensors = tuple(report(name)["elr"].summary["scale_invariant_tensors"])
    lazy = trajfile.open(SAMPLES / name)
    theta, slope = matrix(name, "params", tensors), matrix(name, "gradients", tensors)
    rate = lazy.scalars["learning_rate"][1][0]
    np.testing.assert_allclose(series(name, "elr", "elr")[1], rate / norm(theta) ** 2, rtol=1e-5)
    steps, effective = series(name, "elr", "effective_gradient_norm")
    both = np.isin(lazy.steps("params"), steps)
    np.testing.assert_allclose(effective, norm(theta[both]) * norm(slope), rtol=1e-5)
    cosine = (theta[1:] * theta[:-1]).sum(axis=1) / norm(theta[1:]) / norm(theta[:-1])
    np.testing.assert_allclose(
        series(name, "periodicity", "cosine_distance")[1], 1 - cosine, atol=1e-6
    )
    np.testing.assert_allclose(
        series(name, "elr", "angular_update")[1], np.arccos(cosine), rtol=1e-4
    )
