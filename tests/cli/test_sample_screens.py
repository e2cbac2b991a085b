"""Every recorded sample, on one screen."""

import io
from pathlib import Path

import pytest
from trajfile_cli.render.analyze import HEIGHT, screen
from trajfile_cli.render.terminal import Terminal

import trajfile

SAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "sample_data").glob("*")
    if path.suffix in {".h5", ".zarr"}
)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_report_fits_the_screen(path, monkeypatch):
    with trajfile.open(path) as trajectory:
        report = trajfile.analyze(trajectory)
        assert not any(result.status == "error" for result in report.metrics.values())
        assert not report.verdict.startswith("Nothing could be determined")
        for width in (80, 100, 120):
            monkeypatch.setenv("COLUMNS", str(width))
            terminal = Terminal(io.TextIOWrapper(io.BytesIO(), "utf-8"))
            lines = screen(terminal, report, trajectory)
            assert len(lines) <= HEIGHT
            assert all(len(line) <= width for line in lines[:-1])
            assert lines[-1].startswith("Next: trajfile ")
            assert report.verdict.split()[0] in " ".join(lines)
