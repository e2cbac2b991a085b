"""arXiv 2106.15739: BatchNorm with weight decay destabilises training again and again.

Looked for: periods that shorten with learning rate and weight decay as 1/(ηλ), their free part as
long as ln(Φ_c/Φ_0)/(-2 ln a) says, and no jumps without weight decay or with too small a rate.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trajfile
from tests import toys
from tests.reproduction.fleet import Fleet, about, one
from tests.reproduction.study import Table, analyzed

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2)
COLUMNS = (
    *("lr", "weight decay", "jumps", "period", "ηλ · period", "spread of periods"),
    *("free decay predicted", "taken / predicted"),
)
Summary = dict[str, Any]


def add(table: Table, rate: float, decay: float, runs: Sequence[Summary]) -> None:
    """One setting's row: mean and range over seeds."""
    periods = [run["period_mean"] for run in runs]
    free = [run["period_free_decay"] for run in runs]
    table.add(
        *(rate, decay, [run["jumps"] for run in runs], periods),
        [None if period is None else period * rate * decay for period in periods],
        [run["period_cv"] for run in runs],
        [None if not each else float(np.mean(each)) for each in free],
        [run["free_decay_ratio_median"] for run in runs],
    )


def exponent(found: dict[tuple[float, float], list[Summary]]) -> float:
    """Slope of ln(period) over ln(ηλ)."""
    points = [
        (np.log(rate * decay), np.log(run["period_mean"]))
        for (rate, decay), runs in found.items()
        for run in runs
    ]
    return float(np.polyfit(*np.array(points).T, 1)[0])


# αx²/(x²+y²) with weight decay and a little noise along the circle, seen at every step. Every run
# decays by as many units of ηλ as every other.

TOY_LENGTH = 20.0


def toy_run(folder: Path, rate: float, decay: float, steps: int, seed: int) -> Summary:
    """What periodicity says of one run of the toy."""
    thetas, slopes, _ = toys.decaying_circle(rate, decay, steps, seed=seed)
    report = analyzed(
        folder / "toy.h5",
        (
            {
                "step": step,
                "params": {"w": thetas[step]},
                "gradients": {"w": slopes[step]},
                "scalars": {"learning_rate": rate},
            }
            for step in range(steps)
        ),
        about(decay, 1) | {"groups": {"scale_invariant": ["w"]}},
        ["periodicity"],
    )
    return dict(report.metrics["periodicity"].summary)


def test_the_toy_decays_freely_between_jumps_for_as_long_as_predicted(tmp_path):
    found = {
        (rate, decay): [
            toy_run(tmp_path, rate, decay, round(TOY_LENGTH / (rate * decay)), seed)
            for seed in SEEDS
        ]
        for rate, decay in product((0.1, 0.15, 0.2), (0.1, 0.15, 0.2))
    }
    table = Table("periodicity_toy", *COLUMNS)
    for (rate, decay), runs in found.items():
        add(table, rate, decay, runs)
        assert all(run["periodic"] for run in runs)
        assert all(0.95 < run["free_decay_ratio_median"] < 1.1 for run in runs)
        assert all(run["law_residual_median"] < 1e-6 for run in runs)
    # At ηλ = 0.001 the direction follows the norm so gently that no single step turns by δ.
    for rate, decay, steps in ((0.1, 0.0, 2000), (0.001, 0.05, 2000), (0.1, 0.01, 5000)):
        runs = [toy_run(tmp_path, rate, decay, steps, seed) for seed in SEEDS]
        add(table, rate, decay, runs)
        assert [run["jumps"] for run in runs] == [0, 0, 0]
        assert not any(run["periodic"] for run in runs)
    table.publish()
    print(f"\nperiod ~ (ηλ)^{exponent(found):.3f}")


# The network, on 384 digits.

WIDTH, READOUT, EXAMPLES = 24, 10.0, 384
STEPS, LENGTH, ROWS = 15_000, 4.5, 600


def network_runs(folder: Path, settings: Sequence[tuple[float, float, int]]) -> list[Summary]:
    """What periodicity says of a network per (learning rate, weight decay, seed)."""
    fleet = Fleet([seed for *_, seed in settings], WIDTH, READOUT, EXAMPLES)
    rates, decays = (
        torch.tensor([setting[part] for setting in settings])[:, None, None] for part in (0, 1)
    )
    # Each run lasts as long as the others in units of ηλ, but for those that hardly decay.
    lengths = [min(STEPS, round(LENGTH / max(rate * decay, 1e-9))) for rate, decay, _ in settings]
    paths = [folder / f"{run}.h5" for run in range(len(settings))]
    with ExitStack() as stack:
        runs = [
            stack.enter_context(trajfile.Writer(path, mode="w", **about(decay, EXAMPLES)))
            for path, (_, decay, _) in zip(paths, settings, strict=True)
        ]
        for step in range(STEPS):
            losses, slopes = fleet.slopes()
            for index, (run, length) in enumerate(zip(runs, lengths, strict=True)):
                if step < length and step % -(-length // ROWS) == 0:
                    scalars = {"loss": losses[index].item(), "learning_rate": settings[index][0]}
                    run.append(step, params=one(fleet.weights, index), scalars=scalars)
            with torch.no_grad():
                for weight, slope in zip(fleet.weights, slopes, strict=True):
                    weight -= rates * (slope + decays * weight)
    reports = [trajfile.analyze(path, metrics=["periodicity"], device="cpu") for path in paths]
    return [dict(report.metrics["periodicity"].summary) for report in reports]


def test_periods_of_a_batchnorm_network_scale_as_one_over_rate_and_decay(tmp_path):
    grid = list(product((0.03, 0.06, 0.12), (0.01, 0.02, 0.04)))
    controls = [(0.03, 0.0), (0.12, 0.0), (0.003, 0.01)]
    settings = [(*setting, seed) for setting in grid + controls for seed in SEEDS]
    summaries = iter(network_runs(tmp_path, settings))
    found = {setting: [next(summaries) for _ in SEEDS] for setting in grid + controls}
    table = Table("periodicity_network", *COLUMNS)
    for (rate, decay), runs in found.items():
        add(table, rate, decay, runs)
    table.publish()
    for control in controls:
        assert [run["jumps"] for run in found.pop(control)] == [0, 0, 0]
    print(f"\nperiod ~ (ηλ)^{exponent(found):.3f}")
    assert -1.15 < exponent(found) < -0.85
    for run in (run for runs in found.values() for run in runs):
        assert run["periodic"]
        # Never shorter than free decay: what gradients there are only lengthen it.
        assert 1 < run["free_decay_ratio_median"] < 1.6
