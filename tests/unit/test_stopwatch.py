"""The stopwatch: every second counts once, in the thread and the kind it was spent."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest

import trajfile
from trajfile.stopwatch import KINDS, at, is_running, running, spent


def test_what_is_nested_counts_once() -> None:
    def work() -> None:
        with at("read"):
            time.sleep(0.03)
            with at("verify"):
                time.sleep(0.02)
            time.sleep(0.01)

    with running() as watch:
        started = time.perf_counter()
        thread = threading.Thread(target=work, name="other thread")
        thread.start()
        with at("wait"):
            thread.join()
        with pytest.raises(ValueError, match="raised"), at("metrics"):
            raise ValueError("raised")
        assert watch is not None
        told = watch.told()
        taken = time.perf_counter() - started
    theirs, mine = told["other thread"], told["MainThread"]
    assert 0.04 <= theirs["read"] <= taken
    assert 0.02 <= theirs["verify"] <= taken - 0.03
    assert sum(mine.values()) == pytest.approx(taken, abs=0.01)
    assert mine["wait"] >= 0.04
    assert watch.told() != {}


def test_nothing_is_noted_unless_it_runs() -> None:
    with running(wanted=False) as watch, at("read"):
        assert watch is None
    with running() as watch:
        pass
    assert watch is not None
    with at("read"):
        time.sleep(0.001)
    assert "read" not in watch.told()["MainThread"]


def test_what_was_measured_otherwise_is_taken_from_what_the_thread_is_at() -> None:
    assert not is_running()
    spent("read", 1.0)  # nobody counts
    start = time.perf_counter()
    with running() as watch:
        assert is_running()
        with at("products"):
            time.sleep(0.03)
            spent("read", 0.02)
    assert watch is not None
    told = watch.told()["MainThread"]
    assert told["read"] == 0.02
    assert 0.03 <= told["read"] + told["products"] < time.perf_counter() - start


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_an_analysis_is_accounted_for(suffix: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"run{suffix}"
    with trajfile.Writer(path, compression=compression) as writer:
        for step in range(12):
            row = np.random.default_rng(step).standard_normal(40_000, np.float32)
            writer.append(step, params={"w": row}, gradients={"w": row})
    assert trajfile.analyze(path).run.profile is None
    report = trajfile.analyze(path, profile=True, device="cpu")
    profile = report.run.profile
    assert profile is not None
    kinds = {kind for spent in profile.values() for kind in spent}
    assert kinds <= set(KINDS)
    assert {"read", "products", "metrics", "wait", "other", "copy"} <= kinds
    assert ("decode" in kinds) == (compression is not None)
    assert "verify" in kinds or suffix == ".h5"
    assert sum(profile["MainThread"].values()) == pytest.approx(report.run.wall_seconds, abs=0.1)
    for name, seconds in profile.items():
        assert sum(seconds.values()) <= report.run.wall_seconds * 1.05, name
    assert trajfile.Report.from_dict(report.to_dict()).run.profile == profile
