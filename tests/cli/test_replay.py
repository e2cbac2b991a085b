"""`analyze --replay` on the sample that comes with its loss, and on everything that goes wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .test_bad_input import check

SAMPLES = Path(__file__).parents[2] / "sample_data"
LOSS = f"{SAMPLES / 'edge_of_stability_model.py'}:loss"


@pytest.fixture(scope="module")
def replayed(tmp_path_factory):
    """The report on the run that recorded its own sharpness, replayed all the same."""
    import trajfile

    return trajfile.analyze(
        SAMPLES / "edge_of_stability.h5",
        ["sharpness"],
        "cpu",
        steps="0:1000",
        replay=LOSS,
        options={
            "sharpness.replay_trace": 0,
            "sharpness.replay_tolerance": 1e-6,
            "sharpness.replay_snapshots": 10,
        },
    )


def test_the_replayed_sharpness_of_the_sample_is_the_recorded_one(replayed):
    got = replayed.metrics["sharpness"]
    series = {n: dict(zip(s.step, s.value, strict=True)) for n, s in got.series.items()}
    common = sorted(series["exact"].keys() & series["recorded"].keys())
    assert len(common) >= 2
    for step in common:
        assert series["exact"][step] == pytest.approx(series["recorded"][step], rel=1e-9)
    assert got.summary["exact_loss_difference"] < 1e-12
    assert got.summary["exact_residual_max"] < 1e-6


def test_every_ritz_value_is_under_the_replayed_sharpness_nearby(replayed):
    series = replayed.metrics["sharpness"].series
    exact = dict(zip(series["exact"].step, series["exact"].value, strict=True))
    for step, ritz in zip(series["ritz"].step, series["ritz"].value, strict=True):
        if step in exact:
            assert ritz <= exact[step] * 1.1


def test_the_screen_says_exact(run):
    options = ["--option", "sharpness.replay_trace=0", "--option", "sharpness.replay_top=1"]
    sample = SAMPLES / "edge_of_stability_bare.h5"
    outcome = run("analyze", sample, "--metrics", "sharpness", "--replay", LOSS, *options)
    assert outcome.code == 0, outcome.err
    assert "the exact sharpness has hovered at" in " ".join(outcome.out.split())
    assert "exact" in outcome.out.splitlines()[-3]


class TestOneTinyRun:
    """The run of `conftest.record`: tensors of shapes (8, 5), (3, 8) and (3,)."""

    GOOD = (
        "def loss():\n    return lambda t: sum((x.double() ** 2).sum() for x in t.values()) / 2\n"
    )

    @pytest.fixture
    def model(self, tmp_path, monkeypatch):
        def write(text):
            path = tmp_path / "model.py"
            path.write_text(text)
            return f"{path}:loss"

        return write

    def test_json_stays_one_document_whatever_the_user_prints(self, run, tiny, model):
        source = model("print('loading')\n" + self.GOOD)
        few = ("--metrics", "sharpness", "--option", "sharpness.replay_snapshots=6")
        outcome = run("analyze", tiny, *few, "--replay", source, "--json", "-")
        report = json.loads(outcome.out)
        got = report["metrics"]["sharpness"]
        assert outcome.code == 0
        assert got["summary"]["estimator"] == "exact"
        assert got["summary"]["exact_top_last"] == pytest.approx([1, 1, 1])
        error = got["summary"]["exact_trace_error_last"]
        assert got["summary"]["exact_trace_last"] == pytest.approx(67, abs=4 * error)
        assert 0 < error < 3
        assert "loading" in outcome.err

    def test_nothing_of_the_file_runs_without_the_flag_or_for_a_plan(self, run, tiny, model):
        source = model("raise RuntimeError('ran')\n")
        assert run("analyze", tiny, "--metrics", "norms").code == 0
        assert run("analyze", tiny, "--plan", "--replay", source).code == 0
        check(run("analyze", tiny, "--replay", source), 2, "RuntimeError: ran", "line 1")

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("", ["no 'loss'"]),
            ("def loss():\n    return None\n", ["returned None"]),
            ("def loss():\n    return lambda t: t['fc9.weight'].sum()\n", ["fc9.weight", "fc1."]),
            ("def loss():\n    return lambda t: (t['fc1.weight'] @ t['fc2.weight']).sum()\n",
             ["RuntimeError", "line 2"]),
            ("import torch\ndef loss():\n    return lambda t: torch.zeros(())\n",
             ["depends on none"]),
        ],
        ids=["absent", "none", "name", "shape", "constant"],
    )  # fmt: skip
    def test_a_loss_that_does_not_go_with_the_run(self, run, tiny, model, text, words):
        check(run("analyze", tiny, "--replay", model(text)), 2, *words)

    def test_a_loss_that_is_nan(self, run, tiny, model):
        source = model("def loss():\n    return lambda t: t['fc2.bias'].sum() * float('nan')\n")
        outcome = run("analyze", tiny, "--metrics", "sharpness", "--replay", source, "--json", "-")
        got = json.loads(outcome.out)["metrics"]["sharpness"]
        assert outcome.code == 0
        assert got["status"] == "insufficient"
        assert "not finite at any of the 24 snapshots" in got["reason"]

    @pytest.mark.parametrize("source", ["model.py", "absent.py:loss", ":loss", "a.py:"])
    def test_a_source_that_is_none(self, run, tiny, source):
        check(run("analyze", tiny, "--replay", source), 2, "--replay")

    def test_a_metric_that_has_no_use_for_it(self, run, tiny, model):
        source = model(self.GOOD)
        check(run("analyze", tiny, "--metrics", "norms", "--replay", source), 2, "sharpness")
