"""Every recorded sample, on one screen."""

from pathlib import Path

import pytest

SAMPLES = sorted(
    path
    for path in (Path(__file__).parents[2] / "sample_data").glob("*")
    if path.suffix in {".h5", ".zarr"}
)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
@pytest.mark.parametrize("width", [80, 100, 120])
def test_report_fits_forty_lines(path, width, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = run("analyze", path)
    assert outcome.code == 0, outcome.err
    assert outcome.err == ""
    lines = outcome.out.splitlines()
    assert len(lines) <= 40
    assert all(len(line) <= width for line in lines[:-1])
    assert lines[-1].startswith("Next: trajfile ")
    assert "Nothing could be determined" not in outcome.out
    assert "failed" not in outcome.out
