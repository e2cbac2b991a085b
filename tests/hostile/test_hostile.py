"""Files made to harm are refused at once, by their rule, and nothing outside of them is touched."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import pytest
from trajfile_cli.app import main

import trajfile
from tests.conformance.breakers import LANE, sound_run
from tests.conformance.damage import read_all
from tests.fuzz.worker import watch
from tests.hostile.make import BOMB, BOMB_OF_64_KIB, HOSTILE, bomb
from trajfile.errors import FormatError, TrajfileError

_SECONDS = 1.0  # of this process's own time, for the machine may be busy
_BOMB_BYTES = 32 * 2**20


def command(*words: str) -> tuple[int, str]:
    """Exit code and all that is printed."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as ended,
    ):
        main(list(words))
    return int(ended.value.code or 0), out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[bool]]:
    switch = watch(Path(os.path.realpath(tmp_path_factory.getbasetemp())))
    yield switch
    switch[0] = False


@pytest.mark.parametrize(("name", "kind"), HOSTILE)
def test_it_is_refused(tmp_path: Path, watched: list[bool], name: str, kind: str) -> None:
    rule, trap = HOSTILE[name, kind]
    path = sound_run(tmp_path / f"run.{kind}")
    command("info", str(path))  # nothing is imported late
    trap(path)
    watched[0] = True
    begun = time.process_time()
    try:
        with pytest.raises(FormatError) as refused:
            read_all(path)
        took = time.process_time() - begun
        findings = trajfile.validate(path, deep=True)
        shown = [command("validate", str(path), "--deep")]
        if "chunk" not in name:  # or only reading the rows shows it
            shown.append(command("info", str(path)))
            assert shown[1][0] == 3
    finally:
        watched[0] = False
    code, said = command("repair", str(path), "-o", str(tmp_path / f"saved.{kind}"))
    assert code in {0, 1, 3}, said
    assert refused.value.rule == rule
    assert took < _SECONDS
    assert rule in {finding.id for finding in findings}
    assert shown[0][0] == 1
    for _, text in shown:
        assert all(c.isprintable() or c == "\n" for c in text)
        assert "Traceback" not in text


_MEASURE = """
import resource, sys
from pathlib import Path
from tests.conformance.damage import read_all
from trajfile.errors import FormatError
import trajfile
read_all(Path(sys.argv[1]))
trajfile.validate(sys.argv[1], deep=True)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    read_all(Path(sys.argv[2]))
except FormatError as error:
    print(error.rule)
print(*{finding.id for finding in trajfile.validate(sys.argv[2], deep=True)})
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize(
    ("compression", "lying"), [("gzip", False), ("zstd", False), ("zstd", True)]
)
def test_a_chunk_that_inflates_costs_next_to_nothing(
    tmp_path: Path, suffix: str, compression: str, lying: bool
) -> None:
    sound = sound_run(tmp_path / f"sound{suffix}", compression)
    path = sound_run(tmp_path / f"bomb{suffix}", compression)
    bomb(path, compression, lying=lying)
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, str(sound), str(path)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    rule, rules, cost = done.stdout.splitlines()
    assert (rule, rules) == ("SUM-003", "SUM-003")
    assert int(cost) < _BOMB_BYTES < BOMB_OF_64_KIB < BOMB


def test_no_plugin_is_loaded_for_an_unknown_filter(tmp_path: Path) -> None:
    path = sound_run(tmp_path / "run.h5")
    HOSTILE["filter_of_a_plugin", "h5"][1](path)
    plugins = tmp_path / "plugins"
    plugins.mkdir()
    source = tmp_path / "plugin.c"
    source.write_text(
        "#include <stdio.h>\n__attribute__((constructor)) void load(void)\n"
        f'{{ FILE *f = fopen("{tmp_path}/loaded", "w"); if (f) fclose(f); }}\n'
        "int H5PLget_plugin_type(void) { return 0; }\n"
        "const void *H5PLget_plugin_info(void) { return 0; }\n"
    )
    library = plugins / "libplugin.so"
    built = subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=False)
    if built.returncode:
        pytest.skip("no compiler")
    environment = {**os.environ, "HDF5_PLUGIN_PATH": str(plugins)}
    with_library = "import h5py, sys; h5py.File(sys.argv[1])[sys.argv[2]][0]"
    subprocess.run(
        [sys.executable, "-c", with_library, path, LANE],
        env=environment,
        check=False,
        capture_output=True,
    )
    assert (tmp_path / "loaded").exists(), "the plugin is one that HDF5 would load"
    (tmp_path / "loaded").unlink()
    for words in (["info"], ["validate", "--deep"]):
        done = subprocess.run(
            [sys.executable, "-m", "trajfile_cli.app", *words, path],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode in {1, 3}
        assert "H5-006" in done.stdout + done.stderr
    assert not (tmp_path / "loaded").exists()


def test_too_many_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = sound_run(tmp_path / "run.h5")
    monkeypatch.setattr("trajfile.containers.hdf5_open._MAX_OBJECTS", 2000)
    with h5py.File(path, "r+") as file:
        group = file.create_group("many")
        for number in range(2000):
            group.create_group(str(number))
    with pytest.raises(trajfile.Unsafe, match="more than 2000 objects") as refused:
        trajfile.open(path)
    assert refused.value.rule == "H5-004"


def test_many_entries_of_a_folder(tmp_path: Path) -> None:
    path = sound_run(tmp_path / "run.zarr")
    for number in range(20_000):
        (path / LANE / f"x{number}").touch()
    begun = time.process_time()
    assert trajfile.validate(path, deep=True) == []
    assert command("info", str(path))[0] == 0
    assert time.process_time() - begun < 2 * _SECONDS


HARMLESS = ["../../etc/passwd", "<img src=x onerror=alert(1)>", "$(touch owned)", "`x`; rm -rf *"]


@pytest.mark.parametrize("name", HARMLESS)
def test_printable_names_go_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / name.replace("/", "_")
    folder.mkdir()
    path = folder / "run file.h5"
    rng = np.random.default_rng(1)
    with trajfile.Writer(path, metadata={"note": "\x1b[2J\x9b31m" + name}) as writer:
        for step in range(12):
            values = rng.standard_normal(6).astype(np.float32)
            writer.append(step, params={name: values}, scalars={"loss": 1.0, name: 2.0})
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for words in (["info", "--all"], ["validate", "--deep"], ["analyze", "--device", "cpu"]):
        code, text = command(*words, str(path))
        assert code == 0
        assert all(c.isprintable() or c == "\n" for c in text)
    following = text.rpartition("Next: ")[2].split("  ")[0].splitlines()[0]
    shell = ["sh", "-c", f"set -- {following.strip()}; printf '%s\\n' \"$@\""]
    words = subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words[:3] == ["trajfile", "analyze", str(path)]
    code, text = command("analyze", "--device", "cpu", "--json", "-", str(path))
    assert code == 0
    assert json.loads(text)["source"]["path"] == str(path)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_what_was_refused_is_counted(capsys: pytest.CaptureFixture[str]) -> None:
    with capsys.disabled():
        print(f"\nhostile files refused: {len(HOSTILE) + 6} of {len(HOSTILE) + 6}")
    assert len(HOSTILE) >= 50
    assert issubclass(FormatError, TrajfileError)
