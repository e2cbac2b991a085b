"""A tiny real run, recorded once, and the command line called inside the process."""

import io
import sys
from dataclasses import dataclass

import numpy as np
import pytest
from trajfile_cli.app import main

import trajfile


@dataclass
class Outcome:
    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch):
    """Call the command line; stdout and stderr are pipes, as far as it can tell."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.delenv("TRAJFILE_DEBUG", raising=False)
    monkeypatch.setenv("COLUMNS", "100")

    def call(*argv, encoding="utf-8"):
        out, err = (io.TextIOWrapper(io.BytesIO(), encoding, newline="\n") for _ in range(2))
        with monkeypatch.context() as patched:
            patched.setattr(sys, "stdout", out)
            patched.setattr(sys, "stderr", err)
            with pytest.raises(SystemExit) as ended:
                main([str(part) for part in argv])
        out.flush()
        err.flush()
        read = (stream.buffer.getvalue().decode(encoding) for stream in (out, err))
        return Outcome(ended.value.code or 0, *read)

    return call


def record(path, *, steps=60, every=1, names=("fc1.weight", "fc2.weight", "fc2.bias"), seed=0):
    """Gradient descent on half the squared norm, with a little noise."""
    rng = np.random.default_rng(seed)
    shapes = [(8, 5), (3, 8), (3,)]
    theta = {n: rng.normal(size=shape).astype("f4") for n, shape in zip(names, shapes, strict=True)}
    with trajfile.Writer(
        path,
        optimizer={"name": "SGD", "learning_rate": 0.05, "momentum": 0.0, "weight_decay": 0.0},
        groups={"layers": list(names[:2])},
        gradient={"stage": "raw", "source": "full_batch"},
        metadata={"seed": seed},
    ) as writer:
        for step in range(steps):
            slope = {n: v + rng.normal(size=v.shape).astype("f4") / 50 for n, v in theta.items()}
            arrays = {"params": theta, "gradients": slope} if step % every == 0 else {}
            loss = 0.5 * sum(float((v.astype("f8") ** 2).sum()) for v in theta.values())
            writer.append(step, scalars={"loss": loss, "learning_rate": 0.05}, **arrays)
            theta = {n: v - np.float32(0.05) * slope[n] for n, v in theta.items()}
    return path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A run of 60 steps and three tensors."""
    return record(tmp_path_factory.mktemp("runs") / "tiny.h5")
