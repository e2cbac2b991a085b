"""Around an event: the window, and which tensors moved first in it, against what was planted."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from tests.recorded import recorded
from tests.twin import Dense, measure
from tests.unit.schemas import report_schema
from trajfile.analyze import analyze, plan
from trajfile.errors import UsageError
from trajfile.metrics.first_movers import FirstMovers
from trajfile.reader import Trajectory
from trajfile.report import Report

NAMES = ("in.weight", "in.bias", "out.weight", "out.bias")


def walk(rows=100, every=1, seed=0, bursts=None):
    """Four tensors that each move by about a percent of themselves from snapshot to snapshot."""
    rng = np.random.default_rng(seed)
    moves = {name: 0.01 * rng.normal(size=(rows - 1, 30)) for name in NAMES}
    starts = {name: rng.normal(size=(1, 30)) for name in NAMES}
    steps = np.arange(rows) * every if bursts is None else bursts
    return steps, starts, moves


def dense(steps, starts, moves, **streams):
    arrays = {n: np.cumsum(np.concatenate([starts[n], moves[n]]), axis=0) for n in NAMES}
    loss = (steps, np.linspace(2.0, 1.0, len(steps)))
    return Dense(
        {"params": steps, **dict.fromkeys(streams, steps)},
        {"params": arrays, **streams},
        {"loss": loss},
    )


def opened(run, **options):
    return Trajectory(recorded(run, **options))


def movers(run, step, **options):
    return analyze(opened(run), "norms", around=step, **options).run.around.movers


def test_the_tensor_that_was_pushed_is_named_first_at_its_exact_update():
    steps, starts, moves = walk()
    moves["out.weight"][60] *= 40
    for name in ("in.weight", "in.bias"):
        moves[name][62:64] *= 20
    run = dense(steps, starts, moves)
    found = movers(run, 65)
    assert [m.tensor for m in found[:1]] == ["out.weight"]
    assert {m.tensor for m in found} == {"out.weight", "in.weight", "in.bias"}
    assert [(m.onset_step, m.seen_step) for m in found] == [(60, 61), (62, 63), (62, 63)]
    # The factor by hand: the displacement over the lower median of the halves before the event.
    theta = run.arrays["params"]["out.weight"]
    relative = np.linalg.norm(np.diff(theta, axis=0), axis=1) / np.linalg.norm(theta[:-1], axis=1)
    usual = min(np.exp(np.median(np.log(half))) for half in (relative[45:55], relative[55:65]))
    assert found[0].usual == pytest.approx(usual)
    assert found[0].factor == pytest.approx(relative[60] / usual)
    assert found[0].largest_factor == pytest.approx(relative[60] / usual)
    assert found[1].factor >= found[2].factor


@pytest.mark.parametrize("stated", [52, 60, 61, 69])
def test_the_stated_step_need_not_be_exact(stated):
    steps, starts, moves = walk()
    moves["out.weight"][60] *= 40
    [found] = movers(dense(steps, starts, moves), stated)
    assert (found.tensor, found.onset_step) == ("out.weight", 60)


def test_a_calm_run_names_none_and_says_so():
    report = analyze(opened(dense(*walk())), "norms", around=50)
    assert report.run.around.movers == []
    [finding] = report.findings
    assert (finding.id, finding.severity) == ("around.first_movers", "info")
    assert "No tensor stands out around step 50" in finding.message
    assert finding.evidence["tensors"] == []


def test_between_sparse_snapshots_the_onset_is_as_coarse_as_they_are():
    steps, starts, moves = walk(every=100)
    moves["in.bias"][50] *= 30
    moves["out.bias"][50] *= 300
    report = analyze(opened(dense(steps, starts, moves)), "norms", around=5030)
    around = report.run.around
    assert [m.tensor for m in around.movers] == ["out.bias", "in.bias"]
    assert {(m.onset_step, m.seen_step) for m in around.movers} == {(5000, 5100)}
    assert around.widest_stride == 100
    assert any("up to 100 steps apart" in note for note in around.notes)
    assert "between steps 5000 and 5100" in report.verdict
    assert "and 1 more of the 4 tensors" in report.verdict


def test_displacements_are_held_against_those_over_strides_as_long():
    # Bursts of four adjacent snapshots, 50 steps apart: a stride of 47 moves tensors 47 times as
    # far as one step, which is no event.
    steps = np.concatenate([50 * k + np.arange(4) for k in range(25)])
    _, starts, moves = walk(rows=len(steps), bursts=steps)
    strides = np.diff(steps)
    for name in NAMES:
        moves[name] *= strides[:, None] / 10
    assert movers(dense(steps, starts, moves), 602) == []
    at = int(np.searchsorted(steps, 601))
    moves["in.weight"][at] *= 30
    [found] = movers(dense(steps, starts, moves), 602)
    assert (found.tensor, found.onset_step, found.seen_step) == ("in.weight", 601, 602)


def test_steps_that_shrink_towards_the_event_do_not_hide_it():
    steps, starts, moves = walk()
    for name in NAMES:
        moves[name] *= np.exp(-np.arange(99) / 16)[:, None]
    assert movers(dense(steps, starts, moves), 60) == []
    moves["out.weight"][60] *= 8
    [found] = movers(dense(steps, starts, moves), 60)
    assert (found.tensor, found.onset_step) == ("out.weight", 60)


def test_steps_that_grow_into_the_event_are_seen_from_where_they_begin():
    steps, starts, moves = walk()
    moves["out.weight"][53:63] *= np.exp(np.arange(1, 11))[:, None]
    [found] = movers(dense(steps, starts, moves), 62)
    assert found.tensor == "out.weight"
    assert 53 <= found.onset_step <= 55


def test_a_tensor_that_moves_now_and_then_did_not_lie_still():
    steps, starts, moves = walk()
    moves["in.bias"][::2] = 0
    moves["in.bias"][::6] = 0
    moves["in.bias"][1::6] = 0
    assert movers(dense(steps, starts, moves), 50) == []


def test_a_tensor_that_lay_still_comes_before_those_that_moved_with_it():
    steps, starts, moves = walk()
    moves["in.bias"][:50] = 0
    moves["out.bias"][50] *= 50
    found = movers(dense(steps, starts, moves), 50)
    assert [m.tensor for m in found] == ["in.bias", "out.bias"]
    assert found[0].factor is None
    assert found[0].onset_step == 50


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_tensors_come_first_with_their_first_step(value):
    steps, starts, moves = walk()
    moves["in.weight"][58] *= 50
    run = dense(steps, starts, moves)
    run.arrays["params"]["out.weight"][62:, 3] = value
    run.arrays["params"]["in.bias"][64:] = value
    report = analyze(opened(run), "norms", around=62)
    found = report.run.around.movers
    assert [m.tensor for m in found] == ["out.weight", "in.bias", "in.weight"]
    assert [m.non_finite_step for m in found] == [62, 64, None]
    assert [m.non_finite_stream for m in found] == ["params", "params", None]
    assert found[2].onset_step == 58
    assert report.findings[0].id == "around.first_movers"
    assert report.findings[0].severity == "error"
    assert "at step 62: out.weight." in report.verdict


def test_a_gradient_that_is_lost_comes_before_the_parameters_it_spoils():
    steps, starts, moves = walk()
    slopes = {name: np.random.default_rng(1).normal(size=(100, 30)) for name in NAMES}
    slopes["out.bias"][61:] = np.nan
    run = dense(steps, starts, moves, gradients=slopes)
    for name in NAMES:
        run.arrays["params"][name][62:] = np.nan
    found = movers(run, 62)
    assert [m.non_finite_step for m in found] == [61, 62, 62, 62]
    assert (found[0].tensor, found[0].non_finite_stream) == ("out.bias", "gradients")


def test_a_tensor_that_joins_later_is_not_taken_for_a_lost_one():
    steps, starts, moves = walk()
    run = dense(steps, starts, moves)
    run.arrays["params"]["out.bias"][:55] = 0
    trajectory = opened(run, first_rows={"params": {"out.bias": 55}})
    found = analyze(trajectory, "norms", around=60).run.around.movers
    assert [m.non_finite_step for m in found if m.tensor == "out.bias"] in ([], [None])


def test_the_window_is_counted_in_snapshots_and_cuts_everything_else_at_its_steps():
    steps, starts, moves = walk(every=10)
    run = dense(steps, starts, moves)
    fine = np.arange(1000)
    run.scalars["loss"] = (fine, np.linspace(2, 1, 1000))
    trajectory = opened(run)
    report = analyze(trajectory, around=500)
    around = report.run.around
    assert (around.first_step, around.last_step) == (300, 700)
    assert (around.before, around.after) == (20, 20)
    assert report.metrics["norms"].series["params"].step == list(range(300, 701, 10))
    extent = report.source.streams["params"]
    assert (extent.rows, extent.first_step, extent.last_step) == (41, 300, 700)
    assert report.run.bytes_read == 41 * 4 * 30 * 8
    assert report.run.passes == 1

    narrow = analyze(trajectory, "norms", around=503, window=3).run.around
    assert (narrow.first_step, narrow.last_step) == (480, 530)
    assert (narrow.before, narrow.after) == (3, 3)
    assert narrow.reason is None


def test_at_the_ends_the_window_holds_what_there_is():
    trajectory = opened(dense(*walk()))
    first = analyze(trajectory, "norms", around=0).run.around
    assert (first.first_step, first.last_step, first.before, first.after) == (0, 20, 0, 20)
    assert any("whole window" in note for note in first.notes)
    last = analyze(trajectory, "norms", around=99).run.around
    assert (last.first_step, last.last_step, last.before, last.after) == (79, 99, 20, 0)


def test_an_event_just_after_the_last_snapshot_is_shown_by_those_before():
    steps, starts, moves = walk(every=10)
    run = dense(steps, starts, moves)
    run.scalars["loss"] = (np.array([0, 996]), np.array([1.0, np.nan]))
    report = analyze(opened(run), around=996)
    assert (report.run.around.first_step, report.run.around.last_step) == (800, 996)
    assert report.metrics["norms"].summary["non_finite_step"] == 996


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"around": 5000}, "from step 100 to 1090; the nearest is step 1090"),
        ({"around": 3}, "from step 100 to 1090; the nearest is step 100"),
        ({"around": -1}, "the nearest is step 100"),
        ({"around": 500, "window": 0}, "at least 1"),
        ({"window": 5}, "say around which one"),
        ({"around": 500, "steps": "0:600"}, "leave out steps 0:600"),
    ],
)
def test_an_event_that_no_snapshot_shows_is_refused_with_the_nearest(arguments, words):
    steps, starts, moves = walk(every=10)
    trajectory = opened(dense(steps + 100, starts, moves))
    for ask in (analyze, plan):
        with pytest.raises(UsageError, match=words):
            ask(trajectory, **arguments)
    assert trajectory.container.bytes_read == 0


def test_a_run_without_tensors_has_no_first_movers_and_says_why():
    run = Dense({}, {}, {"loss": (np.arange(50), np.ones(50))})
    report = analyze(opened(run), around=25)
    assert report.run.around.movers == []
    assert "no params are recorded" in report.run.around.reason
    assert "cannot be said" in report.verdict
    assert report.findings == []


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_few_snapshots_show_no_usual_step(rows):
    report = analyze(opened(dense(*walk(rows=rows))), "norms", around=0)
    assert "show no usual step" in report.run.around.reason


def test_thresholds_are_options_and_are_in_the_report():
    steps, starts, moves = walk()
    moves["out.weight"][60] *= 5
    run = dense(steps, starts, moves)
    assert [m.tensor for m in movers(run, 60)] == ["out.weight"]
    report = analyze(opened(run), "norms", around=60, options={"around.least_factor": 8})
    assert report.run.around.movers == []
    assert report.run.around.options["least_factor"] == 8.0
    with pytest.raises(UsageError, match="Did you mean 'least_factor'"):
        analyze(opened(run), around=60, options={"around.last_factor": 8})


def test_the_order_of_tensors_makes_no_difference():
    steps, starts, moves = walk()
    for k, name in enumerate(NAMES):
        moves[name][58 + k // 2] *= 20 + 5 * k
    run = dense(steps, starts, moves)
    turned = Dense(
        run.steps,
        {"params": dict(reversed(run.arrays["params"].items()))},
        run.scalars,
    )
    assert movers(run, 60) == movers(turned, 60)
    assert len(movers(run, 60)) == 4


def test_the_plan_is_of_the_same_reading():
    trajectory = opened(dense(*walk()))
    planned = plan(trajectory, "geometry", around=50)
    assert planned.bytes_to_read == analyze(trajectory, "geometry", around=50).run.bytes_read


def test_the_window_and_its_movers_survive_json():
    steps, starts, moves = walk()
    moves["out.weight"][60] *= 40
    report = analyze(opened(dense(steps, starts, moves)), around=60)
    built = report.to_dict()
    jsonschema.validate(built, report_schema())
    assert built["run"]["around"]["movers"][0]["tensor"] == "out.weight"
    assert Report.from_dict(built).run.around == report.run.around
    assert analyze(opened(dense(*walk())), "norms").to_dict()["run"]["around"] is None


def test_without_room_for_single_tensors_nothing_is_said_of_them():
    run, movers = dense(*walk()), FirstMovers()
    measured = replace(measure(run, movers.needs(run.header)), per_tensor_kept=False)
    movement = movers.rank(measured, 50)
    assert movement.movers == ()
    assert "--memory" in movement.reason


def test_options_are_documented_with_their_defaults():
    text = (Path(__file__).parents[2] / "spec/metrics.md").read_text()
    section = re.search(r"^## Around an event\n(.*?)(?=^## |\Z)", text, re.M | re.S)[1]
    documented = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", section, re.M))
    assert documented == {field.name: str(field.default) for field in fields(FirstMovers)}
