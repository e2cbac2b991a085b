"""A system that refuses to write: one clear error, no committed step lost, and on again after it.

The refusal is injected at the Nth write-like call, once or for good, whole or after part of the
write; what goes on is the same writer, or a fresh one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import trajfile
from tests.durability.conftest import ROOT, Forge
from tests.durability.runs import LARGE, MATRIX, Run
from tests.durability.shim import ERRORS

FEW = [run for run in (*MATRIX, *LARGE) if run.everything and run.growing]


def refused(forge: Forge, run: Run, stride: int, start: int) -> int:
    calls = forge(run=run.as_dict(), count=True)["calls"]
    tried = 0
    kinds = [(way, kind) for way in ("same", "fresh") for kind in ("once", "ever", "short")]
    for number, at in enumerate(range(start, calls, stride)):
        way, kind = kinds[number % len(kinds)]
        error = ("ENOSPC", "EIO", "EROFS")[number % 3]
        outcome = forge(run=run.as_dict(), refuse={"at": at, "kind": kind, "error": error}, way=way)
        assert not outcome["problems"], (run.name, at, way, kind, error, outcome)
        tried += 1
    return tried


def test_goes_on_after_a_refused_write(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    tried = sum(refused(forge, run, 400, 3 + 47 * number) for number, run in enumerate(FEW))
    with capsys.disabled():
        print(f"\nrefused writes: {tried} survived, 0 losses")


@pytest.mark.slow
def test_goes_on_after_any_refused_write(forge: Forge, capsys: pytest.CaptureFixture[str]) -> None:
    tried = sum(refused(forge, run, 9, 1 + number) for number, run in enumerate(FEW))
    with capsys.disabled():
        print(f"\nrefused writes: {tried} survived, 0 losses")


CREATES = """
import json, sys
from pathlib import Path
from tests.durability.runs import Run
from tests.durability.shim import FAIL, Shim
import trajfile

run, path, error = Run(**json.loads(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
shim = Shim()
shim.arm(path.parent, FAIL, error=error)
writer = run.writer(path)
try:
    writer.append(0, **run.arguments(0))
except trajfile.ResourceError as error:
    print(error)
assert not list(path.parent.iterdir()), list(path.parent.iterdir())
shim.disarm()
writer.append(0, **run.arguments(0))
writer.close()
"""


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("error", ["EROFS", "EACCES"])
def test_a_folder_that_cannot_be_written(
    tmp_path: Path, preloaded: dict[str, str], suffix: str, error: str
) -> None:
    run = Run(suffix)
    path = tmp_path / f"run{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", CREATES, json.dumps(run.as_dict()), path, str(ERRORS[error])],
        env=preloaded,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    said = done.stdout.strip()
    assert "\n" not in said
    assert os.strerror(ERRORS[error]) in said
    with trajfile.open(path) as trajectory:
        assert trajectory.steps("params").tolist() == [0]
