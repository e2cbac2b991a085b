"""The commands as other programs meet them: streams, JSON, pipes, start-up."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from trajfile_cli.app import build
from trajfile_cli.render.published import PUBLISHED

from trajfile import Report, __version__

PROGRAM = [sys.executable, "-m", "trajfile_cli.app"]
README = Path(__file__).parents[2] / "README.md"


def program(*argv, **environment):
    clean = {key: value for key, value in os.environ.items() if key not in {"NO_COLOR", "COLUMNS"}}
    return subprocess.run(
        [*PROGRAM, *map(str, argv)],
        capture_output=True,
        text=True,
        check=False,
        env=clean | {"OMP_NUM_THREADS": "1"} | environment,
    )


def test_version(run):
    outcome = run("--version")
    assert (outcome.code, outcome.out) == (0, f"trajfile {__version__}\n")


class TestJson:
    def test_stdout_holds_one_document_and_nothing_else(self, run, tiny):
        outcome = run("analyze", tiny, "--json", "-")
        assert outcome.code == 0
        assert outcome.err == ""
        report = Report.from_dict(json.loads(outcome.out))
        assert report.source.path == str(tiny)
        assert list(report.metrics) == list(PUBLISHED)

    def test_a_file_is_written_whole_and_the_screen_still_shown(self, run, tiny, tmp_path):
        path = tmp_path / "report.json"
        path.write_text("an older report")
        outcome = run("analyze", tiny, "--json", path)
        assert outcome.code == 0
        assert "Next: trajfile " in outcome.out
        assert Report.from_dict(json.loads(path.read_text())).verdict
        assert [file.name for file in tmp_path.iterdir()] == ["report.json"]
        assert path.stat().st_mode & 0o777 == 0o666 & ~current_mask()

    def test_options_reach_the_metric_and_the_report(self, run, tiny):
        outcome = run("analyze", tiny, "--option", "periodicity.delta=0.05", "--json", "-")
        assert json.loads(outcome.out)["metrics"]["periodicity"]["options"]["delta"] == 0.05

    def test_selections_reach_the_report(self, run, tiny):
        argv = ("--metrics", "norms", "--params", "fc1.*", "--params", "*.bias", "--steps", "10:20")
        report = json.loads(run("analyze", tiny, *argv, "--json", "-").out)
        assert list(report["metrics"]) == ["norms"]
        assert report["source"]["tensors"] == 2
        assert report["source"]["parameters"] == 43
        assert report["source"]["streams"]["params"] == {
            "rows": 10,
            "first_step": 10,
            "last_step": 19,
        }

    def test_published_names_are_those_of_real_reports(self, run, tiny):
        metrics = json.loads(run("analyze", tiny, "--json", "-").out)["metrics"]
        for metric_id, result in metrics.items():
            if result["status"] == "ok":
                published = PUBLISHED[metric_id]
                optional = {"recorded", "exact"}  # where available
                assert set(published.series) - optional <= set(result["series"]), metric_id
                assert set(published.summary) <= set(result["summary"]), metric_id


class TestStreams:
    @pytest.mark.parametrize("argv", [["info"], ["validate"], ["analyze", "--plan"]])
    def test_no_escape_off_a_terminal(self, tiny, argv):
        for environment in ({}, {"NO_COLOR": "1"}, {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}):
            done = program(*argv, tiny, **environment)
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
            assert "\x1b" not in done.stdout

    def test_no_escape_in_a_whole_analysis(self, run, tiny, monkeypatch):
        forced = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
        for environment in ({}, {"NO_COLOR": "1"}, forced):
            with monkeypatch.context() as patched:
                for name, value in environment.items():
                    patched.setenv(name, value)
                outcome = run("analyze", tiny)
            assert (outcome.code, outcome.err) == (0, "")
            assert "\x1b" not in outcome.out

    def test_whoever_stops_reading_gets_no_complaint(self, tiny):
        command = subprocess.Popen(
            [*PROGRAM, "metrics"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        command.stdout.close()
        assert command.stderr.read() == ""
        command.stderr.close()
        assert command.wait() == 141

    @pytest.mark.skipif(sys.platform == "win32", reason="a pseudo-terminal is POSIX")
    def test_colours_on_a_terminal_unless_refused(self, tiny):
        assert "\x1b[" in on_a_terminal("info", tiny)
        assert "\x1b" not in on_a_terminal("info", tiny, NO_COLOR="1")
        assert "\x1b" not in on_a_terminal("analyze", tiny, NO_COLOR="1")

    def test_output_in_ascii_and_without_escapes(self, tiny):
        """Both at once, for it is a process: to start one and load PyTorch takes seconds."""
        forced = {"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1"}
        done = program("analyze", tiny, PYTHONIOENCODING="ascii", **forced)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        assert "\x1b" not in done.stdout
        assert done.stdout.isascii()
        assert "||theta||" in done.stdout


def on_a_terminal(*argv, **environment):
    import pty

    clean = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [*PROGRAM, *map(str, argv)],
        stdout=follower,
        stderr=subprocess.DEVNULL,
        env=clean | {"TERM": "xterm-256color", "COLUMNS": "100"} | environment,
    ) as command:
        os.close(follower)
        seen = b""
        while True:
            try:
                part = os.read(leader, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            seen += part
    os.close(leader)
    assert command.returncode == 0, seen.decode()
    return seen.decode()


class TestStart:
    @pytest.mark.parametrize(
        ("argv", "absent"),
        [
            (["--help"], {"h5py", "torch", "zarr", "numpy", "rich"}),
            (["info"], {"torch", "zarr", "pydantic", "click"}),
            (["validate"], {"torch", "zarr"}),
            (["metrics"], {"torch", "zarr", "h5py"}),
            (["analyze", "--plan"], {"torch", "zarr"}),
        ],
    )
    def test_a_command_imports_only_what_it_needs(self, tiny, argv, absent):
        code = (
            "import sys; from trajfile_cli.app import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(sorted({m.partition('.')[0] for m in sys.modules}), file=sys.stderr)"
        )
        run = [] if argv[0] in {"--help", "metrics"} else [tiny]
        done = subprocess.run(
            [sys.executable, "-c", code, *argv, *run], capture_output=True, text=True, check=True
        )
        imported = set(re.findall(r"'(\w+)'", done.stderr))
        assert "trajfile_cli" in imported
        assert not absent & imported


def options_of(command):
    return [
        option
        for parameter in command.params
        for option in parameter.opts
        if option.startswith("--") and option != "--help"
    ]


def test_readme_names_every_command_and_option():
    text = README.read_text()
    for name, command in typer.main.get_command(build()).commands.items():
        assert f"trajfile {name}" in text, name
        for option in options_of(command):
            assert option in text, f"{name} {option}"


def test_help_explains_every_command_and_option():
    for command in typer.main.get_command(build()).commands.values():
        assert command.help
        for parameter in command.params:
            assert parameter.name == "help" or parameter.help


def current_mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask
