"""Replay of recorded runs, end to end, against dense Hessians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch.func import functional_call

import trajfile
from tests.unit.replay.nets import data, dense, loss_on, network, train
from trajfile.errors import MissingStream, ResourceError, UsageError


def at(path, step, dtype=None):
    """The recorded params of a step as tensors."""
    with trajfile.open(path) as run:
        return {n: torch.tensor(rows.at(step)).to(dtype) for n, rows in run["params"].items()}


def sharpness(path, loss, **options):
    report = trajfile.analyze(
        path,
        metrics=["sharpness"],
        device="cpu",
        replay=lambda: loss,
        options={f"sharpness.replay_{k}": v for k, v in options.items()},
    )
    return report.metrics["sharpness"]


def values(result, name):
    shown = result.series[name]
    return dict(zip(shown.step, shown.value, strict=True))


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "plain.h5"
    return path, train(path, steps=10)


@pytest.fixture(scope="module")
def adam(tmp_path_factory):
    path = tmp_path_factory.mktemp("replay") / "adam.h5"
    loss = train(path, "Adam", steps=6, lr=0.01, betas=[0.9, 0.99], eps=1e-6)
    return path, loss


def test_every_figure_is_that_of_the_dense_hessian(plain):
    path, loss = plain
    got = sharpness(path, loss, tolerance=1e-7, trace=100)
    assert (got.status, got.summary["estimator"]) == ("ok", "exact")
    steps = got.series["exact"].step
    assert steps == list(range(10))
    for step in steps:
        hessian = dense(loss, at(path, step)).numpy()
        top = np.linalg.eigvalsh(hessian)[::-1]
        sparse = eigsh(hessian, k=3, which="LA", return_eigenvectors=False)
        for rank, name in enumerate(["exact", "exact_2", "exact_3"]):
            assert values(got, name)[step] == pytest.approx(top[rank], rel=1e-9)
        assert values(got, "exact")[step] == pytest.approx(sparse.max(), rel=1e-9)
        assert values(got, "exact_residual")[step] < 1e-6 * top[0]
        assert values(got, "exact_trace")[step] == pytest.approx(np.trace(hessian), rel=1e-10)
        assert values(got, "exact_trace_error")[step] == 0
    assert got.summary["last"] == values(got, "exact")[steps[-1]]
    assert got.summary["exact_converged"] == got.summary["exact_snapshots"] == 10
    assert got.summary["exact_loss_difference"] < 1e-12
    assert got.summary["exact_top_last"][0] == got.summary["last"]
    assert values(got, "threshold")[steps[-1]] == pytest.approx(40)


def test_the_hutchinson_trace_lies_within_its_error(plain):
    path, loss = plain
    got = sharpness(path, loss, trace=15, snapshots=4)
    for step, estimated in values(got, "exact_trace").items():
        error = values(got, "exact_trace_error")[step]
        assert abs(estimated - torch.trace(dense(loss, at(path, step))).item()) < 4 * error


def test_a_trace_of_no_products_is_left_out(plain):
    got = sharpness(*plain, trace=0, snapshots=2)
    assert "exact_trace" not in got.series
    assert got.summary["exact_trace_last"] is None


def test_ritz_stays_under_the_exact_sharpness(plain):
    path, loss = plain
    got = sharpness(path, loss, snapshots=20)
    exact, ritz = values(got, "exact"), values(got, "ritz")
    assert all(ritz[k] <= max(exact[j] for j in exact if abs(j - k) <= 7) * 1.001 for k in ritz)


def test_the_adam_preconditioner_is_what_the_optimizer_divides_by(adam):
    path, loss = adam
    got = sharpness(path, loss, tolerance=1e-7, top=1)
    assert got.summary["threshold_rule"] == "(2 + 2β₁)/((1 − β₁)η)"
    with trajfile.open(path) as run:
        for step, found in values(got, "exact_preconditioned").items():
            # θ_step = θ_(step-1) - η exp_avg/P, with the state that was recorded at `step`.
            before, after = at(path, step - 1), at(path, step)
            average = run["optimizer/exp_avg"]
            scale = torch.cat(
                [
                    (0.01 * torch.tensor(average[n].at(step)) / (before[n] - after[n])).reshape(-1)
                    for n in before
                ]
            ).rsqrt()
            matrix = scale[:, None] * dense(loss, after) * scale
            assert found == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-6)
    assert got.summary["last"] == list(values(got, "exact_preconditioned").values())[-1]
    assert got.summary["last"] == got.summary["exact_preconditioned_last"]
    assert "exact preconditioned sharpness" in got.sentence
    assert got.summary["edge_ratio_last"] == pytest.approx(got.summary["last"] / 3800)
    hessian = dense(loss, at(path, 5))
    assert values(got, "exact")[5] == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]))


def test_adam_without_its_moments_has_nothing_to_hold_against_the_threshold(tmp_path):
    path = tmp_path / "bare.h5"
    model = network()
    params = dict(model.named_parameters())
    with trajfile.Writer(
        path, optimizer={"name": "AdamW", "betas": [0.9, 0.999], "learning_rate": 0.01}
    ) as run:
        run.declare("optimizer/exp_avg", like=params)
        run.append(0, params=params)
    got = sharpness(path, loss_on(model, *data()))
    assert got.summary["estimator"] == "exact"
    assert got.summary["edge_ratio_last"] is None
    assert "exact_preconditioned" not in got.series
    assert any("record optimizer/exp_avg_sq" in note for note in got.notes)


@pytest.mark.parametrize("slot_step", [0, 7], ids=["before the first update", "elsewhere"])
def test_adam_with_no_snapshot_beside_its_moments_is_insufficient(tmp_path, slot_step):
    path = tmp_path / "apart.h5"
    params = {n: p.detach() for n, p in network().named_parameters()}
    zeros = {n: torch.zeros_like(p) for n, p in params.items()}
    with trajfile.Writer(path, optimizer={"name": "Adam", "betas": [0.9, 0.999]}) as run:
        run.declare("params", like=params)
        for step in (0, 7):
            moments = {"optimizer": {"exp_avg_sq": zeros, "exp_avg": zeros}}
            row = {"params": params} if step == 0 else {}
            run.append(step, **row, **(moments if step == slot_step else {}))
    got = sharpness(path, loss_on(network(), *data()))
    assert got.status == "insufficient"
    assert "no snapshot that holds every tensor" in got.reason


def test_it_needs_no_gradients_and_no_second_snapshot(tmp_path):
    path = tmp_path / "params.h5"
    loss = train(path, steps=1, gradients=False)
    got = sharpness(path, loss)
    expected = torch.linalg.eigvalsh(dense(loss, at(path, 0)))[-1]
    assert got.summary["last"] == pytest.approx(float(expected), rel=1e-6)
    with pytest.raises(MissingStream):
        trajfile.analyze(path, metrics=["sharpness"], device="cpu")


def test_float32_tensors_come_as_recorded_or_promoted(tmp_path):
    path = tmp_path / "single.h5"
    train(path, steps=3, dtype=torch.float32)
    model = network(torch.float64)
    held = {dtype: data(dtype) for dtype in (torch.float32, torch.float64)}
    seen = []

    def loss(tensors):
        seen.append({t.dtype for t in tensors.values()})
        inputs, targets = held[tensors["0.weight"].dtype]
        return (functional_call(model, tensors, (inputs,)) - targets).square().mean()

    exact = torch.linalg.eigvalsh(dense(loss, at(path, 2, torch.float64)))[-1].item()
    seen.clear()
    single = sharpness(path, loss)
    assert {torch.float32} == set.union(*seen)
    seen.clear()
    double = sharpness(path, loss, float64=True, tolerance=1e-9)
    assert {torch.float64} == set.union(*seen)
    assert single.summary["last"] == pytest.approx(exact, rel=1e-4)
    assert double.summary["last"] == pytest.approx(exact, rel=1e-11)
    assert "in float32" in single.notes[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_comes_as_float32(tmp_path, dtype):
    path = tmp_path / "half.h5"
    params = {n: p.detach().to(dtype) for n, p in network().named_parameters()}
    with trajfile.Writer(path) as run:
        run.append(0, params=params)
    loss = loss_on(network(torch.float32), *data(torch.float32))
    got = sharpness(path, loss)
    matrix = dense(loss_on(network(), *data()), {n: p.double() for n, p in params.items()})
    assert got.summary["last"] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-4)


def test_selected_tensors_and_steps(plain):
    path, loss = plain
    report = trajfile.analyze(
        path, ["sharpness"], "cpu", params=["2.*"], steps="5:9", replay=lambda: loss
    )
    got = report.metrics["sharpness"]
    assert got.series["exact"].step == [5, 6, 7, 8]
    tensors = at(path, 8)
    block = dense(
        lambda t: loss({**tensors, **t}), {n: t for n, t in tensors.items() if n[0] == "2"}
    )
    expected = float(torch.linalg.eigvalsh(block)[-1])
    assert got.summary["last"] == pytest.approx(expected, rel=1e-6)


def test_a_loss_that_is_nowhere_finite_is_insufficient(plain):
    path, loss = plain
    got = sharpness(path, lambda tensors: loss(tensors) * torch.nan)
    assert got.status == "insufficient"
    assert "is not finite at any of the 10 snapshots" in got.reason
    assert got.summary == got.series == {}


def test_a_loss_that_is_finite_with_derivatives_that_are_not(plain):
    path, loss = plain
    got = sharpness(path, lambda tensors: (loss(tensors) * 0).sqrt())
    assert got.status == "insufficient"
    assert "derivatives of the loss" in got.reason


def test_a_run_that_diverged_keeps_what_is_finite(tmp_path):
    path = tmp_path / "diverged.h5"
    model = network()
    params = {n: p.detach() for n, p in model.named_parameters()}
    with trajfile.Writer(path) as run:
        for step in range(4):
            scale = torch.nan if step == 3 else 1.0
            run.append(step, params={n: scale * p for n, p in params.items()})
    got = sharpness(path, loss_on(model, *data()))
    assert got.status == "ok"
    assert [v is None for v in got.series["exact"].value] == [False, False, False, True]
    assert got.summary["exact_converged"] == 3
    assert any("At 1 of them the loss" in note for note in got.notes)


def test_a_search_cut_short_carries_no_verdict(plain):
    got = sharpness(*plain, iterations=2, top=1, tolerance=1e-6)
    assert got.summary["exact_converged"] == 0
    assert got.summary["at_edge"] is None
    assert any("replay_iterations" in note for note in got.notes)


def test_another_loss_than_the_recorded_one_is_noticed(plain):
    path, loss = plain
    got = sharpness(path, lambda tensors: 2 * loss(tensors))
    assert got.summary["exact_loss_difference"] == pytest.approx(1.0)
    assert any("not the same loss" in note for note in got.notes)


def test_a_loss_that_changes_from_call_to_call_is_refused(plain):
    path, loss = plain
    source = torch.Generator().manual_seed(0)
    with pytest.raises(UsageError, match="must be the same each time"):
        sharpness(path, lambda t: loss(t) * (1 + torch.rand((), generator=source)))


def test_names_that_do_not_match_are_refused_with_those_that_are_there(plain):
    path, _ = plain
    other = torch.nn.Linear(4, 2).double()
    with pytest.raises(UsageError, match=r"given the tensors 0\.weight, 0\.bias"):
        sharpness(path, loss_on(other, *data()))


def test_shapes_that_do_not_match_are_refused(plain):
    path, _ = plain
    wide = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    inputs, targets = data()
    with pytest.raises(UsageError, match="RuntimeError"):
        sharpness(path, loss_on(wide.double(), inputs[:, :3], targets))


@pytest.mark.parametrize(
    ("option", "value"),
    [("snapshots", 0), ("top", 0), ("iterations", 1), ("trace", 3), ("tolerance", 0.0)],
)
def test_options_out_of_range_are_refused(plain, option, value):
    with pytest.raises(UsageError, match=f"sharpness.replay_{option}"):
        sharpness(*plain, **{option: value})


def test_it_is_refused_where_no_metric_would_look_at_it(plain):
    path, loss = plain
    with pytest.raises(UsageError, match="replay serves the metric sharpness"):
        trajfile.analyze(path, ["norms"], "cpu", replay=lambda: loss)


def test_memory_for_a_few_vectors_is_the_least(plain):
    path, loss = plain
    with pytest.raises(ResourceError, match="6 float64 vectors of 37 coordinates"):
        trajfile.analyze(path, ["sharpness"], "cpu", 1000, replay=lambda: loss)


def test_without_replay_nothing_of_it_shows(plain):
    got = trajfile.analyze(plain[0], ["sharpness"], "cpu").metrics["sharpness"]
    assert not [name for name in {**got.series, **got.summary} if name.startswith("exact")]
