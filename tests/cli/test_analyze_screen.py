import io
import re
import shlex

import pytest
import typer
from trajfile_cli.app import build
from trajfile_cli.render.analyze import HEIGHT, screen
from trajfile_cli.render.figures import VIEWS, phrases
from trajfile_cli.render.following import following
from trajfile_cli.render.published import PUBLISHED
from trajfile_cli.render.terminal import Terminal

from trajfile.report import Finding, MetricResult, Report

from .reports import HOSTILE, periodic


def lines_of(report, width=100, encoding="utf-8", *, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    return screen(Terminal(io.TextIOWrapper(io.BytesIO(), encoding)), report)


def replaced(report, **changes):
    return Report(**{name: getattr(report, name) for name in report.__struct_fields__} | changes)


@pytest.mark.parametrize("width", [60, 80, 100, 120])
@pytest.mark.parametrize("findings", [0, 1, 3, 60])
@pytest.mark.parametrize("tensor", ["fc1.weight", HOSTILE, "long." * 100])
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_always_forty_lines_within_the_width(width, findings, tensor, encoding, monkeypatch):
    report = periodic(tensor, findings=findings)
    report = replaced(report, verdict=f"{report.verdict} {tensor * 8} is not finite.")
    lines = lines_of(report, width, encoding, monkeypatch=monkeypatch)
    assert len(lines) <= HEIGHT
    assert all(len(line) <= width for line in lines if not line.startswith("Next:"))
    assert "\x1b" not in "".join(lines)
    assert lines[-1].startswith("Next: trajfile ")


def test_nothing_that_matters_is_missing(monkeypatch):
    report = periodic()
    text = "\n".join(lines_of(report, monkeypatch=monkeypatch))
    assert text.startswith("periodic.h5  hdf5 1.0\n12288 parameters in 4 tensors · SGD · ")
    assert "params, gradients: 120 rows, steps 0–5950" in text
    assert report.verdict in text
    assert re.search(r"^warn   Training jumps 6 times", text, re.MULTILINE)
    assert re.search(r"^periodicity +periodic yes · 6 jumps · period 3000", text, re.MULTILINE)
    assert re.search(r"^sharpness +failed LinAlgError", text, re.MULTILINE)
    assert "gradient_noise (gradient_samples were not recorded)" in text.replace("\n", " ")
    assert re.search(r"^ +fc1.weight +relative update 0.31, \d+× the median$", text, re.MULTILINE)
    assert re.search(r"^ +head.weight +never moved$", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("metric", "summary", "shown", "hidden"),
    [
        ("periodicity", {"periodic": True}, ["period 60", "spread 4%"], []),
        ("periodicity", {"periodic": False}, [], ["period 60", "spread"]),
        ("periodicity", {"periodic": None}, [], ["period 60", "spread"]),
        ("imbalance", {"layers_confidence": "declared"}, ["law residual 370"], []),
        ("imbalance", {"layers_confidence": "unique"}, [], ["law residual"]),
    ],
)
def test_figures_that_mean_nothing_here_are_left_out(metric, summary, shown, hidden):
    figures = {"period_mean": 60.0, "period_cv": 0.04, "law_residual": 370.0}
    row = " · ".join(phrases(metric, MetricResult("ok", summary=figures | summary)))
    assert all(text in row for text in shown)
    assert not any(text in row for text in hidden)


def test_findings_that_do_not_fit_are_counted(monkeypatch):
    text = "\n".join(lines_of(periodic(findings=30), monkeypatch=monkeypatch))
    shown = len(re.findall(r"^(?:warn|info) ", text, re.MULTILINE))
    assert 3 <= shown <= 6
    assert f"and {30 - shown} more findings" in text


def test_findings_of_one_id_are_folded(monkeypatch):
    alike = [Finding("norms.x", "warn", f"tensor {k} is odd.") for k in range(9)]
    report = replaced(periodic(), findings=alike)
    text = "\n".join(lines_of(report, monkeypatch=monkeypatch))
    assert text.count("is odd") == 1
    assert "tensor 0 is odd. (and 8 more of norms.x)" in text


def test_absent_values_are_left_out_rather_than_invented(monkeypatch):
    empty = {
        metric_id: MetricResult("ok", summary=dict.fromkeys(names.summary))
        for metric_id, names in PUBLISHED.items()
    }
    report = replaced(periodic(), metrics=empty, findings=[])
    lines = lines_of(report, monkeypatch=monkeypatch)
    for metric_id in PUBLISHED.keys() - {"periodicity"}:
        assert metric_id in lines  # the id and nothing else
    assert re.search(r"^periodicity +periodic undetermined$", "\n".join(lines), re.MULTILINE)


def test_every_figure_and_drawn_series_has_a_published_name_of_its_metric():
    assert list(VIEWS) == list(PUBLISHED)
    for metric_id, view in VIEWS.items():
        names = {*PUBLISHED[metric_id].series, *PUBLISHED[metric_id].summary}
        used = {f.source for f in view.figures} | {series for series, _ in view.drawn}
        assert used <= names, metric_id


def test_next_command_exists_and_survives_a_shell(monkeypatch):
    commands = typer.main.get_command(build()).commands
    for path in ("run.h5", "my runs/it's.h5"):
        report = periodic(path=path)
        command, _ = following(report)
        words = shlex.split(command)
        assert words[:3] == ["trajfile", "analyze", path]
        assert words[1] in commands
        assert words[3:] == ["--metrics", "periodicity", "--json", "-"]


def test_next_command_narrows_the_steps_around_a_landmark():
    late = MetricResult("ok", summary={"regime_since_step": 3000}, sentence="Flat.", salience=1.0)
    command, _ = following(replaced(periodic(), metrics={"elr": late}, findings=[]))
    assert command == "trajfile analyze periodic.h5 --steps 2703:3298"


def test_next_command_without_a_story_explains_what_is_missing():
    metrics = {
        "elr": MetricResult("skipped", "no tensor is scale-invariant"),
        "gradient_noise": MetricResult("skipped", "needs gradient_samples"),
    }
    command, _ = following(replaced(periodic(), metrics=metrics))
    assert command == "trajfile metrics gradient_noise"
    command, _ = following(replaced(periodic(), metrics={}))
    assert command == "trajfile analyze periodic.h5 --json -"
