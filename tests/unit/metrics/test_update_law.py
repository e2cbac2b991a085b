"""Updates that are not the run's, and runs that end where the loss is high, get no good word."""

from __future__ import annotations

import numpy as np
import pytest

from tests.twin import Dense, measure
from trajfile.metrics.alignment import Alignment

RATE, DECAY = 0.05, 0.5


def descent(rows=80, *, momentum=0.0, decay=0.0, dtype=np.float64, curvature=1.0, **optimizer):
    """Descent on a quadratic; the update is what the optimizer applies, decay included."""
    slopes = curvature * np.linspace(0.2, 5.0, 12)
    theta, buffer = np.random.default_rng(0).standard_normal(12), np.zeros(12)
    thetas, updates, gradients, losses = [], [], [], []
    for _ in range(rows):
        buffer = momentum * buffer + slopes * theta
        update = buffer + decay * theta
        for kept, value in zip(
            (thetas, updates, gradients), (theta, update, slopes * theta), strict=True
        ):
            kept.append(value)
        losses.append(slopes @ theta**2 / 2)
        theta = theta - RATE * update
    at = np.arange(rows)
    dense = Dense(
        {"params": at, "updates": at},
        {"params": {"w": np.array(thetas, dtype)}, "updates": {"w": np.array(updates)}},
        {"loss": (at, np.array(losses)), "learning_rate": (at, np.full(rows, RATE))},
        optimizer={"name": "SGD", "momentum": momentum, "weight_decay": decay} | optimizer,
    )
    return dense, np.array(gradients)


def judged(dense, **options):
    metric = Alignment(**options)
    return metric.compute(measure(dense, metric.needs(dense.header)))


def disagreement(result):
    found = [f for f in result.findings if f.id == "alignment.updates_disagree"]
    return found[0] if found else None


@pytest.mark.parametrize("momentum", [0.0, 0.5])
@pytest.mark.parametrize("decay", [0.0, DECAY])
def test_updates_that_lead_from_snapshot_to_snapshot_are_judged(momentum, decay):
    dense, _ = descent(momentum=momentum, decay=decay)
    got = judged(dense)
    assert disagreement(got) is None
    assert got.summary["update_residual"] == 0
    assert got.summary["verdict"] == "aligned"


WRONG = {
    "opposite sign": (lambda u: -u, 2.0),
    "displacement": (lambda u: -RATE * u, 1 + RATE),
    "scaled update": (lambda u: RATE * u, 1 - RATE),
    "other length": (lambda u: 3 * u, 2.0),
    "other": (lambda u: u[:, ::-1], None),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_updates_get_no_verdict_and_are_told_by_what_they_look_like(kind):
    dense, _ = descent()
    change, residual = WRONG[kind]
    theta, update = dense.arrays["params"]["w"], change(dense.arrays["updates"]["w"])
    dense.arrays["updates"]["w"] = update
    got = judged(dense)
    said = disagreement(got)
    moved = np.diff(theta, axis=0)
    missed = np.linalg.norm(moved + RATE * update[:-1], axis=1) / np.linalg.norm(moved, axis=1)
    assert got.summary["update_residual"] == pytest.approx(np.median(missed), rel=1e-6)
    if residual is not None:
        assert got.summary["update_residual"] == pytest.approx(residual)
    assert (said.severity, said.evidence["looks_like"]) == ("warn", kind)
    assert got.summary["verdict"] == "undetermined"
    assert got.sentence.startswith("The recorded updates do not lead from snapshot to snapshot.")
    assert not [f for f in got.findings if f.id == "alignment.verdict"]


def test_gradients_recorded_for_the_updates_of_momentum_are_not_taken_for_them():
    dense, gradients = descent(momentum=0.9)
    dense.arrays["updates"]["w"] = gradients
    got = judged(dense)
    assert disagreement(got).evidence["looks_like"] == "other"
    assert got.summary["verdict"] == "undetermined"


def test_a_decay_left_out_is_named_and_a_small_one_keeps_the_verdict():
    dense, gradients = descent(decay=DECAY)
    dense.arrays["updates"]["w"] = gradients
    got = judged(dense)
    assert disagreement(got).evidence["looks_like"] == "decay missing"
    assert got.summary["verdict"] == "undetermined"

    dense, gradients = descent(decay=0.01)
    dense.arrays["updates"]["w"] = gradients
    got = judged(dense)
    assert disagreement(got) is None
    assert got.summary["verdict"] == "aligned"
    assert [note for note in got.notes if "without the weight decay" in note]


def test_a_projected_run_differs_legitimately():
    dense, _ = descent(projected="sphere")
    theta = dense.arrays["params"]["w"]
    dense.arrays["params"]["w"] = theta / np.linalg.norm(theta, axis=1, keepdims=True)
    got = judged(dense)
    said = disagreement(got)
    assert (said.severity, said.evidence["looks_like"]) == ("info", "projection")
    assert [f for f in got.findings if f.id == "alignment.verdict"]


def test_steps_lost_in_the_rounding_of_the_parameters_say_nothing():
    dense, _ = descent(dtype=np.float16)
    dense.arrays["params"]["w"] += np.float16(2000)
    assert judged(dense).summary["update_residual"] is None


def test_parameters_without_an_update_do_not_count():
    dense, _ = descent()
    drift = np.cumsum(np.random.default_rng(1).standard_normal((80, 3)), axis=0)
    dense.arrays["params"]["drift"] = drift
    assert judged(dense).summary["update_residual"] == 0


def test_a_run_that_ends_where_it_exploded_to_is_not_called_aligned():
    dense, _ = descent(curvature=-1.0)
    loss = -dense.scalars["loss"][1]
    dense.scalars["loss"] = (np.arange(80), loss)
    got = judged(dense)
    assert got.summary["violated_fraction"] == 0
    assert got.summary["loss_rise"] == pytest.approx(np.median(loss[-8:]) / np.median(loss[:8]))
    assert got.summary["verdict"] == "undetermined"
    assert "alignment.loss_rose" in [f.id for f in got.findings]
    assert "but the loss there is" in got.sentence
    assert judged(dense, loss_rise=1e300).summary["verdict"] == "aligned"


def test_a_loss_that_falls_or_is_unknown_takes_no_verdict_away():
    dense, _ = descent()
    assert judged(dense).summary["loss_rise"] < 1
    del dense.scalars["loss"]
    got = judged(dense)
    assert got.summary["loss_rise"] is None
    assert got.summary["verdict"] == "aligned"
