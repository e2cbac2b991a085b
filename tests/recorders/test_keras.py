"""The Keras recorder on both backends, of which a process has one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.frameworks import framework
from tests.recorders.snippets import run_snippet

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("ignore")  # Keras' own advice
def test_keras(tmp_path: Path) -> None:
    if framework("keras").backend.backend() != "torch":
        pytest.skip("this process has another backend")
    from tests.recorders.keras_training import main

    main(tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keras = framework("keras")
    monkeypatch.chdir(tmp_path)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2)])
    inputs = np.ones((320, 6), "float32")
    given = {"keras": keras, "model": model, "inputs": inputs, "targets": inputs[:, :2]}
    run_snippet("Keras", given)
    with trajfile.open("run.h5") as recorded:
        assert recorded.steps("gradients").tolist() == [0, 1, 2]


@pytest.mark.slow
def test_keras_on_jax(tmp_path: Path) -> None:
    framework("keras", "jax")
    done = subprocess.run(
        [sys.executable, "-m", "tests.recorders.keras_training", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "jax", "KERAS_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "jax agrees" in done.stdout
