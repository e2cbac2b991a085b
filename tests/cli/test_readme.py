"""Every command and every line of code that the README shows is run here."""

from __future__ import annotations

import contextlib
import io
import json
import re
import runpy
import shlex
import sys
from pathlib import Path

import pytest
import torch
from trajfile_cli.app import main

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


@pytest.fixture(scope="module")
def folder_of_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run of the README's loop, some checkpoints, and the samples beside it."""
    folder = tmp_path_factory.mktemp("readme")
    (folder / "sample_data").symlink_to(ROOT / "sample_data")
    (folder / "ckpts").mkdir()
    for step in range(0, 20, 2):
        torch.save({"w": torch.full((3, 4), 1.0 + 0.5**step)}, folder / f"ckpts/step_{step}.pt")
    before = sys.argv
    sys.argv = ["quickstart.py", str(folder / "run.h5")]
    try:
        runpy.run_path(str(ROOT / "sample_data/quickstart.py"), run_name="__main__")
    finally:
        sys.argv = before
    return folder


COMMANDS = [
    line
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("trajfile ") or ".venv/bin/trajfile " in line
]


@pytest.mark.parametrize("line", COMMANDS)
def test_command(
    line: str,
    folder_of_runs: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder_of_runs)
    words = shlex.split(line.rpartition("&&")[2])[1:]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code in (0, None)
    out = capsys.readouterr().out
    assert out.strip()
    if words[-2:] == ["--json", "-"]:
        json.loads(out)


def test_the_screen_shown_is_the_screen(
    folder_of_runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder_of_runs)
    monkeypatch.setenv("COLUMNS", "100")
    (shown,) = blocks("text")
    with pytest.raises(SystemExit):
        main(["analyze", "sample_data/edge_of_stability.h5", "--device", "cpu"])

    def steady(screen: str) -> list[str]:
        """Without the seconds, and without curves, whose last block rounding may turn."""
        screen = re.sub(r"pass, .* on cpu", "pass on cpu", screen)
        return [re.sub(r" *[▁-█]+( log)?$", "", line) for line in screen.splitlines()]

    assert steady(capsys.readouterr().out) == steady(shown)


def test_python_blocks(folder_of_runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder_of_runs)
    # Those that begin with a comment are the recorders': the tests of these run them.
    # What goes into a store, tests/remote/test_commands.py.
    quickstart, *others = [
        block for block in blocks("python") if not block.startswith("# ") and "s3://" not in block
    ]
    assert quickstart == (ROOT / "sample_data/quickstart.py").read_text()
    assert others
    said = ""
    for code in others:
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(code, "README.md", "exec"), {})
        said += out.getvalue()
    assert "go on at 381 or any later step" in said
    assert "(10, 32, 64)" in said


def test_relative_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        if "://" not in target:
            assert (ROOT / target).exists(), target
