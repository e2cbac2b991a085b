"""Gradients recomputed for a run that recorded none: as if it had."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.func import grad

import trajfile
from tests.unit.replay.nets import data, loss_on, train
from tests.unit.replay.test_replay import at
from trajfile.reader import Trajectory
from trajfile.replay.factory import load_loss
from trajfile.replay.gradients import with_gradients


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """The same run with its gradients and without, and the loss of both."""
    folder = tmp_path_factory.mktemp("gradients")
    train(folder / "whole.h5", steps=20)
    return (
        folder / "whole.h5",
        folder / "bare.h5",
        train(folder / "bare.h5", steps=20, gradients=False),
    )


def test_the_report_is_that_of_the_run_that_recorded_them(pair):
    whole, bare, loss = pair
    expected = trajfile.analyze(whole, device="cpu").metrics
    got = trajfile.analyze(bare, device="cpu", replay=lambda: loss).metrics
    for metric, series in [
        ("norms", "gradients"), ("sharpness", "secant"), ("sharpness", "ritz"),
    ]:  # fmt: skip
        a, b = expected[metric].series[series], got[metric].series[series]
        assert a.step == b.step
        assert np.array(b.value, float) == pytest.approx(
            np.array(a.value, float), rel=1e-6, nan_ok=True
        )
    assert "Gradient norms are those of replayed gradients." in got["norms"].notes


def test_the_report_names_the_streams_that_were_recorded(pair):
    _, bare, loss = pair
    report = trajfile.analyze(bare, ["norms"], "cpu", replay=lambda: loss)
    assert "gradients" not in report.source.streams
    assert "gradients" in report.metrics["norms"].series


def test_the_law_of_updates_is_not_held_against_them(pair):
    whole, bare, loss = pair
    expected = trajfile.analyze(whole, ["imbalance"], "cpu")
    got = trajfile.analyze(bare, ["imbalance"], "cpu", replay=lambda: loss)
    assert expected.metrics["imbalance"].summary["law_residual"] is not None
    assert got.metrics["imbalance"].summary["law_residual"] is None
    assert any("these are replayed" in note for note in got.metrics["imbalance"].notes)


def test_rows_of_mixed_lanes_are_read_in_any_block(tmp_path):
    path = tmp_path / "mixed.h5"
    rng = np.random.default_rng(0)
    shapes = {"a": ((2, 3), "f4"), "b": ((5,), "f8"), "c": ((4,), "f4"), "n": ((), "i8")}
    with trajfile.Writer(path) as run:
        for step in range(6):
            params = {n: np.asarray(rng.normal(size=s) * 9, t) for n, (s, t) in shapes.items()}
            run.append(10 * step, params=params)

    def loss(tensors):
        return sum((t.double() ** 3).sum() for t in tensors.values() if t.is_floating_point())

    with trajfile.open(path) as run:
        header = run.header(None, "10:50")
        with with_gradients(load_loss(lambda: loss, {}), run, header, float64=False) as completed:
            assert isinstance(completed, Trajectory)
            view = completed["gradients"]
            assert list(view) == ["a", "b", "c"]
            assert completed.steps("gradients").tolist() == [10, 20, 30, 40]
            for name, rows in view.items():
                assert rows.dtype == shapes[name][1]
                theta = run["params"][name][1:5].astype("f8")
                assert rows[:] == pytest.approx(3 * theta**2, rel=1e-6)
                assert rows[2:3] == pytest.approx(3 * theta[2:3] ** 2, rel=1e-6)


def test_the_pass_reads_them_within_a_small_memory(tmp_path):
    path = tmp_path / "wide.h5"
    theta = np.random.default_rng(1).normal(size=(8, 300_000)).astype("f4")
    with trajfile.Writer(path) as run:
        for step, row in enumerate(theta):
            run.append(step, params={"w": row})
    report = trajfile.analyze(
        path, ["norms"], "cpu", "32MiB", replay=lambda: lambda t: (t["w"].double() ** 2).sum() / 2
    )
    norms = np.linalg.norm(theta.astype("f8"), axis=1)
    assert report.metrics["norms"].series["gradients"].value == pytest.approx(norms, rel=1e-6)


@pytest.mark.parametrize(("source", "same"), [("full_batch", 0.0), ("mini_batch", None)])
def test_the_loss_of_a_batch_is_not_held_against_that_of_all_data(tmp_path, source, same):
    path = tmp_path / "bare.h5"
    with trajfile.Writer(path, gradient={"source": source}) as run:
        for step in range(3):
            theta = np.full(4, step + 1.0)
            run.append(step, params={"w": theta}, scalars={"loss": (theta**2).sum()})
    report = trajfile.analyze(
        path, ["sharpness"], "cpu", replay=lambda: lambda t: (t["w"] ** 2).sum()
    )
    assert report.metrics["sharpness"].summary["exact_loss_difference"] == same


def test_gradients_are_those_of_autograd_at_each_snapshot(pair):
    _, bare, loss = pair
    with trajfile.open(bare) as run:
        header = run.header()
        with with_gradients(load_loss(lambda: loss, {}), run, header, float64=True) as completed:
            for step in (0, 11, 19):
                for name, slope in grad(loss)(at(bare, step)).items():
                    got = torch.tensor(completed["gradients"][name].at(step))
                    torch.testing.assert_close(got, slope)


def test_a_loss_that_fails_says_so(pair):
    _, bare, _ = pair
    other = loss_on(torch.nn.Linear(4, 2).double(), *data())
    with pytest.raises(trajfile.UsageError, match="it was given the tensors"):
        trajfile.analyze(bare, ["norms"], "cpu", replay=lambda: other)
