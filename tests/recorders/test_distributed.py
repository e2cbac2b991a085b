"""Two processes train together: one file, as the first of them would have recorded by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.recorders.by_hand import Rows, check_recorded

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes(kind: str, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.recorders.processes", kind, str(tmp_path), str(rank)],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=240)[0].decode() for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], "\n".join(told)
    rows: Rows = {}
    with np.load(tmp_path / "kept.npz") as kept:
        for key in kept:
            stream, step, name = key.split("|")
            rows.setdefault(stream, {}).setdefault(int(step), {})[name] = kept[key]
    check_recorded(tmp_path / "run.h5", rows)
