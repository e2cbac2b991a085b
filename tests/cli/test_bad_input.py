"""Whatever is wrong with the input: one clear sentence, the contract's exit code, no traceback."""

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

import trajfile

from .conftest import record


def check(outcome, code, *words):
    assert outcome.code == code, outcome.err
    assert outcome.out == ""
    assert outcome.err.startswith("trajfile: ")
    assert outcome.err.count("\n") == 1
    assert "Traceback" not in outcome.err
    for word in words:
        assert word in outcome.err


def test_json_without_a_path(run):
    check(run("analyze", "sample_data/two_phases.h5", "--json", ""), 2, "--json is empty")


READERS = [["info"], ["analyze"], ["analyze", "--plan"], ["analyze", "--json", "-"], ["validate"]]


@pytest.mark.parametrize("command", READERS, ids=" ".join)
class TestNotReadable:
    def test_missing_file(self, run, tmp_path, command):
        path = tmp_path / "absent.h5"
        check(run(*command, path), 3, str(path))

    def test_no_path(self, run, command):
        check(run(*command, ""), 2, "path of the run is empty")

    def test_another_machine(self, run, command):
        check(run(*command, "https://host/x.h5"), 2, "https://host/x.h5: remote runs are not")

    def test_missing_folder(self, run, tmp_path, command):
        check(run(*command, tmp_path / "absent.zarr"), 3, "absent.zarr")


def broken(command, run, path, *words):
    """`validate` reports what is broken as a finding; every other command refuses."""
    outcome = run(*command, path)
    if command == ["validate"]:
        assert outcome.code == 1, outcome.err
        assert outcome.err == ""
        finding, verdict = outcome.out.splitlines()
        assert re.match(r"[A-Z0-9]+-\d{3}  error  ", finding)
        assert all(word in finding for word in words)
        assert "not valid, 1 error" in verdict
    else:
        check(outcome, 3, *words)


@pytest.mark.parametrize("command", READERS, ids=" ".join)
class TestNotATrajectory:
    def test_text_file_renamed(self, run, tmp_path, command):
        path = tmp_path / "notes.h5"
        path.write_text("step loss\n0 2.3\n" * 100)
        broken(command, run, path, "notes.h5")

    def test_empty_file(self, run, tmp_path, command):
        path = tmp_path / "empty.h5"
        path.touch()
        broken(command, run, path, "empty.h5")

    def test_another_programs_file(self, run, tmp_path, command):
        path = tmp_path / "keras.h5"
        with h5py.File(path, "w") as file:
            file["model_weights/dense/kernel"] = np.zeros((3, 3))
        broken(command, run, path, "keras.h5")

    def test_folder_that_is_no_store(self, run, tmp_path, command):
        path = tmp_path / "folder.zarr"
        path.mkdir()
        broken(command, run, path, "folder.zarr")

    def test_truncated_file(self, run, tmp_path, tiny, command):
        path = tmp_path / "cut.h5"
        path.write_bytes(tiny.read_bytes()[: tiny.stat().st_size // 2])
        broken(command, run, path, "cut.h5")

    def test_newer_major_version(self, run, tmp_path, tiny, command):
        path = shutil.copy(tiny, tmp_path / "newer.h5")
        with h5py.File(path, "r+") as file:
            file.attrs["format_version"] = [2, 0]
        broken(command, run, path, "2")

    def test_unknown_required_feature(self, run, tmp_path, tiny, command):
        path = shutil.copy(tiny, tmp_path / "feature.h5")
        with h5py.File(path, "r+") as file:
            del file.attrs["requires"]
            file.attrs["requires"] = np.array(["time_travel"], np.bytes_)
        broken(command, run, path, "time_travel")


class TestUsage:
    def test_unknown_metric_names_the_nearest(self, run, tiny):
        check(run("analyze", tiny, "--metrics", "perodicity"), 2, "perodicity", "periodicity")
        check(run("metrics", "perodicity"), 2, "'perodicity'", "did you mean 'periodicity'?")

    def test_metric_that_needs_a_stream_the_file_does_not_hold(self, run, tiny):
        check(run("analyze", tiny, "--metrics", "gradient_noise"), 2, "gradient_samples")

    @pytest.mark.parametrize("steps", ["1000:", "5:5", "7:8:2"])
    def test_steps_that_select_nothing(self, run, tmp_path, steps):
        path = record(tmp_path / "run.h5", every=4)
        check(run("analyze", path, "--steps", steps), 2, "select nothing")

    @pytest.mark.parametrize("steps", ["a:b", "5", "1:2:3:4", "::0"])
    def test_steps_that_are_no_selection(self, run, tiny, steps):
        check(run("analyze", tiny, "--steps", steps), 2, "steps")

    def test_params_that_match_nothing(self, run, tiny):
        check(run("analyze", tiny, "--params", "fc9*"), 2, "'fc9*'")

    def test_device_that_does_not_exist(self, run, tiny):
        check(run("analyze", tiny, "--device", "abacus"), 2, "abacus")

    @pytest.mark.parametrize("memory", ["much", "0", "-1GiB"])
    def test_memory_that_is_no_size(self, run, tiny, memory):
        check(run("analyze", tiny, "--memory", memory), 2, memory)

    @pytest.mark.parametrize(
        ("option", "words"),
        [
            ("periodicity.nonsense=1", ["'nonsense'", "periodicity", "delta"]),
            ("nonsense.delta=1", ["'nonsense'", "periodicity"]),
            ("delta=1", ["metric.name=value"]),
            ("periodicity.delta=much", ["periodicity.delta", "much"]),
        ],
    )
    def test_unknown_option(self, run, tiny, option, words):
        check(run("analyze", tiny, "--option", option), 2, *words)

    def test_plan_and_json_exclude_each_other(self, run, tiny):
        check(run("analyze", tiny, "--plan", "--json", "-"), 2, "--plan")

    def test_json_in_a_folder_that_does_not_exist(self, run, tiny, tmp_path):
        check(run("analyze", tiny, "--json", tmp_path / "no/where.json"), 2, "does not exist")
        check(run("analyze", tiny, "--json", tmp_path), 2, "is a folder")

    @pytest.mark.parametrize(
        "argv", [[], ["frobnicate"], ["info"], ["info", "a", "b"], ["analyze", "a", "--bogus"]]
    )
    def test_what_is_no_command(self, run, argv):
        outcome = run(*argv)
        assert outcome.code == 2
        assert "Usage: trajfile" in outcome.out + outcome.err
        assert "Traceback" not in outcome.err


class TestResources:
    def test_gpu_that_is_not_there(self, run, tiny):
        torch = pytest.importorskip("torch")
        absent = f"cuda:{torch.cuda.device_count()}"
        check(run("analyze", tiny, "--device", absent), 4, absent)

    def test_memory_too_small_for_anything(self, run, tiny):
        check(run("analyze", tiny, "--memory", "10"), 4)

    @pytest.mark.skipif(sys.platform == "win32", reason="file size limits are POSIX")
    def test_full_disk_while_the_report_is_written(self, tiny, tmp_path):
        path = tmp_path / "report.json"
        path.write_text("kept")

        def small_files():  # a write beyond the limit fails as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

        done = subprocess.run(
            [sys.executable, "-m", "trajfile_cli.app", "analyze", tiny, "--json", path],
            capture_output=True,
            text=True,
            preexec_fn=small_files,
            check=False,
        )
        assert done.returncode == 4, done.stderr
        assert "disk is full" in done.stderr
        assert "Traceback" not in done.stderr
        assert path.read_text() == "kept"
        assert [file.name for file in tmp_path.iterdir()] == ["report.json"]

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has /dev/full")
    @pytest.mark.parametrize("argv", [["metrics"], ["--version"], ["--help"]])
    def test_full_disk_under_stdout(self, argv):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run(
                [sys.executable, "-m", "trajfile_cli.app", *argv],
                stdout=full,
                stderr=subprocess.PIPE,
                text=True,
                check=False,
            )
        assert done.returncode == 4
        assert done.stderr == "trajfile: the disk is full; make room and run it again\n"


@pytest.mark.parametrize("name", ["[bold]w[/bold]", "w :smile: [link=x]", "漢字.weight"])
def test_names_that_look_like_markup_are_shown_as_they_are(run, tmp_path, name):
    path = record(tmp_path / "run.h5", names=(name, "b", "c"))
    assert name in run("info", path).out
    assert run("analyze", path).code == 0


def test_hostile_metadata_and_paths_are_spelled_out(run, tmp_path):
    path = tmp_path / "\x1b[31mrun.h5"
    with trajfile.Writer(path, metadata={"note": "\x1b]0;owned\x07", "k\x1b[2J": ["\x9b1m"]}) as w:
        w.append(0, params={"w": np.zeros(3, "f4")}, scalars={"loss": 1.0})
    for argv in (["info"], ["analyze"], ["validate"], ["analyze", "--plan"]):
        outcome = run(*argv, path)
        assert outcome.code == 0, outcome.err
        assert not {"\x1b", "\x07", "\x9b"} & set(outcome.out + outcome.err)
    assert r"\x1b]0;owned\x07" in run("info", path).out
    assert json.loads(run("analyze", path, "--json", "-").out)["source"]["path"] == str(path)
