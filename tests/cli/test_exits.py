import errno

import pytest
from trajfile_cli.exits import classify, guarded

from trajfile import errors


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (errors.UsageError("no such metric"), 2, "no such metric"),
        (errors.MissingStream("needs updates", metric="m", stream="updates"), 2, "needs updates"),
        (errors.RecordError("bad step"), 2, "bad step"),
        (errors.NotATrajectory("no file", path="a.h5"), 3, "a.h5: no file"),
        (errors.NotATrajectory("a.h5 is missing", path="a.h5"), 3, "a.h5 is missing"),
        (errors.UnsupportedVersion("newer"), 3, "newer"),
        (errors.Damaged("bad sum.", path="a.h5", rule="CORE-004"), 3, "a.h5: bad sum [CORE-004]"),
        (errors.Unsafe("an external link"), 3, "an external link"),
        (errors.ResourceError("no GPU"), 4, "no GPU"),
        (MemoryError(), 4, "out of memory"),
        (OSError(errno.ENOSPC, "No space left on device", "out.json"), 4, "disk is full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), 4, "disk is full"),
        (PermissionError(errno.EACCES, "Permission denied", "a.h5"), 3, "a.h5: Permission denied"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ZeroDivisionError("division by zero"), 70, "a bug in trajfile"),
    ],
)
def test_each_error_has_its_code_and_one_sentence(error, code, said, capsys, monkeypatch):
    monkeypatch.delenv("TRAJFILE_DEBUG", raising=False)
    assert classify(error)[0] == code

    @guarded
    def command() -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("trajfile: ")
    assert captured.err.count("\n") == 1
    assert said in captured.err


def test_messages_cannot_act_on_the_terminal(capsys):
    @guarded
    def command() -> int:
        raise errors.Damaged("tensor \x1b[2J\nis broken", path="evil\x07.h5")

    with pytest.raises(SystemExit):
        command()
    assert capsys.readouterr().err == "trajfile: evil\\x07.h5: tensor \\x1b[2J\\nis broken\n"


def test_traceback_on_request_only(capsys, monkeypatch):
    @guarded
    def command() -> int:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setenv("TRAJFILE_DEBUG", "1")
    with pytest.raises(SystemExit):
        command()
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_that_ends_well_keeps_its_code(code):
    @guarded
    def command() -> int:
        return code

    with pytest.raises(SystemExit) as ended:
        command()
    assert ended.value.code == code
