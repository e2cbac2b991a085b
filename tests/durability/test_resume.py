"""Going on after a crash or from an earlier step; one writer at a time; readers meanwhile."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401  (zstd)
import numpy as np
import pytest

import trajfile
from tests.durability.runs import Run, visible
from trajfile.containers import open_container

ROOT = Path(__file__).parents[2]

RECORDS = """
import json, os, signal, sys
from pathlib import Path
from tests.durability.runs import Run
run, path, steps = Run(**json.loads(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
writer = run.writer(path)
for step in range(steps):
    writer.append(step, **run.arguments(step))
    print(step, flush=True)
sys.stdin.readline()
writer.close()
"""


@pytest.fixture(params=[".h5", ".zarr"])
def run(request: pytest.FixtureRequest) -> Run:
    return Run(request.param, steps=12)


def recording(run: Run, path: Path, steps: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", RECORDS, json.dumps(run.as_dict()), str(path), str(steps)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def test_readers_see_whole_steps_and_a_second_writer_none(run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"run{run.suffix}"
    seen = []
    with recording(run, path, run.steps) as writer:
        assert writer.stdout is not None
        while len(seen) < 40 and (not seen or seen[-1] < run.steps):
            if path.exists():
                seen.append(visible(path, run, [0] * run.steps))
        for step in range(run.steps):
            assert int(writer.stdout.readline()) == step
        assert visible(path, run, [0] * run.steps) == run.steps
        assert seen == sorted(seen)
        with pytest.raises(trajfile.ResourceError, match="another writer"):
            run.writer(path)
        writer.send_signal(signal.SIGKILL)
    run.writer(path).close()  # the dead one holds nothing


def test_a_recovery_is_said_in_one_line(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"run{run.suffix}"
    with recording(run, path, 4) as writer:
        assert writer.stdout is not None
        assert [int(writer.stdout.readline()) for _ in range(4)] == [0, 1, 2, 3]
        writer.send_signal(signal.SIGKILL)
    with caplog.at_level(logging.INFO, "trajfile"):
        run.writer(path).close()
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert "going on after step 3, the last of 4 commits" in record.getMessage()
    assert "\n" not in record.getMessage()
    caplog.clear()
    run.writer(path).close()
    assert not caplog.records  # it was closed this time


def test_what_was_recorded_from_a_step_on_is_taken_back(
    run: Run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / f"run{run.suffix}"
    with run.writer(path) as writer:
        for step in range(6):
            writer.append(step, **run.arguments(step))
    with caplog.at_level(logging.INFO, "trajfile"):
        writer = run.writer(path, resume_step=3)
    assert "took back the rows up to step 5" in caplog.text
    assert writer.committed_step == 2
    with trajfile.open(path) as trajectory:
        (taken,) = trajectory.manifest.lineage
        # The tensor and the scalar that had joined at steps 3 and 4 are gone with them.
        assert "accuracy" not in trajectory.manifest.scalars
        assert "late" not in trajectory.tensors("params")
        assert trajectory.steps("params").tolist() == [0, 1, 2]
    assert (taken.step, taken.last_step) == (3, 5)
    assert taken.wall_ns > 1.7e18
    assert taken.rows["params"] == taken.rows["scalars"] == 3
    assert taken.rows["gradient_samples"] == 2  # of the one step 4
    with pytest.raises(trajfile.StepOrder):
        writer.append(2, **run.arguments(2))
    for step in range(3, run.steps):
        writer.append(step, **run.arguments(step, life=1))
    writer.close()
    assert visible(path, run, [0] * 3 + [1] * 9) == run.steps
    container = open_container(path)
    assert container.commits()[:, 0].tolist() == list(range(run.steps))
    container.close()
    with run.writer(path, resume_step=1) as writer:  # beyond an earlier one
        for step in range(1, run.steps):
            writer.append(step, **run.arguments(step, life=2))
    assert visible(path, run, [0] + [2] * 11) == run.steps
    with trajfile.open(path) as trajectory:
        assert [taken.step for taken in trajectory.manifest.lineage] == [3, 1]
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]


def test_nothing_to_take_back_leaves_no_trace(run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"run{run.suffix}"
    for resume_step in (0, 4, 7):
        with run.writer(path, resume_step=resume_step) as writer:
            for step in range(3 if resume_step == 0 else 0):
                writer.append(step, **run.arguments(step))
    with trajfile.open(path) as trajectory:
        assert trajectory.manifest.lineage == ()
        assert trajectory.steps("params").tolist() == [0, 1, 2]


def test_everything_can_be_taken_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"run{run.suffix}"
    with run.writer(path) as writer:
        writer.append(5, params={"w": np.ones(3, np.float32)})
    for _ in range(2):  # the second time there is nothing left
        with run.writer(path, resume_step=0) as writer:
            assert writer.committed_step is None
    with run.writer(path) as writer:
        writer.append(0, params={"w": np.zeros(3, np.float32)})
    with trajfile.open(path) as trajectory:
        assert trajectory.steps("params").tolist() == [0]
        assert not trajectory["params"]["w"][:].any()


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_rows_of_any_state_are_written_over(tmp_path: Path, compression: str | None) -> None:
    run = Run(".h5", compression, steps=8)
    path = tmp_path / "run.h5"
    with run.writer(path) as writer:
        for step in range(6):
            writer.append(step, **run.arguments(step))
    run.writer(path, resume_step=3).close()
    torn = 0
    with h5py.File(path) as file:
        places = []
        for stream in file["streams/optimizer"].values(), [file["streams/params"]]:
            for lane in (lane for group in stream for lane in group.values() if lane.ndim == 2):
                chunks = [lane.id.get_chunk_info(i) for i in range(lane.id.get_num_chunks())]
                places += [c for c in chunks if c.chunk_offset[0] >= 3]
    with path.open("r+b") as raw:
        for chunk in places:  # as if a kill had cut each of them off
            raw.seek(chunk.byte_offset + chunk.size // 2)
            raw.write(b"\x5a" * (chunk.size // 4))
            torn += 1
    assert torn > 20
    with run.writer(path) as writer:
        for step in range(3, run.steps):
            writer.append(step, **run.arguments(step, life=1))
    assert visible(path, run, [0] * 3 + [1] * 5) == run.steps
    assert not [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
    with h5py.File(path) as file:  # the library agrees with what was written past it
        assert file["streams/params/float32"][5, :3].tobytes() == (
            run.arguments(5, life=1)["params"]["w"].reshape(-1)[:3].tobytes()
        )
        assert file["streams/params/float32.joined"][:].shape[0] == run.steps


@pytest.mark.parametrize("step", [-1, 1.5, True, "3"])
def test_a_step_that_is_none_is_refused(tmp_path: Path, step: object) -> None:
    with pytest.raises(trajfile.UsageError, match="resume_step is"):
        trajfile.Writer(tmp_path / "run.h5", mode="a", resume_step=step)  # type: ignore[arg-type]


def test_only_a_file_that_is_continued_can_go_back(tmp_path: Path) -> None:
    with pytest.raises(trajfile.UsageError, match="mode='a'"):
        trajfile.Writer(tmp_path / "run.h5", resume_step=3)


def test_a_contradiction_takes_nothing_back(run: Run, tmp_path: Path) -> None:
    path = tmp_path / f"run{run.suffix}"
    with trajfile.Writer(path, optimizer={"name": "SGD"}) as writer:
        for step in range(3):
            writer.append(step, params={"w": np.ones(3, np.float32)})
    with pytest.raises(trajfile.UsageError, match="contradict"):
        trajfile.Writer(path, mode="a", resume_step=1, optimizer={"name": "Adam"})
    with trajfile.open(path) as trajectory:
        assert trajectory.steps("params").tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_background_steps_are_durable_once_flushed(tmp_path: Path, suffix: str) -> None:
    with trajfile.Writer(tmp_path / f"run{suffix}", background=True) as writer:
        assert writer.committed_step is None
        for step in range(8):
            writer.append(step, params={"w": np.full(3, step, np.float32)})
        writer.flush()
        assert writer.committed_step == 7
