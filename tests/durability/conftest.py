"""The forge, started once for all tests of this folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.durability.shim import build

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def shim_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("shim"))


@pytest.fixture(scope="session")
def preloaded(shim_library: Path) -> dict[str, str]:
    """The environment of a process with the shim in it."""
    return {**os.environ, "LD_PRELOAD": str(shim_library), "PYTHONPATH": str(ROOT)}


class Forge:
    """Trials, run in another process."""

    def __init__(self, environment: dict[str, str], folder: Path):
        self.folder = folder
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.durability.forge", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def __call__(self, **job: Any) -> dict[str, Any]:
        """Run one trial; its outcome."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        assert line, "the forge died"
        outcome: dict[str, Any] = json.loads(line)
        return outcome

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


@pytest.fixture(scope="session")
def forge(preloaded: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forge]:
    made = Forge(preloaded, tmp_path_factory.mktemp("forge"))
    yield made
    made.close()
