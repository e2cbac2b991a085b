"""Reading in a process apart: the same results, and a refusal whatever becomes of that process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from trajfile_cli.app import main

import trajfile
from tests.conformance.breakers import BREAKERS, sound_run
from tests.fuzz.image import corpus
from tests.fuzz.worker import make
from trajfile import untrusted
from trajfile.outline import Outline
from trajfile.untrusted import Limits

SOON = Limits(seconds=20)


@pytest.fixture(scope="module", params=[".h5", ".zarr"])
def sound(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sound_run(tmp_path_factory.mktemp("runs") / f"run{request.param}")


def test_everything_but_the_tensors_is_there(sound: Path) -> None:
    with trajfile.open(sound) as plain, trajfile.open(sound, untrusted=True) as apart:
        assert apart.manifest == plain.manifest
        assert repr(apart) == repr(plain)
        for stream in plain.streams:
            assert np.array_equal(apart.steps(stream), plain.steps(stream))
        for name, (steps, values) in plain.scalars.items():
            assert np.array_equal(apart.scalars[name][0], steps)
            assert np.array_equal(apart.scalars[name][1], values)
        assert np.array_equal(apart.container.commits(), plain.container.commits())
        assert apart.container.stored_bytes() == plain.container.stored_bytes()
        with pytest.raises(trajfile.UsageError, match="reads no tensors"):
            apart["params"]["w"][:]


def test_findings_are_the_same(sound: Path, tmp_path: Path) -> None:
    assert trajfile.validate(sound, deep=True, untrusted=True) == []
    path = sound_run(tmp_path / f"run{sound.suffix}")
    BREAKERS["SUM-003", "hdf5" if sound.suffix == ".h5" else "zarr"](path)
    found = trajfile.validate(path, deep=True, untrusted=True)
    assert found == trajfile.validate(path, deep=True)
    BREAKERS["CORE-005", "hdf5" if sound.suffix == ".h5" else "zarr"](path)
    with pytest.raises(trajfile.UnsupportedVersion) as refused:
        trajfile.open(path, untrusted=True)
    assert refused.value.rule == "CORE-005"


def test_the_report_is_the_same(sound: Path) -> None:
    chosen = {"metrics": ["norms"], "device": "cpu", "steps": slice(1, None)}
    apart = trajfile.analyze(sound, **chosen, untrusted=True)
    plain = trajfile.analyze(sound, **chosen)
    assert apart.to_dict()["metrics"] == plain.to_dict()["metrics"]
    assert apart.source == plain.source
    with pytest.raises(trajfile.UsageError, match="pass its path"), trajfile.open(sound) as run:
        trajfile.analyze(run, untrusted=True)
    with pytest.raises(trajfile.UsageError, match="your own code"):
        trajfile.analyze(sound, untrusted=True, replay="model.py:loss")


def refused_with(monkeypatch: pytest.MonkeyPatch, path: Path, code: str, words: str) -> None:
    monkeypatch.setattr(untrusted, "_CHILD", ("-c", code))
    with pytest.raises(trajfile.Unsafe, match=words) as refused:
        trajfile.validate(path, untrusted=Limits(seconds=3))
    assert refused.value.rule == "CORE-016"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("raise SystemExit(5)", "ended with code 5"),
        ("import time; time.sleep(60)", "out of time"),
        ("import os, time; os.close(1); time.sleep(60)", "took more than 3 s"),
        ("import sys\nwhile True: sys.stdout.write('x' * 2**20)", "answered with more than"),
        ("print('hello')", "something else"),
        ("print('[' * 100000)", "something else"),
        ("print('{}')", "something else"),
        ("""print('{"findings": [], "report": {}}')""", "something else"),
        ("""print('{"findings": [{"id": 3}]}')""", "something else"),
        (
            """print('{"findings": [{"id": "CORE-99", "severity": "warn", "message": ""}]}')""",
            "a finding of no rule",
        ),
        (
            """print('{"findings": [{"id": "CORE-001", "severity": "warn", "message": ""}]}')""",
            "a finding of no rule",
        ),
        ("""print('{"refusal": {"kind": "SystemExit", "message": "x"}}')""", "its reader failed"),
        (
            """print('{"refusal": {"kind": "Unsafe", "message": "no", "rule": "X"}}')""",
            "no",
        ),
    ],
)
def test_whatever_becomes_of_the_child(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: str, words: str
) -> None:
    path = tmp_path / "run.h5"
    path.write_bytes(b"anything")
    monkeypatch.setattr(untrusted, "_MOST_ANSWER", 2**22)
    refused_with(monkeypatch, path, code, words)


def test_an_answer_counts_though_nobody_waited_for_the_question(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Ended(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options)
            self.wait(60)

    path = tmp_path / "run.h5"
    path.write_bytes(b"anything")
    monkeypatch.setattr(subprocess, "Popen", Ended)
    refused_with(monkeypatch, path, "print('no')", "something else than an answer")


def test_an_outline_that_contradicts_itself(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, sound: Path
) -> None:
    with trajfile.open(sound) as run:
        outline = Outline.of(run.container)
    for changes in (
        {"commits": outline.commits[:-1]},
        {"manifest": b"{}\n"},
        {"keys": {}},
        {"scalar_values": outline.scalar_values[8:]},
        {"stored_bytes": -1},
    ):
        answer = {"outline": msgspec.structs.replace(outline, **changes)}
        file = tmp_path / "answer"
        file.write_bytes(msgspec.json.encode(answer))
        code = f"import sys; sys.stdout.buffer.write(open({str(file)!r}, 'rb').read())"
        monkeypatch.setattr(untrusted, "_CHILD", ("-c", code))
        with pytest.raises(trajfile.Unsafe, match="contradicts itself"):
            trajfile.open(sound, untrusted=SOON)


def test_memory_is_limited(sound: Path) -> None:
    with pytest.raises(trajfile.Unsafe) as refused:
        trajfile.validate(sound, deep=True, untrusted=Limits(memory=2**16, seconds=60))
    assert refused.value.rule == "CORE-016"


def test_what_crashes_the_library_is_refused(tmp_path: Path) -> None:
    """HDF5 2.0 dies on this file; a later one may read or refuse it, but never reach us."""
    image = make(list(corpus(tmp_path)), 1, 5)
    path = tmp_path / f"input{image.suffix}"
    image.write(path)
    rules = set()
    try:
        rules = {finding.id for finding in trajfile.validate(path, deep=True, untrusted=SOON)}
    except trajfile.FormatError as error:
        rules = {error.rule}
    assert rules


def test_no_module_of_the_folder_is_imported_and_no_plugin_loaded(
    sound: Path, tmp_path: Path
) -> None:
    for name in ("h5py", "trajfile", "msgspec", "json"):
        (tmp_path / f"{name}.py").write_text("open('touched', 'w')")
    code = "import sys; sys.path.pop(0); from trajfile_cli.app import main; main(sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", "--untrusted", "--json", "-", str(sound)],
        cwd=tmp_path,
        env={**os.environ, "HDF5_PLUGIN_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["valid"] is True
    assert not (tmp_path / "touched").exists()


def test_the_next_command_is_untrusted_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = sound_run(tmp_path / "run.h5")
    with pytest.raises(SystemExit) as ended:
        main(["analyze", str(sound), "--untrusted", "--device", "cpu", "--metrics", "norms"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.rpartition("Next: ")[2].startswith(f"trajfile analyze {sound}")
    assert " --untrusted" in shown.rpartition("Next: ")[2]
