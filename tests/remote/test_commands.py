"""Every command on addresses in a store, and copies from and to one."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from trajfile_cli.app import main

import trajfile
from tests.audit.runs import healthy
from tests.remote.servers import KEY, SECRET, make_bucket
from trajfile.containers.bucket import Bucket
from trajfile.containers.digest import digest
from trajfile.errors import Damaged, NotATrajectory, ResourceError, UsageError

pytest.importorskip("obstore")


@pytest.fixture
def there(proxy, tmp_path, request):
    """A run on the disk and its copy in a store."""
    make_bucket(proxy.to, "commands")
    url = f"s3://commands/{request.node.name}/run.zarr"
    healthy(tmp_path / "run.h5", [*range(6)])
    done = trajfile.convert(tmp_path / "run.h5", url)
    assert (done.path, done.kind) == (url, "zarr")
    return tmp_path / "run.h5", url


def command(*arguments):
    with (
        redirect_stdout(StringIO()) as out,
        redirect_stderr(StringIO()) as err,
        pytest.raises(SystemExit) as stopped,
    ):
        main(list(arguments))
    done = SimpleNamespace(
        stdout=out.getvalue(), stderr=err.getvalue(), returncode=stopped.value.code or 0
    )
    assert not any(word in done.stdout + done.stderr for word in (KEY, SECRET, "Traceback"))
    return done


def test_a_copy_there_and_back(there, tmp_path):
    here, url = there
    with trajfile.open(here) as one, trajfile.open(url) as other:
        assert one.uuid == other.uuid
        assert digest(one.container) == digest(other.container)
    with pytest.raises(UsageError, match="exists already"):
        trajfile.convert(here, url)
    with pytest.raises(UsageError, match="is what is to be converted"):
        trajfile.convert(url, url, overwrite=True)
    trajfile.convert(url, tmp_path / "back.h5", steps="0:3")
    with trajfile.open(tmp_path / "back.h5") as back, trajfile.open(here) as one:
        rows = len(back.steps("params"))
        np.testing.assert_array_equal(
            back["params"]["fc1.weight"][:], one["params"]["fc1.weight"][:rows]
        )
    done = command("convert", str(here), "-o", url, "--overwrite", "--layout", "archive")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(url)
    with pytest.raises(UsageError, match="archive"):
        trajfile.Writer(url, mode="a")


def test_a_copy_that_is_cut_short(proxy, tmp_path, monkeypatch):
    make_bucket(proxy.to, "commands")
    healthy(here := tmp_path / "run.h5", [*range(6)])
    url = "s3://commands/cut.zarr"
    monkeypatch.setattr(sys.modules["trajfile.convert"], "_NOTED_BYTES", 1)
    calls = []

    def interrupt(done, total):
        calls.append(done)
        if done >= total / 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        trajfile.convert(here, url, progress=interrupt)
    with pytest.raises(Damaged, match="is being created"):
        trajfile.open(url)
    done = trajfile.convert(here, url)
    assert 0 < done.resumed_bytes < done.raw_bytes
    with trajfile.open(here) as one, trajfile.open(url) as other:
        assert digest(one.container) == digest(other.container)
    bucket = Bucket(url)
    left = {Path(found["path"]).name for found in bucket.below(bucket.prefix)}
    assert not left & {"conversion.json", "writer.lock"}


def test_a_place_that_is_being_written_is_refused(proxy, tmp_path):
    make_bucket(proxy.to, "commands")
    healthy(here := tmp_path / "run.h5", [*range(6)])
    with trajfile.Writer("s3://commands/busy.zarr") as writer:
        writer.append(0, params={"w": np.ones(3, np.float32)})
        with pytest.raises(ResourceError, match="open in another writer"):
            trajfile.convert(here, "s3://commands/busy.zarr", overwrite=True)


def test_commands_say_of_an_address_what_they_say_of_a_path(there):
    here, url = there
    for arguments in (["info"], ["validate", "--deep"], ["validate", "--deep", "--untrusted"]):
        local, remote = command(*arguments, str(here)), command(*arguments, url)
        assert (local.returncode, remote.returncode) == (0, 0)
        if arguments[0] == "validate":
            assert remote.stdout == local.stdout.replace(str(here), url)
    assert command("info", "--untrusted", url).stdout == command("info", url).stdout


@pytest.mark.slow
def test_an_analysis_of_an_address_apart(there):
    here, url = there
    report = trajfile.analyze(url, metrics="norms", device="cpu", untrusted=True)
    expected = trajfile.analyze(here, metrics="norms", device="cpu")
    assert report.metrics["norms"] == expected.metrics["norms"]


def test_what_validate_finds_there(there, proxy):
    _, url = there
    bucket = Bucket(url)
    key = bucket.prefix / "streams" / "params" / "float32" / "c.5.0"
    data = bytearray(bucket.get(key))
    data[9] ^= 4
    bucket.put(key, [bytes(data)])
    for untrusted in (False, True):
        found = trajfile.validate(url, deep=True, untrusted=untrusted)
        assert [one.id for one in found if one.severity == "error"] == ["SUM-003"]
    bucket.put(bucket.prefix / "zarr.json", [b"{}"])
    assert [one.id for one in trajfile.validate(url)] == ["CORE-002"]
    for arguments in (["validate"], ["info"], ["info", "--untrusted"], ["analyze"]):
        absent = command(*arguments, "s3://commands/absent.zarr")
        assert absent.returncode == 3
        assert "there is nothing at this address" in absent.stderr
    proxy.faults = lambda method, path: 403
    away = command("validate", url)
    assert away.returncode == 3
    assert "access is denied" in away.stderr
    with pytest.raises(NotATrajectory, match="convert it to Zarr"):
        trajfile.validate("s3://commands/run.h5")
    with pytest.raises(UsageError, match="remote runs are not supported here"):
        trajfile.repair(url)
    with pytest.raises(UsageError, match="empty or dots"):
        trajfile.open("s3://commands/a/../run.zarr")


def test_what_the_readme_shows(proxy, capsys):
    make_bucket(proxy.to, "bucket")
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (code,) = [c for c in re.findall(r"^```python\n(.*?)^```", readme, re.M | re.S) if "s3:" in c]
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out == "[0]\n"
