"""`--json PATH` to a path that is more than a file: it is written through, never replaced."""

from __future__ import annotations

import json
import os
import sys
from threading import Thread

import pytest

SMALL = ["--metrics", "norms", "--device", "cpu", "--json"]


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes are POSIX")
def test_a_pipe_is_written_to_and_stays_a_pipe(run, tiny, tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    read = []
    reader = Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()
    outcome = run("analyze", tiny, *SMALL, path)
    reader.join(timeout=30)
    assert outcome.code == 0, outcome.err
    assert path.is_fifo()
    assert json.loads(read[0])["metrics"].keys() == {"norms"}


def test_a_link_stays_a_link_and_its_target_is_written(run, tiny, tmp_path):
    target, link = tmp_path / "target.json", tmp_path / "link.json"
    target.write_text("before")
    link.symlink_to(target)
    assert run("analyze", tiny, *SMALL, link).code == 0
    assert link.is_symlink()
    assert json.loads(target.read_text())["metrics"].keys() == {"norms"}
