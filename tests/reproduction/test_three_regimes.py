"""arXiv 2209.03695: on the sphere a fixed effective learning rate (ELR) decides the regime.

What the abstract says is looked for here: three regimes in the order of the ELR, each clear. So
is what the authors' figure of loss and effective gradient norm over ELR shows: within
convergence, a larger ELR reaches a lower loss in the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

import trajfile
from tests import toys
from tests.reproduction.fleet import Fleet, about, one, sum_squares
from tests.reproduction.study import Table, analyzed, of

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2)
RATES = (1e-4, 3e-4, 1e-3, 3e-3, 0.01, 0.02, 0.03, 0.04, 0.06, 0.1, 0.15, 0.3, 1.0)
WIDTH, READOUT, STEPS, EVERY = 48, 7.0, 5000, 10
ORDER = ("convergence", "chaotic_equilibrium", "divergence")
HALVINGS = 5
ALPHA = 3.0


@dataclass(frozen=True)
class Outcome:
    """How one run ended: the regime's name, and means over its last tenth."""

    word: str
    loss: float
    slope: float


def on_the_sphere(folder: Path, settings: Sequence[tuple[float, int]]) -> list[Outcome]:
    """Train a network per (ELR, seed), each put back on its sphere after every step."""
    fleet = Fleet([seed for _, seed in settings], WIDTH, READOUT)
    square = fleet.squares()
    rates = torch.tensor([elr for elr, _ in settings]) * square
    paths = [folder / f"{run}.h5" for run in range(len(settings))]
    told = about(0.0, fleet.examples)
    told["optimizer"] |= {"projected": "sphere"}
    tails = []
    with ExitStack() as stack:
        runs = [stack.enter_context(trajfile.Writer(path, mode="w", **told)) for path in paths]
        for step in range(STEPS + 1):
            losses, slopes = fleet.slopes()
            if step >= 0.9 * STEPS:
                tails.append((losses, (square * sum_squares(slopes)).sqrt()))
            if step < 3 or step % EVERY == 0:  # the start tells the loss of random weights
                for index, run in enumerate(runs):
                    scalars = {"loss": losses[index], "learning_rate": rates[index]}
                    run.append(
                        step,
                        params=one(fleet.weights, index),
                        gradients=one(slopes, index),
                        scalars={name: value.item() for name, value in scalars.items()},
                    )
            with torch.no_grad():
                for weight, slope in zip(fleet.weights, slopes, strict=True):
                    weight -= rates[:, None, None] * slope
                back = (square / fleet.squares()).sqrt()
                for weight in fleet.weights:
                    weight *= back[:, None, None]
    loss, slope = (torch.stack(values).mean(dim=0).tolist() for values in zip(*tails, strict=True))
    reports = [trajfile.analyze(path, metrics=["elr"], device="cpu") for path in paths]
    words = [report.metrics["elr"].summary["regime"] for report in reports]
    return [Outcome(*values) for values in zip(words, loss, slope, strict=True)]


def on_the_circle(folder: Path, elr: float, steps: int = 4000) -> Outcome:
    """The toy αx²/(x²+y²); its random level is α/2, the mean over all directions."""
    thetas, slopes, losses = toys.sphere(ALPHA, elr, steps)
    report = analyzed(
        folder / "circle.h5",
        (
            {
                "step": step,
                "params": {"w": thetas[step]},
                "gradients": {"w": slopes[step]},
                "scalars": {"loss": losses[step], "learning_rate": elr},
            }
            # Two adjacent steps of forty: even and odd ones, for a cycle of two.
            for step in range(steps + 1)
            if step % 40 < 2
        ),
        about(0.0, 1) | {"groups": {"scale_invariant": ["w"]}},
        ["elr"],
        {"elr.random_loss": ALPHA / 2},
    ).metrics["elr"]
    late = of(report, "effective_gradient_norm")[1][-20:]
    return Outcome(report.summary["regime"], float(losses[-100:].mean()), float(late.mean()))


def narrowed(word_at: Callable[[float], str], low: float, high: float) -> tuple[float, float]:
    """Halve, in logarithm, what lies between convergence at `low` and equilibrium at `high`.

    It ends early where the tool will not say which of both it is: the boundary is in between.
    """
    for _ in range(HALVINGS):
        middle = float(np.sqrt(low * high))
        word = word_at(middle)
        if word == ORDER[0]:
            low = middle
        elif word == ORDER[1]:
            high = middle
        else:
            break
    return low, high


def neighbours(rates: Sequence[float], words: Sequence[str]) -> tuple[float, float]:
    """The largest rate that converges, and the smallest one in equilibrium."""
    by_rate = list(zip(rates, words, strict=True))
    return (
        max(rate for rate, word in by_rate if word == ORDER[0]),
        min(rate for rate, word in by_rate if word == ORDER[1]),
    )


def least(rates: Sequence[float], losses: Sequence[float]) -> float:
    """Where a parabola through the least loss and its neighbours turns, all in logarithms.

    Up to there a larger rate reaches a lower loss in the same number of steps, beyond it the
    loss is that of the noise: an estimate of the boundary that rests on no word of the tool's.
    """
    at = int(np.argmin(losses))
    near = slice(max(at - 1, 0), at + 2)
    middle = np.log(rates[at])
    bend, slope, _ = np.polyfit(np.log(rates[near]) - middle, np.log(losses[near]), 2)
    return float(np.exp(middle - slope / (2 * bend)))


def test_three_regimes_follow_one_another_on_the_sphere(tmp_path):
    settings = [(rate, seed) for rate in RATES for seed in SEEDS]
    found = dict(zip(settings, on_the_sphere(tmp_path, settings), strict=True))
    table = Table(
        "three_regimes_sphere", "ELR", "regime by seed", "loss", "effective gradient norm"
    )
    for rate in RATES:
        ends = [found[rate, seed] for seed in SEEDS]
        words = ", ".join(end.word for end in ends)
        table.add(rate, words, [end.loss for end in ends], [end.slope for end in ends])
    table.publish()

    located = Table(
        "three_regimes_boundary", "seed", "last convergence", "least loss", "first equilibrium"
    )
    by_seed = {seed: [found[rate, seed] for rate in RATES] for seed in SEEDS}
    for seed, ends in by_seed.items():
        low, high = neighbours(RATES, [end.word for end in ends])
        located.add(seed, low, least(RATES, [end.loss for end in ends]), high)
    located.publish()

    for ends in by_seed.values():
        told = [ORDER.index(end.word) for end in ends if end.word in ORDER]
        assert told == sorted(told)
        assert set(told) == {0, 1, 2}
        falling = [end for end in ends if end.word == ORDER[0]]
        assert np.all(np.diff([end.loss for end in falling]) < 0)
        assert np.all(np.diff([end.slope for end in falling]) < 0)
        rising = [end.loss for end in ends if end.word == ORDER[1]]
        assert np.all(np.diff(rising) > 0)


def test_the_toy_has_its_boundary_where_its_closed_form_says(tmp_path):
    table = Table(
        "three_regimes_toy", "c = ηα", "regime", "loss", "closed form", "ρ‖g‖", "closed form"
    )
    for c in (0.3, 0.6, 0.9, 1.1, 1.5, 2.0, 4.0, 8.0, 25.0):
        end = on_the_circle(tmp_path, c / ALPHA)
        loss = ALPHA / 2 * (1 - 1 / c) if c > 1 else 0.0
        slope = ALPHA * np.sqrt(1 - 1 / c**2) if c > 1 else 0.0
        table.add(c, end.word, end.loss, loss, end.slope, slope)
        assert end.loss == pytest.approx(loss, abs=1e-6)
        assert end.slope == pytest.approx(slope, abs=1e-4)
        assert end.word == ORDER[0 if c < 1 else 1 if c < 10 else 2]
    table.publish()
    low, high = narrowed(lambda rate: on_the_circle(tmp_path, rate).word, 0.9 / ALPHA, 1.1 / ALPHA)
    print(f"\ntoy's boundary between {low:.5f} and {high:.5f}, 1/α = {1 / ALPHA:.5f}")
    assert low < 1 / ALPHA < high
    assert high / low < 1.02
