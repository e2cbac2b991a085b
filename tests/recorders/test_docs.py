"""The snippets that record, in the README and in spec/recording.md, run as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajfile
from tests.frameworks import framework

ROOT = Path(__file__).parents[2]


def snippets() -> dict[str, str]:
    """By the first word of the comment that they begin with."""
    texts = (ROOT / "README.md").read_text() + (ROOT / "spec/recording.md").read_text()
    found = re.findall(r"^```python\n(# .*?)^```", texts, re.M | re.S)
    return {re.match(r"# ([\w ]+)", code).group(1): code for code in found}


SNIPPETS = snippets()


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


def run(name: str, given: dict[str, Any]) -> dict[str, Any]:
    exec(compile(SNIPPETS[name], name, "exec"), given)
    return given


def test_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("PyTorch", digits())
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
        assert recorded.scalars["loss"][0].tolist() == [0, 1, 2, *range(10, 110, 10)]


def test_gradient_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run("gradient samples", digits())
    report = trajfile.analyze("noise.h5", metrics=["gradient_noise"], device="cpu")
    assert report.metrics["gradient_noise"].status == "ok"


def test_schedules_and_costs(capsys: pytest.CaptureFixture[str]) -> None:
    run("a schedule", {})
    assert "4 every 500 of *.weight, !embedding.*" in capsys.readouterr().out
    run("what it costs", {})
    assert "minimal: 10000 steps" in capsys.readouterr().out


def test_numpy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    def loss_and_gradients(theta: dict[str, np.ndarray]) -> tuple[float, dict[str, np.ndarray]]:
        return float((theta["w"] ** 2).sum() / 2), dict(theta)

    run("NumPy", {"theta": {"w": np.ones(3)}, "loss_and_gradients": loss_and_gradients})
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("params").tolist() == [0, 1, 2, 500, 501, 502]


def test_jax(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jax, optax = framework("jax", "optax"), framework("optax")
    monkeypatch.chdir(tmp_path)
    given = {
        "jax": jax,
        "optax": optax,
        "params": {"w": jax.numpy.ones(3)},
        "batches": np.ones((12, 3), np.float32),
        "loss_of": lambda params, batch: ((params["w"] * batch) ** 2).sum(),
    }
    run("JAX", given)
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
        assert recorded.scalars["loss"][0].tolist() == [0, 1, 2, 10]


@pytest.mark.filterwarnings("ignore")  # Lightning's own advice
def test_lightning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lightning = framework("lightning")
    from tests.recorders.test_lightning import Module

    monkeypatch.chdir(tmp_path)
    batches = torch.utils.data.DataLoader(torch.arange(6), batch_size=None)
    run("Lightning", {"lightning": lightning, "module": Module(), "batches": batches})
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]


@pytest.mark.filterwarnings("ignore")  # Transformers' own advice
def test_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = framework("transformers", "accelerate")
    from tests.recorders.test_transformers import Data, Model

    monkeypatch.chdir(tmp_path)
    arguments = transformers.TrainingArguments(
        "out", use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, max_steps=6
    )
    given = {"Trainer": transformers.Trainer, "model": Model(), "data": Data()}
    run("Transformers", given | {"arguments": arguments})
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("keras") is None, reason="Keras is not installed")
def test_keras(tmp_path: Path) -> None:
    """In a process of its own, since the backend is chosen once and for all."""
    before = """
        import keras, numpy as np
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
        inputs = np.ones((320, 6), "float32"); targets = inputs[:, :2]
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(before) + SNIPPETS["Keras"]],
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with trajfile.open(tmp_path / "run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]
