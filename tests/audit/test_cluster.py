"""Audits on a Dask cluster: a real scheduler, real workers, one of them killed in the middle."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from tests.audit.runs import healthy, wide
from tests.audit.stand_ins import task
from trajfile.audit import Settings, load_rulebook
from trajfile.audit.cluster import Cluster
from trajfile.audit.drive import outcomes
from trajfile.audit.examine import Divided, conclude, examine, examine_part
from trajfile.errors import ResourceError, UsageError

#: A scheduler and its workers take most of a minute to come and go.
pytestmark = pytest.mark.slow

if importlib.util.find_spec("distributed") is None:  # not imported: it takes most of a second
    pytest.skip("needs distributed", allow_module_level=True)


@pytest.fixture(scope="module")
def settings():
    return Settings(load_rulebook(), memory=2**28)


def dask(*arguments):
    # With a nanny, as in the field, which starts a worker again that was lost.
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path.cwd()),
        "DASK_LOGGING__DISTRIBUTED": "error",
    }
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def address_in(where, deadline):
    """What a scheduler writes down once it is there; the file comes before its text."""
    while True:
        try:
            return msgspec.json.decode(where.read_bytes())["address"]
        except (OSError, msgspec.DecodeError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dask")
    where = folder / "scheduler.json"
    common = ("--scheduler-file", str(where))
    loopback = ("--host", "127.0.0.1", "--no-dashboard")
    started = [dask("scheduler", *common, *loopback, "--port", "0")]
    worker = ("--nthreads", "1", "--local-directory", str(folder))
    started += [dask("worker", *common, *loopback, *worker) for _ in range(2)]
    try:
        deadline = time.monotonic() + 60
        yield address_in(where, deadline)
    finally:
        for process in reversed(started):
            process.terminate()
        for process in started:
            process.wait(20)


def test_a_batch_completes_though_a_worker_is_killed(address, settings, tmp_path):
    good, huge = str(healthy(tmp_path / "good.h5")), str(wide(tmp_path / "wide.h5"))
    waits = [str(tmp_path / f"waits {n}") for n in range(2)]
    due = dict.fromkeys([*waits, good, huge, str(tmp_path / "plain")], "ok")
    due |= {"absent.h5": "unreadable", "kills": "died", "sleeps": "timeout"}
    divided = msgspec.structs.replace(settings, memory=2**23, divide_above=0)
    found = []
    with Cluster(address, divided, 1, max_time=60) as crew:
        crew._client.wait_for_workers(2, timeout=60)
        batch = threading.Thread(
            target=lambda: found.extend(outcomes(due, divided, crew, task=task))
        )
        batch.start()
        deadline = time.monotonic() + 60
        while not any(Path(path).exists() for path in waits) and time.monotonic() < deadline:
            time.sleep(0.05)
        calls = crew._client.run(os.getpid)
        busy = {worker for worker, keys in crew._client.processing().items() if keys}
        os.kill(calls[sorted(busy)[0]], signal.SIGKILL)
        (tmp_path / "go").touch()
        batch.join(300)
    assert sorted(o.path for o in found) == sorted(due)
    assert {o.path: o.status for o in found} == due
    left = examine(huge, divided)
    assert isinstance(left, Divided)
    parts = [examine_part(huge, left, number, divided) for number in range(left.parts)]
    here = conclude(huge, left, *parts, divided)
    there = next(outcome for outcome in found if outcome.path == huge)
    one, other = (msgspec.structs.replace(outcome, seconds=0.0) for outcome in (here, there))
    assert msgspec.json.encode(one) == msgspec.json.encode(other)


def test_a_scheduler_that_is_not_there_is_said(settings):
    with pytest.raises(UsageError, match="no address"):
        Cluster("nonsense://1", settings, 1)


def test_a_scheduler_that_goes_is_said(settings):
    with Cluster("local", settings, 1) as crew:
        assert crew.width == 1
        found = outcomes(["sleeps"], settings, crew, task=task)
        threading.Timer(1, crew._local.close).start()
        with pytest.raises(ResourceError, match="is gone"):
            next(found)
