"""A disk that fills up: one error, and every step committed before is there to read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.contract.runs import LIVE, Expected, live_commits
from trajfile.containers import open_container

# A limit on the size of files makes the system refuse to write as a full disk does.
SCRIPT = """
import resource, signal, sys
from tests.contract.runs import LIVE, live_commits
from trajfile.containers import create
from trajfile.errors import ResourceError

path, limit, compression = sys.argv[1], int(sys.argv[2]), sys.argv[3] or None
container = create(path, LIVE, compression=compression)
commits = live_commits(200)
for commit in commits[:20]:
    container.append(commit)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
done = 20
try:
    for commit in commits[20:]:
        container.append(commit)
        done += 1
except ResourceError as error:
    print(error)
try:
    container.append(commits[done])  # again, and again there is no room
except ResourceError as error:
    print(error)
container.close()
print(done)
"""


@pytest.mark.parametrize(
    ("suffix", "limit"), [(".h5", 1_500_000), (".h5", 1_504_321), (".h5", 600_000), (".zarr", 4000)]
)
@pytest.mark.parametrize("compression", ["", "gzip"])
def test_committed_steps_survive(tmp_path: Path, suffix: str, limit: int, compression: str) -> None:
    path = tmp_path / f"run{suffix}"
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path), str(limit), compression],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    full, again, done = ended.stdout.splitlines()
    assert "the disk is full" in full
    assert "stays readable" in full
    assert "the disk is full" in again
    commits = live_commits(200)[: int(done)]
    assert 20 <= len(commits) < 200
    reader = open_container(path)
    Expected.of(LIVE, commits).check(reader)
    reader.close()

    # With room again, recording goes on where it stopped.
    container = open_container(path, writable=True)
    for commit in live_commits(200)[len(commits) :]:
        container.append(commit)
    container.close()
    reader = open_container(path)
    Expected.of(LIVE, live_commits(200)).check(reader)
    reader.close()
