"""The schedule language, the clock, the presets and what they promise."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import trajfile
from trajfile.recorders import Schedule, preset
from trajfile.recorders.answers import answers
from trajfile.recorders.cadence import At, Bursts, First, LogSpaced, OnSpike, Union, cadence
from trajfile.recorders.clock import Clock
from trajfile.recorders.numpy import Recorder

simple = st.one_of(
    st.builds(Bursts, st.integers(1, 60), st.integers(1, 8)),
    st.builds(LogSpaced, st.integers(1, 30), st.integers(1, 5)),
    st.builds(First, st.integers(1, 200)),
    st.builds(At, st.frozensets(st.integers(0, 300))),
    st.builds(OnSpike, st.sampled_from([1.5, 2.0, 10.0]), st.integers(1, 20)),
)
rules = st.one_of(simple, st.builds(Union, st.lists(simple, min_size=2, max_size=3).map(tuple)))


@given(rules, st.integers(0, 300))
def test_a_rule_is_due_at_the_steps_it_lists(rule: object, stop: int) -> None:
    assert rule.steps(stop).tolist() == [step for step in range(stop) if rule.due(step)]


@given(rules)
def test_the_text_of_a_rule_is_the_rule(rule: object) -> None:
    assert cadence(str(rule)) == rule


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("every 10", [0, 10, 20, 30]),
        ("3 every 20", [0, 1, 2, 20, 21, 22]),
        ("log 2", [0, 1, 3, 10, 32]),
        ("2 log 1", [0, 1, 2, 10, 11]),
        ("first 3", [0, 1, 2]),
        ("at 5, 17", [5, 17]),
        ("at 5 + every 20", [0, 5, 20]),
        ("never", []),
    ],
)
def test_language(text: str, steps: list[int]) -> None:
    assert cadence(text).steps(40).tolist() == steps


@pytest.mark.parametrize(
    "text", ["every", "every 0", "10", "sometimes", "0 every 5", "on spike 1", "at", "every -1", ""]
)
def test_what_is_not_in_the_language(text: str) -> None:
    with pytest.raises(trajfile.UsageError):
        cadence(text)


def test_a_decade_has_the_promised_number_of_steps() -> None:
    steps = LogSpaced(10).steps(10_001)
    assert ((steps >= 1000) & (steps < 10_000)).sum() == 10


def test_a_spike_is_against_the_running_median() -> None:
    clock = Clock(Schedule(params="4 on spike 3"))
    losses = np.full(60, 1.0)
    losses[[2, 30, 50]] = 4.0  # the first comes before a median is known
    losses[40] = math.nan
    due = [step for step, loss in enumerate(losses) if "params" in clock.due(step, loss)]
    assert due == [*range(30, 34), *range(40, 44), *range(50, 54)]


def test_a_loss_that_stays_high_is_the_new_usual() -> None:
    clock = Clock(Schedule(params="2 on spike 2"))
    due = ["params" in clock.due(step, 1.0 if step < 50 else 5.0) for step in range(200)]
    assert due.index(True) == 50
    assert not any(due[80:])


def test_globs() -> None:
    schedule = Schedule(params="every 1 of *.weight, !head.*", gradients=1)
    chosen = [n for n in ("a.weight", "a.bias", "head.weight") if schedule.chooses("params", n)]
    assert chosen == ["a.weight"]
    assert not schedule.chooses("gradients", "a.bias")
    only_not = Schedule(params="every 1 of !*.bias")
    assert only_not.chooses("params", "a.weight")


def test_gradients_alone_are_refused() -> None:
    with pytest.raises(trajfile.UsageError, match="needs params too"):
        Schedule(gradients=1)


@pytest.mark.parametrize("name", ["minimal", "standard", "full"])
def test_cost_is_what_the_file_takes(name: str, tmp_path: Path) -> None:
    """The bytes that a preset announces are those of the rows that it then records."""
    steps, schedule = 220, preset(name).without("gradient_samples")
    weights = {"a": np.zeros((30, 20), np.float32), "b": np.zeros(30, np.float32)}
    with Recorder(tmp_path / "run.h5", schedule) as recorder:
        for _ in range(steps):
            recorder.record(
                params=weights,
                gradients=weights,
                updates=weights,
                optimizer={"exp_avg": weights, "exp_avg_sq": weights},
                loss=1.0,
            )
    cost = schedule.cost({n: w.nbytes for n, w in weights.items()}, steps)
    with trajfile.open(tmp_path / "run.h5") as run:
        for stream in run.streams:
            row = run.manifest.by_name[stream].row_bytes
            slot = stream.startswith("optimizer/")
            expected = cost["optimizer"] // 2 if slot else cost[stream]
            assert len(run.steps(stream)) * row == expected
    shown = schedule.describe({n: w.nbytes for n, w in weights.items()}, steps)
    assert name in shown
    assert "sharpness" in shown
    assert f"{steps} steps of 2.46 KiB parameters" in shown


@pytest.mark.parametrize("name", ["minimal", "standard", "full"])
def test_presets_make_possible_what_they_say(name: str, tmp_path: Path) -> None:
    """Recorded by each preset, a run gives an answer for just the metrics that were promised."""
    schedule = preset(name)
    generator = np.random.default_rng(0)
    inputs = generator.standard_normal((64, 5))
    first, second = generator.standard_normal((4, 5)), generator.standard_normal((3, 4)) / 2
    goal = generator.standard_normal((3, 5))
    rate = 0.02

    def gradients(rows: np.ndarray) -> dict[str, np.ndarray]:
        missed = 2 * (rows @ (second @ first - goal).T) / (3 * len(rows))
        return {"first": second.T @ missed.T @ rows, "second": missed.T @ (rows @ first.T)}

    def samples(count: int) -> dict[str, np.ndarray]:
        drawn = [gradients(inputs[generator.permutation(64)[:16]]) for _ in range(count)]
        return {n: np.stack([each[n] for each in drawn]) for n in ("first", "second")}

    with Recorder(
        tmp_path / "run.h5",
        schedule,
        optimizer={"name": "SGD"},
        gradient={"stage": "raw", "source": "full_batch", "batch_size": 16, "dataset_size": 64},
        groups={"scale_invariant": ["first"], "layers": ["first", "second"]},
    ) as recorder:
        for _ in range({"minimal": 1200, "standard": 4000, "full": 300}[name]):
            found = gradients(inputs)
            recorder.record(
                params={"first": first, "second": second},
                gradients=found,
                updates=found,
                gradient_samples=samples,
                loss=float(np.mean((inputs @ (second @ first - goal).T) ** 2)),
                learning_rate=rate,
            )
            first, second = first - rate * found["first"], second - rate * found["second"]
    report = trajfile.analyze(tmp_path / "run.h5", device="cpu")
    told = answers(schedule)
    assert set(told) == set(report.metrics)
    for metric, answer in told.items():
        status = report.metrics[metric].status
        assert (status != "skipped") == (not answer.startswith("no")), (metric, answer, status)
        if answer == "yes":
            assert status == "ok", (metric, report.metrics[metric].reason)
    law = report.metrics["imbalance"].summary["law_residual"]
    assert (law is not None) == (told["imbalance"] == "yes")


def test_standard_is_bounded_where_the_length_is_known() -> None:
    assert preset("standard", steps=10**6).rows(10**6)["params"] == 300
    with pytest.raises(trajfile.UsageError, match="preset 'best' is unknown"):
        preset("best")
