"""`trajfile convert`: one screen, exit codes, and the errors a user meets."""

from __future__ import annotations

import errno

import pytest
from trajfile_cli.render.text import size

import trajfile
from tests.cli.conftest import record


def test_the_screen(run, tiny, tmp_path):
    ended = run("convert", tiny, "-o", tmp_path / "tiny.zarr", "--compression", "zstd")
    assert (ended.code, ended.err) == (0, "")
    title, holds, disk, uuid, verified = ended.out.splitlines()
    with trajfile.open(tmp_path / "tiny.zarr") as copy, trajfile.open(tiny) as source:
        assert title == f"{tmp_path / 'tiny.zarr'}  zarr"
        assert holds == "  holds     60 commits; rows: params 60, gradients 60"
        assert disk.startswith("  on disk   ")
        assert disk.endswith(f" of its rows; the source has {source_size(source)}")
        assert uuid == f"  uuid      {source.uuid}"
        assert copy.uuid == source.uuid
    assert verified.startswith("  verified  digest ")


def source_size(source):
    return size(source.container.stored_bytes())


def test_an_archive_is_smaller_and_not_appended_to(run, tiny, tmp_path):
    ended = run("convert", tiny, "-o", tmp_path / "tiny.h5", "--layout", "archive")
    assert (ended.code, ended.err) == (0, "")
    with trajfile.open(tmp_path / "tiny.h5") as copy, trajfile.open(tiny) as source:
        assert copy.container.stored_bytes() < source.container.stored_bytes()
    assert run("validate", tmp_path / "tiny.h5", "--deep").code == 0
    assert "hdf5, format 1.0, archive (complete" in run("info", tmp_path / "tiny.h5").out
    with pytest.raises(trajfile.UsageError, match="cannot be appended to"):
        trajfile.Writer(tmp_path / "tiny.h5", "a")


def test_a_slice_and_parts(run, tiny, tmp_path):
    first = run("convert", tiny, "-o", tmp_path / "a.h5", "--steps", ":30", "--params", "fc1*")
    second = run("convert", tiny, "-o", tmp_path / "b.h5", "--steps", "30:", "--params", "fc1*")
    joined = run("convert", tmp_path / "b.h5", tmp_path / "a.h5", "-o", tmp_path / "c.zarr")
    assert (first.code, second.code, joined.code) == (0, 0, 0)
    with trajfile.open(tmp_path / "c.zarr") as whole, trajfile.open(tiny) as source:
        assert list(whole["params"]) == ["fc1.weight"]
        assert (whole["params"]["fc1.weight"][:] == source["params"]["fc1.weight"][:]).all()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["{run}", "-o", "{run}"], 2, "is what is to be converted"),
        (["{run}", "-o", "there.h5"], 2, "exists already: pass --overwrite"),
        (["{run}", "-o", "out.h5", "--compression", "lz4"], 2, "'lz4' is unknown"),
        (["{run}", "-o", "out.h5", "--layout", "tiles"], 2, "use 'rows' or 'archive'"),
        (["{run}", "-o", "out.h5", "--params", "fc9*"], 2, "no tensor matches 'fc9*'"),
        (["{run}"], 2, "-o"),
        (["-o", "out.h5"], 2, "SRC"),
        (["missing.h5", "-o", "out.h5"], 3, "no such file or folder"),
        (["{run}", "{run}", "-o", "out.h5"], 2, "must not overlap"),
    ],
)
def test_refusals(run, tiny, tmp_path, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    record(tmp_path / "there.h5", steps=2)
    ended = run("convert", *(part.format(run=tiny) for part in argv))
    assert ended.code == code
    assert words in ended.err
    assert ended.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["there.h5"]


def test_interrupted_and_full(run, tiny, tmp_path, monkeypatch):
    from trajfile.containers.bulk import Bulk
    from trajfile.containers.zarr_store import ZarrStore

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Bulk, "commit", interrupt)
        ended = run("convert", tiny, "-o", tmp_path / "out.zarr")
    assert ended.code == 130
    assert "the same command goes on from here" in ended.err

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("trajfile.containers.folder.Folder.put", full)
        patched.setattr(ZarrStore, "close", lambda self: None)
        ended = run("convert", tiny, "-o", tmp_path / "full.zarr")
    assert ended.code == 4
    ended = run("convert", tiny, "-o", tmp_path / "out.zarr")
    assert ended.code == 0
    assert "resumed" in ended.out
