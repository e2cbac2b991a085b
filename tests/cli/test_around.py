"""`analyze --around`: the suggestion, the screen it leads to, and what it refuses."""

import io
import json
import re
import shlex
from pathlib import Path

import msgspec
import numpy as np
import pytest
from trajfile_cli.render.analyze import HEIGHT, screen
from trajfile_cli.render.following import following
from trajfile_cli.render.terminal import Terminal

import trajfile
from trajfile.report import Around, Finding, Mover

from .reports import HOSTILE, periodic

SAMPLES = Path(__file__).parents[2] / "sample_data"


def train(path, *, steps=200, every=1, pushed=None, spoilt=None):
    """Noisy gradient descent of three tensors about a minimum.

    `pushed` is (step, tensor): that update of it is a hundred times too large. `spoilt` likewise:
    its gradient of that step is NaN, and the next one of every tensor.
    """
    rng = np.random.default_rng(0)
    shapes = {"embed.weight": (20, 4), "head.weight": (3, 20), "head.bias": (3,)}
    theta = {name: rng.normal(size=shape) for name, shape in shapes.items()}
    centre = {name: value.copy() for name, value in theta.items()}
    with trajfile.Writer(
        path,
        optimizer={"name": "SGD", "weight_decay": 0.0, "momentum": 0.0},
        gradient={"stage": "raw", "source": "mini_batch", "batch_size": 8},
    ) as run:
        for step in range(steps):
            slope = {
                name: theta[name] - centre[name] + 0.1 * rng.normal(size=shape)
                for name, shape in shapes.items()
            }
            if spoilt and step >= spoilt[0]:
                for name in slope:
                    if name == spoilt[1] or step > spoilt[0]:
                        slope[name] = slope[name] * np.nan
            if step % every == 0:
                run.append(
                    step,
                    params=theta,
                    gradients=slope,
                    scalars={"loss": 1.0, "learning_rate": 0.1},
                )
            scale = {name: 100 if pushed == (step, name) else 1 for name in shapes}
            theta = {name: theta[name] - 0.1 * scale[name] * slope[name] for name in shapes}
    return path


def last_line(outcome):
    return outcome.out.rstrip("\n").rpartition("\n")[2]


def suggested(outcome):
    """The arguments of the command in the last line."""
    line = last_line(outcome)
    assert line.startswith("Next: trajfile analyze "), line
    return shlex.split(line.partition("  ")[0])[2:]


def test_the_tensor_pushed_at_a_known_step_is_named_first(run, tmp_path):
    path = train(tmp_path / "pushed.h5", pushed=(120, "head.weight"))
    outcome = run("analyze", path, "--around", 122)
    assert outcome.code == 0
    assert "around step 122: 102–142, 20 snapshots before, 20 after" in outcome.out
    assert "The first to move, in update 120: head.weight, by" in outcome.out.replace("\n", " ")
    table = outcome.out[outcome.out.index("Moved first") :].splitlines()
    assert re.fullmatch(r"Moved first +at step +× its usual step", table[0])
    assert re.fullmatch(r"head\.weight +120 +[\d.]+ ×", table[1])
    assert "--around 122 --json -" in last_line(outcome)


def test_a_gradient_that_turns_nan_is_followed_to_the_tensor_it_began_in(run, tmp_path):
    path = train(tmp_path / "nan.h5", spoilt=(150, "embed.weight"))
    whole = run("analyze", path)
    words = suggested(whole)
    assert words[-2:] == ["--around", "150"]
    near = run(*words)
    assert near.code == 0
    table = near.out[near.out.index("Moved first") :].splitlines()
    assert re.fullmatch(r"embed\.weight +150 +gradients not finite", table[1])
    assert len(re.findall(r" 151 +\w+ ?not finite|  151 +not finite", near.out)) == 2
    assert near.out.count("\n") <= 40


def test_the_events_of_the_samples_are_suggested_and_shown(run):
    for name, tensors in (("periodic_jumps", 2), ("periodic_toy", 1)):
        words = suggested(run("analyze", SAMPLES / f"{name}.h5"))
        assert words[-2] == "--around"
        found = json.loads(run(*words, "--metrics", "norms", "--json", "-").out)
        around = found["run"]["around"]
        assert len(around["movers"]) == tensors
        # The record says that these jumps begin at 5096 and at 93.
        assert (
            around["movers"][0]["onset_step"] <= {"periodic_jumps": 5096, "periodic_toy": 93}[name]
        )
        assert around["movers"][0]["seen_step"] > {"periodic_jumps": 5000, "periodic_toy": 73}[name]


def test_a_run_without_an_event_suggests_something_else(run, tmp_path):
    path = train(tmp_path / "calm.h5")
    outcome = run("analyze", path)
    assert "--around" not in outcome.out
    near = run("analyze", path, "--around", 100)
    assert "No tensor stands out around step 100" in near.out
    assert "Moved first" not in near.out


@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_between_sparse_snapshots_the_table_says_which_two(run, tmp_path, monkeypatch, width):
    path = train(tmp_path / "sparse.h5", steps=2000, every=20, pushed=(1009, "embed.weight"))
    monkeypatch.setenv("COLUMNS", width)
    outcome = run("analyze", path, "--around", 1010, "--window", 12)
    assert "12 snapshots before, 12 after" in outcome.out
    assert re.search(r"^Moved first +at steps +×", outcome.out, re.MULTILINE)
    assert re.search(r"^embed\.weight +1000–1020 +[\d.]+ ×$", outcome.out, re.MULTILINE)
    lines = outcome.out.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= int(width) for line in lines if not line.startswith("Next:"))


def test_the_json_has_the_window_and_every_mover(run, tmp_path):
    path = train(tmp_path / "pushed.h5", pushed=(120, "head.weight"))
    report = json.loads(run("analyze", path, "--around", 120, "--json", "-").out)
    around = report["run"]["around"]
    assert (around["first_step"], around["last_step"]) == (100, 140)
    assert around["movers"][0]["tensor"] == "head.weight"
    assert (around["movers"][0]["onset_step"], around["movers"][0]["seen_step"]) == (120, 121)
    [finding] = [f for f in report["findings"] if f["id"] == "around.first_movers"]
    assert finding["evidence"]["tensors"][0] == "head.weight"
    assert report["metrics"]["norms"]["series"]["params"]["step"] == list(range(100, 141))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--around", "60000"], "reach from step 0 to 59; the nearest is step 59"),
        (["--around", "-3"], "the nearest is step 0"),
        (["--around", "soon"], "--around"),
        (["--around", "30", "--window", "0"], "at least 1"),
        (["--window", "5"], "around"),
        (["--around", "30", "--steps", "0:50"], "leave out steps 0:50"),
        (["--around", "30", "--steps", "0:50", "--plan"], "leave out steps 0:50"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_sentence(run, tiny, words, said):
    outcome = run("analyze", tiny, *words)
    assert outcome.code == 2
    assert outcome.out == ""
    assert said in outcome.err.replace("\n", " ")
    assert "Traceback" not in outcome.err


def test_the_plan_is_of_the_window(run, tiny):
    outcome = run("analyze", tiny, "--around", 30, "--window", 5, "--plan")
    assert outcome.code == 0
    assert re.search(r"^  params +11 rows$", outcome.out, re.MULTILINE)


@pytest.mark.parametrize("width", ["60", "100"])
@pytest.mark.parametrize("findings", [0, 60])
@pytest.mark.parametrize("tensor", ["fc1.weight", HOSTILE, "long." * 100])
def test_the_screen_holds_whatever_names_and_numbers_there_are(
    width, findings, tensor, monkeypatch
):
    monkeypatch.setenv("COLUMNS", width)
    report = periodic(tensor, findings=findings)
    movers = [
        Mover(tensor, non_finite_step=10**12, non_finite_stream="gradients"),
        Mover(tensor, 3000, 3050, 35.2, 40.0, 7.0, 1e-3, 10**12, "params"),
        Mover(tensor, 3000, 3050),
        *(Mover(f"{tensor}{k}", 3050, 3100, 1e9, 1e9, 9.0, 1e-3) for k in range(60)),
    ]
    around = Around(10**12, 2000, 10**12, 20, 20, 50, 63, movers)
    report = msgspec.structs.replace(report, run=msgspec.structs.replace(report.run, around=around))
    lines = screen(Terminal(io.TextIOWrapper(io.BytesIO(), "utf-8")), report)
    assert len(lines) <= HEIGHT
    assert all(len(line) <= int(width) for line in lines if not line.startswith("Next:"))
    assert "\x1b" not in "".join(lines)
    if width == "100":
        assert any("(5 of 63)" in line for line in lines)


@pytest.mark.parametrize(
    ("found", "suggested"),
    [
        ([("norms.non_finite", {"step": 3000}), ("periodicity.jumps", {"first_step": 50})], 3000),
        ([("norms.gradient_spike", {"first_step": 100, "worst_step": 4000})], 4000),
        ([("norms.exploding_update", {"worst_step": 70})], 70),
        ([("periodicity.jumps", {"first_step": 50})], 50),
        ([("norms.non_finite", {"step": 6040})], 6040),  # two strides after the last snapshot
        ([("norms.non_finite", {"step": 9000})], None),
        ([("norms.dead_tensor", {"step": 3000})], None),
        ([], None),
    ],
)
def test_the_gravest_event_that_snapshots_show_is_suggested(found, suggested):
    findings = [Finding(name, "warn", "It happened.", evidence) for name, evidence in found]
    report = msgspec.structs.replace(periodic(), findings=findings)
    command, _ = following(report)
    if suggested is None:
        assert "--around" not in command
    else:
        assert command == f"trajfile analyze periodic.h5 --around {suggested}"
