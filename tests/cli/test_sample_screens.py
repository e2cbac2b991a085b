"""Every recorded sample, on one screen."""

import functools
import io
from pathlib import Path

import pytest
from trajfile_cli.render.analyze import HEIGHT, screen
from trajfile_cli.render.figures import VIEWS, drawn_series, phrases
from trajfile_cli.render.standouts import MARKS
from trajfile_cli.render.terminal import Terminal

import trajfile

SAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "sample_data").glob("*")
    if path.suffix in {".h5", ".zarr"}
)


@functools.cache
def report_of(path):
    return trajfile.analyze(path)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_report_fits_the_screen(path, monkeypatch):
    report = report_of(path)
    assert not any(result.status == "error" for result in report.metrics.values())
    assert not report.verdict.startswith("Nothing could be determined")
    with trajfile.open(path) as trajectory:
        for width in (80, 100, 120):
            monkeypatch.setenv("COLUMNS", str(width))
            terminal = Terminal(io.TextIOWrapper(io.BytesIO(), "utf-8"))
            lines = screen(terminal, report, trajectory.header())
            assert len(lines) <= HEIGHT
            assert all(len(line) <= width for line in lines[:-1])
            assert lines[-1].startswith("Next: trajfile ")
            assert report.verdict.split()[0] in " ".join(lines)


def computed():
    for path in SAMPLES:
        for metric_id, result in report_of(path).metrics.items():
            if result.status == "ok":
                yield metric_id, result


def test_every_metric_has_a_row_worth_reading_on_some_sample():
    seen = {metric_id for metric_id, r in computed() if phrases(metric_id, r)}
    drawn = {metric_id for metric_id, r in computed() if drawn_series(metric_id, r)}
    assert seen == drawn == set(VIEWS)


def test_every_mark_names_a_value_that_metrics_report_of_single_tensors():
    named = {
        (metric_id, name)
        for metric_id, result in computed()
        for entry in result.per_tensor.values()
        for name in entry.summary
    }
    assert {(mark.metric, mark.name) for mark in MARKS} <= named
