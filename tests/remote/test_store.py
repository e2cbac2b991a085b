"""Runs in an S3-compatible store: a real server on loopback, and failures before it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.audit.runs import healthy, wide
from tests.remote.servers import KEY, SECRET, make_bucket
from trajfile.audit.inputs import inputs
from trajfile.containers.bucket import Bucket, Unreachable
from trajfile.errors import Damaged, NotATrajectory, UsageError

pytest.importorskip("obstore")


def upload(proxy, folder, url):
    """What a tool such as `aws s3 sync` does."""
    bucket = Bucket(url)
    make_bucket(proxy.to, url.split("/")[2])
    for path in [folder] if folder.is_file() else sorted(folder.rglob("*")):
        if path.is_file():
            key = bucket.prefix if folder.is_file() else bucket.prefix / path.relative_to(folder)
            bucket.put(key, [path.read_bytes()])


@pytest.fixture
def local(tmp_path):
    healthy(tmp_path / "run.h5", [*range(16)])  # some objects a step, each a request or several
    trajfile.convert(tmp_path / "run.h5", tmp_path / "run.zarr")
    return tmp_path / "run.zarr"


def comparable(report):
    found = report.to_dict()
    del found["run"], found["source"]["path"]
    return json.dumps(found)


def test_a_run_in_a_store_is_the_run(proxy, local):
    upload(proxy, local, "s3://one/deep/run.zarr")
    with trajfile.open("s3://one/deep/run.zarr") as there, trajfile.open(local) as here:
        assert there.path == "s3://one/deep/run.zarr"
        assert there.uuid == here.uuid
        np.testing.assert_array_equal(
            there["params"]["fc1.weight"][3:9], here["params"]["fc1.weight"][3:9]
        )
        np.testing.assert_array_equal(there.scalars["loss"][1], here.scalars["loss"][1])
    found = trajfile.analyze("s3://one/deep/run.zarr", device="cpu")
    assert comparable(found) == comparable(trajfile.analyze(local, device="cpu"))


def test_only_the_ranges_that_are_wanted_are_read(proxy, tmp_path):
    wide(tmp_path / "wide.h5")
    trajfile.convert(tmp_path / "wide.h5", tmp_path / "wide.zarr")
    upload(proxy, tmp_path / "wide.zarr", "s3://two/wide.zarr")
    with trajfile.open("s3://two/wide.zarr") as run:
        bucket = run.container._store._objects.bucket
        before = bucket.bytes_read
        proxy.seen.clear()
        run["params"]["b"][2:3]
        row = 4 * 600_000
        assert bucket.bytes_read - before < 0.7 * row
        assert all(asked for method, _, asked in proxy.seen if method == "GET")


def test_faults_of_the_store_are_survived(proxy, local, monkeypatch):
    monkeypatch.setenv("TRAJFILE_REMOTE_TIMEOUT", "1")
    upload(proxy, local, "s3://three/run.zarr")
    faults = {}
    kinds = [503, 500, "cut", 429, 502]

    def once(method, path):
        if path in faults or method != "GET" or ("list-type" in path and len(faults) % 2):
            return None
        faults[path] = kinds[len(faults) % len(kinds)] if len(faults) % 20 else "hang"
        return faults[path]

    proxy.faults = once
    found = trajfile.analyze("s3://three/run.zarr", metrics="norms", device="cpu")
    proxy.faults = lambda method, path: None
    assert {503, 500, "cut", 429, 502, "hang"} <= set(faults.values())
    assert comparable(found) == comparable(trajfile.analyze(local, metrics="norms", device="cpu"))


def test_a_store_that_stays_away_is_said_without_credentials(proxy, local, monkeypatch, caplog):
    import trajfile.containers.bucket as module

    monkeypatch.setattr(module, "_RETRIES", 1)
    upload(proxy, local, "s3://four/run.zarr")
    for status, why in ((503, "status 503"), (403, "access is denied")):
        proxy.faults = lambda method, path, status=status: status
        with pytest.raises(Unreachable, match=why) as raised:
            trajfile.open("s3://four/run.zarr")
        chain, texts = raised.value, [caplog.text]
        while chain is not None:
            texts += [str(chain), repr(chain)]
            chain = chain.__cause__
        assert raised.value.__suppress_context__
        assert not any(KEY in text or SECRET in text for text in texts)
    command = [str(Path(sys.executable).with_name("trajfile")), "info", "s3://four/run.zarr"]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 3
    assert "access is denied" in failed.stderr
    assert not any(word in failed.stdout + failed.stderr for word in (KEY, SECRET, "Traceback"))


def test_what_is_missing_or_damaged_there(proxy, local):
    upload(proxy, local, "s3://five/run.zarr")
    with pytest.raises(NotATrajectory):
        trajfile.open("s3://five/absent.zarr")
    with pytest.raises(NotATrajectory, match="convert it to Zarr"):
        trajfile.open("s3://five/run.h5")
    with pytest.raises(UsageError, match="may not hold credentials") as raised:
        trajfile.open(f"s3://{KEY}:{SECRET}@five/run.zarr")
    assert SECRET not in str(raised.value)
    bucket = Bucket("s3://five/run.zarr")
    key = bucket.prefix / "streams" / "params" / "float32" / "c.5.0"
    data = bytearray(bucket.get(key))
    data[9] ^= 4
    bucket.put(key, [bytes(data)])
    with trajfile.open("s3://five/run.zarr") as run, pytest.raises(Damaged, match="checksum"):
        run["params"]["fc1.weight"][5:6]
    bucket.delete([key])
    with trajfile.open("s3://five/run.zarr") as run, pytest.raises(Damaged, match="missing"):
        run["params"]["fc1.weight"][5:6]


def test_safetensors_in_a_store(proxy, tmp_path):
    from safetensors.numpy import save_file

    generator = np.random.default_rng(2)
    folder = tmp_path / "checkpoints"
    for step in (10, 20, 30):
        (folder / f"checkpoint-{step}").mkdir(parents=True)
        arrays = {
            "a.weight": generator.normal(size=(7, 5)).astype("f4"),
            "b": np.ones(3, "f4") * step,
        }
        save_file(arrays, folder / f"checkpoint-{step}" / "model.safetensors")
    upload(proxy, folder, "s3://six/checkpoints")
    with trajfile.open("s3://six/checkpoints") as there, trajfile.open(folder) as here:
        assert there.steps("params").tolist() == [10, 20, 30]
        for name in ("a.weight", "b"):
            np.testing.assert_array_equal(there["params"][name][:], here["params"][name][:])
    with trajfile.open("s3://six/checkpoints/checkpoint-20/model.safetensors") as one:
        np.testing.assert_array_equal(one["params"]["b"][0], np.full(3, 20, "f4"))


def test_an_audit_of_a_store(proxy, local, tmp_path):
    upload(proxy, local, "s3://seven/runs/a.zarr")
    upload(proxy, local, "s3://seven/runs/deep/b.zarr")
    assert list(inputs(["s3://seven/runs"])) == [
        "s3://seven/runs/a.zarr",
        "s3://seven/runs/deep/b.zarr",
    ]
    from trajfile.audit import Settings, load_rulebook
    from trajfile.audit.content import identity_of
    from trajfile.audit.examine import examine

    settings = Settings(load_rulebook())
    outcome = examine("s3://seven/runs/a.zarr", settings)
    assert (outcome.status, outcome.violations) == ("ok", [])
    before = identity_of("s3://seven/runs/a.zarr")
    assert before == outcome.identity != "missing"
    Bucket("s3://seven/runs/a.zarr").put(Bucket("s3://seven/runs/a.zarr").prefix / "note", [b"x"])
    assert identity_of("s3://seven/runs/a.zarr") != before
    assert identity_of("s3://seven/runs/none.zarr") == "missing"
