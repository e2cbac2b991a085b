"""Conversions that were cut short: killed anywhere, the next one ends as if nothing had been."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.unit.runs import theta
from trajfile import convert as convert_function
from trajfile.containers import open_container, pieces
from trajfile.containers.bulk import Bulk
from trajfile.containers.digest import digest
from trajfile.containers.writer_lock import WriterLock
from trajfile.unfinished import Unfinished

convert_module = __import__("sys").modules[convert_function.__module__]


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A block a row, and a note every few."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 24)
    monkeypatch.setattr(convert_module, "_NOTED_BYTES", 200)


def record(path: Path) -> None:
    with trajfile.Writer(path) as writer:
        for step in range(10):
            gradients = None if step % 2 else theta(step + 100)
            params = theta(step)
            writer.append(step, params=params, gradients=gradients, scalars={"loss": step})


def dying(action: Callable[[], None]) -> None:
    """Run something in a process of its own, which is killed in the midst of it."""
    child = os.fork()
    if not child:
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status)
    assert os.WTERMSIG(status) == signal.SIGKILL


def kill_at(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, call: int) -> None:
    """Have the process killed when a method is called for the n-th time."""
    original, calls = getattr(owner, name), []

    def wrapped(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, wrapped)


POINTS = [
    (Bulk, "copy", 1),
    (Bulk, "copy", 14),
    (Bulk, "flush", 3),
    (Bulk, "commit", 1),
    (Bulk, "close", 1),
    (Unfinished, "note", 2),
    (Unfinished, "note", 5),
    (Unfinished, "finish", 1),
]


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize(("owner", "method", "call"), POINTS)
def test_killed_and_run_again(
    tmp_path: Path, suffix: str, owner: type, method: str, call: int
) -> None:
    source, out = tmp_path / "run.zarr", tmp_path / f"out{suffix}"
    record(source)
    trajfile.convert(source, tmp_path / f"straight{suffix}", steps="0:8")
    with pytest.MonkeyPatch.context() as patched:
        kill_at(patched, owner, method, call)
        dying(lambda: trajfile.convert(source, out, steps="0:8"))
    assert not out.exists()
    assert not any(path.name == "out.h5" for path in tmp_path.iterdir())
    done = trajfile.convert(source, out, steps="0:8")
    if (method, call) not in {("copy", 1), ("note", 2)}:
        assert 0 < done.resumed_bytes <= done.raw_bytes
    made, copy = open_container(tmp_path / f"straight{suffix}"), open_container(out)
    assert digest(copy) == digest(made) == done.digest
    assert copy.uuid == made.uuid
    np.testing.assert_array_equal(copy.commits(), made.commits())
    made.close()
    copy.close()
    assert {p.name for p in tmp_path.iterdir()} == {source.name, out.name, f"straight{suffix}"}


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_killed_archive_goes_on_too(tmp_path: Path, suffix: str) -> None:
    source, out = tmp_path / "run.zarr", tmp_path / f"out{suffix}"
    record(source)
    with pytest.MonkeyPatch.context() as patched:
        kill_at(patched, Bulk, "copy", 3)
        dying(lambda: trajfile.convert(source, out, layout="archive"))
    assert not out.exists()
    done = trajfile.convert(source, out, layout="archive")
    assert 0 < done.resumed_bytes < done.raw_bytes
    made, copy = open_container(source), open_container(out)
    assert digest(copy) == digest(made) == done.digest
    assert getattr(copy, "archive", False)
    made.close()
    copy.close()


def test_interrupted_it_says_how_to_go_on(tmp_path: Path) -> None:
    record(tmp_path / "run.h5")

    def interrupt(done: int, total: int) -> None:
        if done > total / 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"goes on from here, or remove .*out.zarr.partial"):
        trajfile.convert(tmp_path / "run.h5", tmp_path / "out.zarr", progress=interrupt)
    with pytest.raises(trajfile.NotATrajectory):
        trajfile.open(tmp_path / "out.zarr.partial")
    assert trajfile.convert(tmp_path / "run.h5", tmp_path / "out.zarr").resumed_bytes > 0


@pytest.mark.parametrize(
    "other", [{"steps": "0:5"}, {"params": ["w"]}, {"compression": "gzip"}, {"source": "more"}]
)
def test_another_conversion_starts_afresh(tmp_path: Path, other: dict) -> None:
    record(tmp_path / "run.h5")
    with trajfile.Writer(tmp_path / "more.h5") as writer:
        writer.append(0, params={"w": np.ones(3)})

    def stop(done: int, total: int) -> None:
        if done > total / 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        trajfile.convert(tmp_path / "run.h5", tmp_path / "out.zarr", progress=stop)
    source = tmp_path / f"{other.pop('source', 'run')}.h5"
    done = trajfile.convert(source, tmp_path / "out.zarr", **other)
    assert done.resumed_bytes == 0
    assert not (tmp_path / "out.zarr.partial").exists()


def test_damage_on_the_way_is_found_and_not_handed_over(tmp_path: Path) -> None:
    record(tmp_path / "run.h5")
    source, out = tmp_path / "run.h5", tmp_path / "out.zarr"

    def stop(done: int, total: int) -> None:
        if done > total / 4:
            raise RuntimeError

    with pytest.raises(RuntimeError):
        trajfile.convert(source, out, progress=stop)
    lanes = tmp_path / "out.zarr.partial/out.zarr/streams/params"
    (lanes / "float32/c.1.0").write_bytes((lanes / "float32/c.2.0").read_bytes())
    with pytest.raises(trajfile.Damaged, match=r"does not say the same .* was removed"):
        trajfile.convert(source, out)
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5"}
    trajfile.convert(source, out)


def test_a_damaged_source_is_told_and_nothing_appears(tmp_path: Path) -> None:
    record(tmp_path / "run.zarr")
    shard = tmp_path / "run.zarr/streams/params/float32/c.7.0"
    data = bytearray(shard.read_bytes())
    data[3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(trajfile.Damaged, match=r"run.zarr, /streams/params/float32: in row 7"):
        trajfile.convert(tmp_path / "run.zarr", tmp_path / "out.h5")
    assert not (tmp_path / "out.h5").exists()


def test_one_conversion_at_a_time(tmp_path: Path) -> None:
    record(tmp_path / "run.h5")
    (tmp_path / "out.h5.partial").mkdir()
    lock = WriterLock(tmp_path / "out.h5.partial")
    with pytest.raises(trajfile.ResourceError, match=r"out.h5.partial is open in another writer"):
        trajfile.convert(tmp_path / "run.h5", tmp_path / "out.h5")
    lock.close()
    trajfile.convert(tmp_path / "run.h5", tmp_path / "out.h5")
