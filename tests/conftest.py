"""How the suite runs: scratch files in memory where there is room, figures at the end.

Its processes, of which there are hundreds, keep what they compiled of the modules they import,
also where the environment says otherwise: compiling all of them anew takes a third of a second.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

#: Room that the scratch files of a whole run may want.
ROOM = 4 * 2**30


def pytest_configure(config: pytest.Config) -> None:
    """Put scratch files into memory: thousands of small Zarr files cost minutes on a busy disk."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    if os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1") != "1":
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # a worker a core: more threads only wait
    # Hundreds of tests start an interpreter: each would compile the package anew without this.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["TRAJFILE_CACHE_DIR"] = ""  # tests measure, and leave the user's folder alone
    memory = Path("/dev/shm")
    given = config.option.basetemp or os.environ.get("PYTEST_DEBUG_TEMPROOT")
    if given or not memory.is_dir() or not os.access(memory, os.W_OK):
        return
    if shutil.disk_usage(memory).free < ROOM:
        return
    folder = tempfile.mkdtemp(prefix="trajfile-", dir=memory)
    os.environ["PYTEST_DEBUG_TEMPROOT"] = folder  # workers inherit it
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Say a measured figure, such as a count of cases tried; all are printed when the run ends."""

    def say(text: str) -> None:
        request.node.user_properties.append(("figure", text))

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests said through `figure`."""
    said = [
        text
        for reports in terminalreporter.stats.values()
        for report in reports
        for name, text in getattr(report, "user_properties", ())
        if name == "figure" and getattr(report, "when", None) == "call"
    ]
    if said:
        terminalreporter.section("figures")
        for text in said:
            terminalreporter.write_line(text)
