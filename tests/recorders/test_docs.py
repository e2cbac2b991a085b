"""The snippets that record, in the README and in spec/recording.md, run as they stand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajfile
from tests.recorders.snippets import ROOT, SNIPPETS, run_snippet


def test_there_is_one_for_each_framework() -> None:
    recorders = {path.stem for path in (ROOT / "trajfile/recorders").glob("*.py")}
    frameworks = {"torch", "lightning", "transformers", "keras", "jax", "numpy"}
    assert frameworks <= recorders
    told = " ".join(SNIPPETS.values())
    assert all(f"from trajfile.recorders.{name} import Recorder" in told for name in frameworks)


def digits() -> dict[str, Any]:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    batches = [(torch.randn(64, 6), torch.randint(3, (64,))) for _ in range(110)]
    return {
        "model": model,
        "optimizer": torch.optim.Adam(model.parameters()),
        "criterion": torch.nn.functional.cross_entropy,
        "batches": batches,
        "fresh_batch": lambda: (torch.randn(64, 6), torch.randint(3, (64,))),
    }


def test_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippet("PyTorch", digits())
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
        assert recorded.scalars["loss"][0].tolist() == [0, 1, 2, *range(10, 110, 10)]


def test_gradient_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_snippet("gradient samples", digits())
    report = trajfile.analyze("noise.h5", metrics=["gradient_noise"], device="cpu")
    assert report.metrics["gradient_noise"].status == "ok"


def test_schedules_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    run_snippet("a schedule", {})
    assert "4 every 500 of *.weight, !embedding.*" in capsys.readouterr().out
    run_snippet("what it costs", {})
    assert "minimal: 10000 steps" in capsys.readouterr().out


def test_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def loss_and_gradients(theta: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        return float((theta["w"] ** 2).sum() / 2), dict(theta)

    run_snippet("NumPy", {"theta": {"w": np.ones(3)}, "loss_and_gradients": loss_and_gradients})
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("params").tolist() == [0, 1, 2, 500, 501, 502]
