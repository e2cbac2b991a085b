"""A learning rate recorded before the selected steps is in force in them."""

import numpy as np
import pytest

from tests.recorded import recorded
from tests.twin import Dense
from trajfile.analyze import analyze
from trajfile.reader import Trajectory

ROWS = 120


def run(rate_steps: np.ndarray) -> Trajectory:
    """Gradient descent on a quadratic; the constant rate is recorded at the given steps."""
    rate, hessian = 0.1, np.array([1.0, 2.0, 5.0, 0.5])
    theta = np.array([3.0, -4.0, 12.0, 1.0])
    steps = np.arange(ROWS)
    params = np.stack([theta * (1 - rate * hessian) ** k for k in range(ROWS)])
    gradients = params * hessian
    loss = 0.5 * (params * gradients).sum(axis=1)
    return Trajectory(
        recorded(
            Dense(
                {"params": steps, "gradients": steps},
                {"params": {"w": params}, "gradients": {"w": gradients}},
                {
                    "loss": (steps, loss),
                    "learning_rate": (rate_steps, np.full(len(rate_steps), rate)),
                },
                optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
                gradient={"stage": "raw", "source": "full_batch"},
            )
        )
    )


@pytest.mark.parametrize(
    "selection",
    [{"steps": "40:100"}, {"steps": "1:100:3"}, {"around": 60, "window": 15}],
    ids=["slice", "stride", "around"],
)
def test_recorded_once_is_as_good_as_recorded_at_every_step(selection):
    sparse = analyze(run(np.array([0])), **selection)
    dense = analyze(run(np.arange(ROWS)), **selection)
    assert dense.metrics["sharpness"].series["threshold"].value[0] == pytest.approx(2 / 0.1)
    for name, result in dense.metrics.items():
        assert sparse.metrics[name].status == result.status
        assert sparse.metrics[name].summary == result.summary
        assert sparse.metrics[name].series == result.series
        assert sparse.metrics[name].notes == result.notes


def test_only_what_lies_within_the_selection_is_among_its_scalars():
    header = run(np.array([0, 50])).header(steps="40:100")
    assert header.scalars["learning_rate"][0].tolist() == [50]
    assert header.learning_rate_at(np.array([40, 60])).tolist() == [0.1, 0.1]


def test_a_rate_recorded_later_is_not_in_force_before():
    header = run(np.array([50])).header(steps="0:40")
    assert np.isnan(header.learning_rate_at(np.array([0, 39]))).all()
