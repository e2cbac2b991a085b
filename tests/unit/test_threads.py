"""Threads that read a container: all is done, in whatever thread, and the first failure is told."""

from __future__ import annotations

import os
import threading

import pytest

from trajfile.containers.threads import Threads


def test_every_item_is_done_once_and_in_several_threads() -> None:
    threads, done, names = Threads(3, "some"), [], set()
    together = threading.Barrier(3, timeout=60)

    def work(item: int) -> None:
        if item < 3:
            together.wait()  # three at a time, or it fails
        done.append(item)
        names.add(threading.current_thread().name)

    threads.each(work, range(100))
    assert sorted(done) == list(range(100))
    assert all(name.startswith("some") for name in names)
    threads.each(work, [])
    threads.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("some")]
    threads.each(done.append, range(7))  # they begin anew
    assert len(done) == 107
    threads.close()


def test_the_first_failure_in_the_order_of_the_items_is_raised() -> None:
    threads = Threads(2, "some")
    late = threading.Event()

    def work(item: int) -> None:
        if item == 0:
            late.wait(60)  # fails after its follower
            raise ValueError(item)
        if item == 1:
            late.set()
            raise KeyError(item)
        pytest.fail("nothing is begun after a failure")

    with pytest.raises(ValueError, match="0"):
        threads.each(work, range(50))
    threads.close()


def test_where_no_thread_can_be_begun_it_goes_without(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, done = Threads(4, "some"), []

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        threads.each(done.append, range(20))
    assert done == list(range(20))
    threads.each(done.append, range(20))
    assert len(done) == 40
    threads.close()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_fork_begins_threads_of_its_own() -> None:
    threads = Threads(2, "some")
    threads.each(lambda item: None, range(10))
    child = os.fork()
    if child == 0:
        found: list[int] = []
        threads.each(found.append, range(10))
        os._exit(0 if sorted(found) == list(range(10)) else 1)
    assert os.waitpid(child, 0)[1] == 0
    threads.close()
