"""The queue commits in order, within its bound, and hides no failure."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

import trajfile
from trajfile.background import Committer
from trajfile.containers.base import Commit
from trajfile.containers.journal import Journal


@pytest.fixture(params=[".h5", ".zarr"])
def path(request, tmp_path):
    return tmp_path / f"run{request.param}"


def test_background_commits_all_in_order_and_copies_first(path):
    buffer = np.zeros((64, 64), np.float32)
    with trajfile.Writer(path, background=True, queue_bytes=3 * buffer.nbytes) as writer:
        for step in range(40):
            buffer[...] = step
            writer.append(step, params={"w": buffer}, scalars={"loss": step})
            buffer[...] = -1
        with pytest.raises(trajfile.StepOrder):
            writer.append(39, params={"w": buffer})
    with trajfile.open(path) as run:
        assert run.steps("params").tolist() == list(range(40))
        read = run["params"]["w"][:]
        np.testing.assert_array_equal(read, np.arange(40)[:, None, None] * np.ones_like(read))
        assert run.container.commits()[:, 1].tolist() == list(range(40))


def test_the_queue_never_holds_more_than_its_bound():
    held, most, order = [0], [0], []
    lock, gate = threading.Lock(), threading.Semaphore(0)

    def pack(step):
        with lock:
            held[0] += 10
            most[0] = max(most[0], held[0])
        if most[0] == 30:
            gate.release()  # the bound is reached; from now on commits may go through
        return Commit(step)

    def commit(done):
        gate.acquire()
        order.append(done.step)
        with lock:
            held[0] -= 10
        gate.release()

    queue = Committer(commit, limit=35)
    for step in range(20):
        queue.put(10, lambda step=step: pack(step))
    queue.close()
    assert most[0] == 30
    assert order == list(range(20))


def test_a_step_larger_than_the_bound_passes_alone():
    done = []
    queue = Committer(lambda commit: done.append(commit.step), limit=10)
    for step in range(3):
        queue.put(100, lambda step=step: Commit(step))
    queue.close()
    assert done == [0, 1, 2]


def test_a_failed_packing_gives_its_room_back():
    queue = Committer(lambda commit: None, limit=10)

    def fails():
        raise MemoryError

    for _ in range(3):
        with pytest.raises(MemoryError):
            queue.put(10, fails)
    queue.put(10, lambda: Commit(0))
    queue.close()


def test_a_failed_commit_surfaces_once_as_itself_and_drops_what_follows():
    done, failure = [], OSError("no space left")
    failed = threading.Event()

    def commit(pending):
        if pending.step == 2:
            failed.set()
            raise failure
        done.append(pending.step)

    queue = Committer(commit, limit=1000)
    for step in range(3):
        queue.put(1, lambda step=step: Commit(step))
    failed.wait()

    def go_on():
        # The thread may not have handed its error over yet; what is queued until then is dropped.
        for step in range(3, 10**6):
            queue.put(1, lambda step=step: Commit(step))

    with pytest.raises(OSError, match="no space left") as caught:
        go_on()
    assert caught.value is failure
    queue.close()
    assert done == [0, 1]


def test_a_failed_commit_surfaces_at_close_if_nothing_is_appended_after_it():
    failure = OSError("no space left")

    def commit(pending):
        raise failure

    queue = Committer(commit, limit=1000)
    queue.put(1, lambda: Commit(0))
    with pytest.raises(OSError, match="no space left") as caught:
        queue.close()
    assert caught.value is failure


@pytest.fixture
def gate(monkeypatch):
    """Nothing is committed until it is set."""
    append_some, gate = Journal.append_some, threading.Event()

    def slow(journal, commits):
        gate.wait(10)
        return append_some(journal, commits)

    monkeypatch.setattr(Journal, "append_some", slow)
    return gate


def test_flush_waits_for_steps_that_hold_scalars_alone(path, gate):
    with trajfile.Writer(path, background=True) as writer:
        for step in range(5):
            writer.append(step, scalars={"loss": float(step)})
        assert writer.committed_step is None
        threading.Timer(0.05, gate.set).start()
        writer.flush()
        assert writer.committed_step == 4


def test_the_queue_is_bounded_for_steps_that_hold_scalars_alone(path, gate):
    with trajfile.Writer(path, background=True, queue_bytes=20_000) as writer:
        threading.Timer(0.2, gate.set).start()
        for step in range(100):
            assert gate.is_set() or step < 20, "all of it was queued"
            writer.append(step, scalars={"loss": float(step)})


def test_memory_of_steps_that_a_failure_dropped_is_not_counted_for_ever(path, monkeypatch):
    append_some, gate = Journal.append_some, threading.Event()

    def fails(journal, commits):
        gate.wait(10)
        raise trajfile.ResourceError("no space left")

    row = {"w": np.ones(1000, np.float32)}
    with trajfile.Writer(path, background=True) as writer:
        with monkeypatch.context() as patched:
            patched.setattr(Journal, "append_some", fails)
            for step in range(100):
                writer.append(step, params=row)
            gate.set()
            with pytest.raises(trajfile.ResourceError):
                writer.flush()
        assert Journal.append_some is append_some
        writer.append(0, params=row)
        writer.flush()
        assert writer._committing._pool._used == 0


FILLS_THE_DISK = """
import resource, signal, sys
import numpy as np, trajfile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing on fails with an error, as on a full disk
writer = trajfile.Writer(sys.argv[1], background=sys.argv[2] == "background")
writer.append(0, params={"w": np.zeros(250_000, np.float32)})
resource.setrlimit(resource.RLIMIT_FSIZE, (5_500_000, resource.RLIM_INFINITY))
try:
    for step in range(1, 100):
        writer.append(step, params={"w": np.full(250_000, step, np.float32)})
    writer.close()
except trajfile.ResourceError as error:
    print(error)
    writer.close()
    print(writer.committed_step)
"""


@pytest.mark.parametrize("way", ["background", "foreground"])
def test_a_full_disk_is_said_and_what_was_committed_stays(way, tmp_path):
    path = tmp_path / "run.h5"
    done = subprocess.run(
        [sys.executable, "-c", FILLS_THE_DISK, str(path), way],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "full" in done.stdout
    with trajfile.open(path) as run:
        rows = len(run["params"]["w"])
        assert rows == int(done.stdout.split()[-1]) + 1
        assert 3 <= rows <= 6
        np.testing.assert_array_equal(run["params"]["w"][:, 0], range(rows))
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
