"""Recording into a store: kills, rewinds, two writers, and a store that fails."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.remote.servers import KEY, SECRET, make_bucket
from trajfile.containers import bucket as bucket_module
from trajfile.containers import lease as lease_module
from trajfile.containers.bucket import Bucket
from trajfile.containers.digest import digest
from trajfile.errors import Damaged, ResourceError, UsageError

pytest.importorskip("obstore")

OPTIMIZER = {"name": "SGD", "momentum": 0.0}


def values(step, salt=0):
    """What is recorded at a step; other bits for another salt."""
    rng = np.random.default_rng([step, salt])
    return {
        "params": {"w": rng.normal(size=(40, 5)).astype("f4")},
        "scalars": {"loss": 1 / (1 + step), "learning_rate": 0.1} if step % 3 else {},
    }


def record(writer, steps, salt=0):
    for step in steps:
        writer.append(step, **values(step, salt))


def expected(folder, *parts):
    """The digest of the same steps recorded locally: (steps, salt) one after another."""
    path = folder / "expected.zarr"
    with trajfile.Writer(path, mode="w", optimizer=OPTIMIZER) as writer:
        for steps, salt in parts:
            record(writer, steps, salt)
    return digest_of(path)


def digest_of(path):
    with trajfile.open(path) as run:
        return digest(run.container)


@pytest.fixture
def url(proxy, request):
    make_bucket(proxy.to, "written")
    return f"s3://written/{request.node.name}/run.zarr"


@pytest.fixture
def strangers(monkeypatch):
    """Every writer is on a machine of its own, so that only time tells whether it is gone."""
    numbers = iter(range(1000))
    monkeypatch.setattr(lease_module, "_machine", lambda: f"machine {next(numbers)}")
    monkeypatch.setattr(lease_module, "SECONDS", 0.4)


@pytest.fixture
def impatient(monkeypatch):
    """Nothing is tried again, and nothing is waited for."""
    monkeypatch.setattr(bucket_module, "_RETRIES", 0)
    monkeypatch.setattr(bucket_module, "_PATIENCE", 0.0)


def objects(url):
    bucket = Bucket(url)
    return {found["path"][len(str(bucket.prefix)) + 1 :] for found in bucket.below(bucket.prefix)}


def test_a_run_recorded_there_is_the_run(url, tmp_path):
    with trajfile.Writer(url, optimizer=OPTIMIZER) as writer:
        assert (writer.path, writer.committed_step) == (url, None)
        record(writer, range(3))
        with trajfile.open(url) as run:  # while it is written
            assert run.steps("params").tolist() == [0, 1, 2]
        with pytest.raises(ResourceError, match="open in another writer"):
            trajfile.Writer(url, mode="a")
        record(writer, range(3, 6))
    assert digest_of(url) == expected(tmp_path, (range(6), 0))
    assert {f"streams/params/float32/c.{row}.0" for row in range(6)} <= objects(url)
    assert "writer.lock" not in objects(url)
    with trajfile.Writer(url, mode="a", background=True) as writer:
        assert writer.committed_step == 5
        record(writer, range(6, 9))
    assert digest_of(url) == expected(tmp_path, (range(9), 0))
    assert trajfile.validate(url, deep=True) == []


def test_what_is_there_is_not_replaced_unless_asked(url, tmp_path):
    with trajfile.Writer(url, optimizer=OPTIMIZER) as writer:
        record(writer, range(4))
    with pytest.raises(UsageError, match="exists already"):
        trajfile.Writer(url)
    with trajfile.Writer(url, mode="w", optimizer=OPTIMIZER) as writer:
        assert digest_of(url) == expected(tmp_path, (range(4), 0))  # till the first append
        record(writer, range(2), salt=1)
    assert digest_of(url) == expected(tmp_path, (range(2), 1))
    bucket = Bucket(url)
    bucket.put(bucket.prefix.parent / "mine.zarr" / "notes.txt", [b"mine"])
    with pytest.raises(UsageError, match="no part of a trajectory"):
        record(trajfile.Writer(f"{url.rsplit('/', 1)[0]}/mine.zarr"), range(1))
    with pytest.raises(UsageError, match="only Zarr can be written"):
        trajfile.Writer("s3://written/run.h5")
    with pytest.raises(UsageError, match="no such bucket"):
        record(trajfile.Writer("s3://not-there/run.zarr"), range(1))


def test_a_writer_that_is_killed(url, tmp_path, caplog):
    script = (
        "import sys, trajfile\n"
        "from tests.remote.test_write import OPTIMIZER, values\n"
        f"writer = trajfile.Writer({url!r}, optimizer=OPTIMIZER, background=True)\n"
        "for step in range(10_000):\n"
        "    writer.append(step, **values(step))\n"
        "    print(writer.committed_step, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        last = -1
        while last < 14:
            line = process.stdout.readline().strip()
            last = -1 if line == "None" else int(line)
        os.kill(process.pid, signal.SIGKILL)
    with trajfile.open(url) as run:
        seen = run.steps("params").tolist()
        assert seen == list(range(len(seen)))
        assert len(seen) > last
    with caplog.at_level(logging.WARNING, "trajfile"), trajfile.Writer(url, mode="a") as writer:
        assert writer.committed_step == seen[-1]
        record(writer, range(len(seen), len(seen) + 3))
    assert "its last writer did not close it" in caplog.text
    assert digest_of(url) == expected(tmp_path, (range(len(seen) + 3), 0))
    with trajfile.Writer(url, mode="a", resume_step=12) as writer:  # the job restarts further back
        assert writer.committed_step == 11
        record(writer, range(12, 15), salt=1)
    with trajfile.open(url) as run:
        assert run.steps("params").tolist() == list(range(15))
        np.testing.assert_array_equal(run["params"]["w"][14], values(14, 1)["params"]["w"])
        assert run.manifest.lineage[0].step == 12
    assert not [found for found in trajfile.validate(url, deep=True) if found.severity == "error"]


@pytest.mark.slow
def test_cut_off_at_any_request(url, tmp_path, proxy, strangers, impatient, figure):
    whole = expected(tmp_path, (range(4), 0))
    points = list(range(1, 50, 4))
    for point in points:
        run, left = f"{url}/{point}.zarr", [point]

        def away(method, path, left=left):
            left[0] -= method in {"PUT", "POST"}
            return 503 if left[0] < 0 else None

        proxy.faults = away
        writer = trajfile.Writer(run, mode="a", optimizer=OPTIMIZER)
        recorded = 0
        try:
            for step in range(4):
                record(writer, [step])
                recorded += 1
        except ResourceError:
            pass
        writer.close()  # to which the store does not answer either
        proxy.faults = lambda method, path: None
        if recorded:
            with trajfile.open(run) as found:
                assert found.steps("params").tolist() == list(range(recorded))
        elif "zarr.json" not in objects(run):
            with pytest.raises((Damaged, trajfile.errors.NotATrajectory)):
                trajfile.open(run)
        with trajfile.Writer(run, mode="a", optimizer=OPTIMIZER) as writer:
            first = 0 if writer.committed_step is None else writer.committed_step + 1
            assert first == recorded
            record(writer, range(first, 4))
        assert digest_of(run) == whole
    figure(f"writers cut off from a store {len(points)}, losses 0")


def test_faults_of_the_store_are_survived(url, tmp_path, proxy, monkeypatch):
    monkeypatch.setenv("TRAJFILE_REMOTE_TIMEOUT", "1")
    monkeypatch.setattr(lease_module, "SECONDS", 1000)  # renewals are not to be counted
    kinds, given = ["lost", 503, 500, "lost", 429, 502], []

    def often(method, path):
        if "writer.lock" in path or (len(given) + len(proxy.seen)) % 4:
            return None
        given.append("hang" if len(given) == 9 else kinds[len(given) % len(kinds)])
        return given[-1]

    proxy.faults = often
    with trajfile.Writer(url, optimizer=OPTIMIZER) as writer:
        record(writer, range(5))
    with trajfile.Writer(url, mode="a") as writer:
        record(writer, range(5, 8))
    proxy.faults = lambda method, path: None
    assert {*kinds, "hang"} == set(given)
    assert digest_of(url) == expected(tmp_path, (range(8), 0))


def test_a_store_that_stays_away_and_comes_back(url, tmp_path, proxy, impatient, caplog):
    writer = trajfile.Writer(url, optimizer=OPTIMIZER)
    record(writer, range(2))
    for status, why in ((503, "status 503"), (403, "access is denied")):
        proxy.faults = lambda method, path, status=status: status
        for _ in range(2):
            with pytest.raises(ResourceError, match=why) as raised:
                record(writer, range(2, 3))
            error, texts = raised.value, [caplog.text]
            while error is not None:
                texts += [str(error), repr(error)]
                error = error.__cause__
            assert not any(word in text for text in texts for word in (KEY, SECRET))
            assert writer.committed_step == 1
    proxy.faults = lambda method, path: None
    record(writer, range(2, 4))
    writer.close()
    assert digest_of(url) == expected(tmp_path, (range(4), 0))


def stall(writer):
    """Stop a writer from being heard of, as a machine that is suspended does."""
    lease = writer._container._store._objects.lease
    lease._over.set()
    lease._thread.join()


@pytest.mark.parametrize(
    "appended",
    [pytest.param(0, marks=pytest.mark.slow), 1, pytest.param(3, marks=pytest.mark.slow)],
)
def test_a_writer_that_wakes_after_another_took_over(url, tmp_path, strangers, appended):
    late = trajfile.Writer(url, optimizer=OPTIMIZER)
    record(late, range(3))
    with pytest.raises(ResourceError, match="open in another writer"):
        trajfile.Writer(url, mode="a")  # the first is still renewed
    stall(late)
    with trajfile.Writer(url, mode="a") as writer:
        record(writer, range(3, 3 + appended), salt=1)
        for _ in range(3):
            with pytest.raises(ResourceError, match="another writer has taken over"):
                record(late, [3])
        late.close()
        try:  # a row that the first managed to write is met once
            record(writer, [3 + appended], salt=1)
        except ResourceError:
            assert appended == 0
            record(writer, [3 + appended], salt=1)
        record(writer, [4 + appended], salt=1)
    both = (range(3), 0), (range(3, 5 + appended), 1)
    assert digest_of(url) == expected(tmp_path, *both)


def test_a_store_without_conditions_is_refused(url, proxy):
    for header in ("if-match", "if-none-match"):
        proxy.dropped = {header}
        with pytest.raises(UsageError, match="does not heed conditions"):
            record(trajfile.Writer(url), range(1))
    proxy.dropped = set()
