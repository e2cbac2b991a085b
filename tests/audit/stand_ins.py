"""Tasks that misbehave as an input can make a worker misbehave; workers find them by name."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np

from tests.audit.runs import healthy
from trajfile.audit.examine import examine
from trajfile.audit.outcome import Outcome, Settings


def task(path: str, settings: Settings) -> Outcome:
    """What the last part of the path says; otherwise examine it."""
    name = path.rpartition("/")[2]
    if name.startswith("kills"):
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("killed once") and not Path(path).exists():
        healthy(Path(path))
        os.kill(os.getpid(), signal.SIGKILL)
    if name.startswith("waits"):
        Path(path).touch()
        while not Path(path).with_name("go").exists():
            time.sleep(0.05)
        return Outcome(path, "ok")
    if name.startswith("sleeps"):
        time.sleep(600)
    if name.startswith("grows"):
        return examine_with(lambda: np.ones(2**33, np.uint8), path, settings)
    if name.startswith("plain"):
        return Outcome(path, "ok")
    return examine(path, settings)


def examine_with(first, path: str, settings: Settings) -> Outcome:
    from trajfile.audit.failure import failed, failure_of

    try:
        first()
    except MemoryError as error:
        return failed(path, *failure_of(error), settings)
    return Outcome(path, "ok")
