"""arXiv 2207.14484: under full-batch Adam the preconditioned sharpness rises to 38/η and hovers.

The preconditioned sharpness is what `analyze --replay` measures, from the recorded params and
exp_avg_sq and the loss of sample_data/edge_of_stability_model.py.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import trajfile

from .study import Table, of

SAMPLE = Path(__file__).parents[2] / "sample_data/edge_of_stability_model.py"


def train(path: Path, rate: float, seed: int) -> None:
    """3000 steps of Adam on the sample's network, every 30th recorded with its second moment."""
    spec = importlib.util.spec_from_file_location("edge_of_stability_model", SAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    loss_at = module.loss()
    torch.manual_seed(seed)
    model = nn.Sequential(
        nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 10)
    ).double()
    params = dict(model.named_parameters())
    betas = (0.9, 0.99)
    adam = torch.optim.Adam(params.values(), lr=rate, betas=betas)
    with trajfile.Writer(
        path,
        optimizer={"name": "Adam", "betas": list(betas), "eps": 1e-8},
        gradient={"stage": "raw", "source": "full_batch"},
    ) as run:
        for step in range(3001):
            adam.zero_grad()
            loss = loss_at(params)
            loss.backward()
            if step % 30 == 0 and step:
                moments = {
                    slot: {name: adam.state[p][slot] for name, p in params.items()}
                    for slot in ("exp_avg", "exp_avg_sq")
                }
                scalars = {"loss": loss.item(), "learning_rate": rate}
                run.append(step, params=params, optimizer=moments, scalars=scalars)
            adam.step()


@pytest.mark.slow
def test_the_preconditioned_sharpness_rises_to_its_threshold_and_stays(tmp_path: Path) -> None:
    table = Table(
        "adaptive_edge", "η", "seed", "at step 30", "median from step 1500", "mean there", "λ₁ of H"
    )
    for rate in (0.003, 0.01):
        for seed in range(3):
            path = tmp_path / f"{rate}-{seed}.h5"
            train(path, rate, seed)
            result = trajfile.analyze(
                path,
                ["sharpness"],
                "cpu",
                replay=f"{SAMPLE}:loss",
                options={"sharpness.replay_trace": 0, "sharpness.replay_top": 1},
            ).metrics["sharpness"]
            steps, values = of(result, "exact_preconditioned")
            ratio = values * rate / 38
            late = ratio[steps >= 1500]
            plain = of(result, "exact")[1]
            table.add(rate, seed, ratio[0], float(np.median(late)), late, plain)
            assert ratio[0] < 0.2
            assert 0.9 < np.median(late) < 1.1
            assert result.summary["exact_converged"] == result.summary["exact_snapshots"]
            assert result.summary["threshold_last"] == pytest.approx(38 / rate)
    table.publish()
