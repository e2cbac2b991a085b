"""Recorded at the wrong stage, gradients are refused or flagged wherever they would mislead."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import trajfile
from trajfile.recorders import Schedule
from trajfile.recorders.numpy import Recorder

SCHEDULE = Schedule(params=1, gradients=1, gradient_samples=5)


def analysed(folder: Path, gradient: dict[str, Any]) -> dict[str, Any]:
    """The same run of plain SGD on two linear layers, stated to be of some stage."""
    generator = np.random.default_rng(0)
    inputs, goal = generator.standard_normal((64, 5)), generator.standard_normal((3, 5))
    theta = {"a": generator.standard_normal((4, 5)), "b": generator.standard_normal((3, 4)) / 2}

    def gradients(rows: np.ndarray) -> dict[str, np.ndarray]:
        missed = 2 * (rows @ (theta["b"] @ theta["a"] - goal).T) / (3 * len(rows))
        return {"a": theta["b"].T @ missed.T @ rows, "b": missed.T @ (rows @ theta["a"].T)}

    def samples(count: int) -> dict[str, np.ndarray]:
        drawn = [gradients(inputs[generator.permutation(64)[:16]]) for _ in range(count)]
        return {n: np.stack([each[n] for each in drawn]) for n in theta}

    with Recorder(
        folder / "run.h5",
        SCHEDULE,
        optimizer={"name": "SGD"},
        gradient={"source": "full_batch", **gradient},
        groups={"scale_invariant": ["a"], "layers": ["a", "b"]},
    ) as recorder:
        for _ in range(60):
            found = gradients(inputs)
            loss = float(np.mean((inputs @ (theta["b"] @ theta["a"] - goal).T) ** 2))
            recorder.record(
                params=theta,
                gradients=found,
                gradient_samples=samples,
                loss=loss,
                learning_rate=0.02,
            )
            theta = {name: theta[name] - 0.02 * found[name] for name in theta}
    return trajfile.analyze(folder / "run.h5", device="cpu").metrics


def said(metric: Any) -> str:
    return " ".join([metric.reason or "", *metric.notes])


def test_raw(tmp_path: Path) -> None:
    metrics = analysed(tmp_path, {"stage": "raw"})
    assert metrics["imbalance"].summary["law_residual"] == pytest.approx(0, abs=1e-6)
    assert metrics["sharpness"].series["secant"].value
    assert metrics["gradient_noise"].status == "ok"
    assert metrics["elr"].series["effective_gradient_norm"].value


def test_scaled(tmp_path: Path) -> None:
    metrics = analysed(tmp_path, {"stage": "scaled"})
    assert metrics["imbalance"].summary["law_residual"] is None
    assert "needs raw gradients; these are scaled" in said(metrics["imbalance"])
    assert (
        "secant" not in metrics["sharpness"].series
        or not metrics["sharpness"].series["secant"].value
    )
    assert metrics["gradient_noise"].status == "skipped"
    assert "loss scale" in said(metrics["elr"])
    assert "those of scaled gradients" in said(metrics["norms"])


def test_clipped(tmp_path: Path) -> None:
    metrics = analysed(tmp_path, {"stage": "clipped"})
    assert metrics["imbalance"].summary["law_residual"] is None
    assert "needs raw gradients; these are clipped" in said(metrics["imbalance"])
    assert "where the clip acted, secants are wrong" in said(metrics["sharpness"])
    assert "samples were clipped" in said(metrics["gradient_noise"])
    assert "that of the clipped gradients" in said(metrics["elr"])
    assert "those of clipped gradients" in said(metrics["norms"])


def test_recorded_raw_and_applied_clipped(tmp_path: Path) -> None:
    metrics = analysed(tmp_path, {"stage": "raw", "applied": "clipped"})
    assert metrics["imbalance"].summary["law_residual"] is None
    assert "the clipped ones that were applied" in said(metrics["imbalance"])
    assert metrics["periodicity"].summary["law_residual_median"] is None
    assert metrics["sharpness"].series["secant"].value
    assert "clip" not in said(metrics["sharpness"])


def test_samples_have_a_stage_of_their_own(tmp_path: Path) -> None:
    metrics = analysed(tmp_path, {"stage": "clipped", "sample_stage": "raw"})
    assert "clipped" not in said(metrics["gradient_noise"])
