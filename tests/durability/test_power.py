"""With ``durability="power"`` the disk has the data before the commit record, and that after it.

The calls of a recording are logged in order, and the order is looked at.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import h5py
import pytest

SCRIPT = """
import json, os, sys
from pathlib import Path
from tests.durability.runs import Run
from tests.durability.shim import COUNT, Shim

folder, log, run, durability = sys.argv[1:]
folder, run = Path(folder), Run(**json.loads(run))
path = folder / f"run{run.suffix}"
shim, descriptor = Shim(), os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
shim.arm(folder, COUNT, log=descriptor)
with run.writer(path, durability=durability) as writer:
    for step in range(run.steps):
        writer.append(step, **run.arguments(step))
        os.write(descriptor, f"appended\\t{step}\\t\\t0\\t0\\t0\\n".encode())
"""


class Call(NamedTuple):
    op: str
    path: str
    other: str
    offset: int
    size: int


def calls_of(
    folder: Path, suffix: str, durability: str, environment: dict[str, str], **more: object
) -> list[Call]:
    (folder / "work").mkdir()
    log = folder / "calls"
    run = json.dumps({"suffix": suffix, "steps": 5, **more})
    command = [sys.executable, "-c", SCRIPT, str(folder / "work"), str(log), run, durability]
    subprocess.run(command, env=environment, check=True, timeout=60)
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    return [Call(op, a, b, int(offset), int(size)) for op, a, b, offset, size, _ in lines]


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_hdf5_syncs_before_and_after_each_commit_record(
    tmp_path: Path, preloaded: dict[str, str], compression: str | None
) -> None:
    calls = calls_of(tmp_path, ".h5", "power", preloaded, compression=compression)
    path = tmp_path / "work" / "run.h5"
    with h5py.File(path) as file:
        start = file["commits"].id.get_chunk_info(0).byte_offset
    made = next(i for i, call in enumerate(calls) if call.op == "rename")
    assert calls[made].other == str(path)
    assert calls[made - 1].op == "fsync"  # the file is on the disk before its name is
    assert calls[made + 1] == Call("fsync", str(path.parent), "", 0, 0)  # and then its name
    appended = [i for i, call in enumerate(calls) if call.op == "appended"]
    for first, last in zip([made + 1, *appended], appended, strict=False):
        part = calls[first + 1 : last]
        record = next(
            i for i, call in enumerate(part) if (call.op, call.offset) == ("write", start)
        )
        before = [call.op for call in part[:record]]
        # Everything of the step, then a sync, then nothing but the table of commits, then a sync.
        assert before.count("fsync") == 1
        synced = before.index("fsync")
        assert set(before[:synced]) == {"write"}
        assert sum(call.size for call in part[:synced]) > 5 * 6000
        assert all(call.size < 1024 for call in part[synced + 1 : record])
        assert [call.op for call in part[record:]][-1] == "fsync"
    assert calls[-1].op == "fsync"  # closing, too


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_zarr_syncs_before_and_after_each_commit_record(
    tmp_path: Path, preloaded: dict[str, str], compression: str | None
) -> None:
    calls = calls_of(tmp_path, ".zarr", "power", preloaded, compression=compression)
    root = tmp_path / "work" / "run.zarr"
    aside = str(root) + ".partial"
    made = next(i for i, call in enumerate(calls) if call.op == "rename" and call.path == aside)
    folders = {call.path for call in calls[:made] if call.op == "mkdir"}
    synced = {call.path for call in calls[:made] if call.op == "fsync"}
    assert folders <= synced
    assert calls[made + 1] == Call("fsync", str(root.parent), "", 0, 0)
    appended = [i for i, call in enumerate(calls) if call.op == "appended"]
    record = str(root / "commits" / "c.0.0")
    for first, last in zip([made + 1, *appended], appended, strict=False):
        part = calls[first + 1 : last]
        commit = next(i for i, call in enumerate(part) if call.other == record)
        for i, call in enumerate(part):
            if call.op != "rename":
                continue
            # The file was synced before it got its name, and the name is synced in time.
            assert Call("fsync", call.path, "", 0, 0) in part[:i]
            folder = Call("fsync", str(Path(call.other).parent), "", 0, 0)
            assert folder in (part[i:commit] if i < commit else part[i:])
        assert sum(call.size for call in part[:commit]) > 5 * 6000


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_nothing_is_synced_unless_asked(
    tmp_path: Path, preloaded: dict[str, str], suffix: str
) -> None:
    assert "fsync" not in {call.op for call in calls_of(tmp_path, suffix, "process", preloaded)}
