import io

import pytest
from rich.text import Text
from trajfile_cli.render.terminal import Terminal


class Stream(io.TextIOWrapper):
    def __init__(self, encoding="utf-8", *, tty=False):
        super().__init__(io.BytesIO(), encoding)
        self._tty = tty

    def isatty(self):
        return self._tty

    @property
    def written(self):
        self.flush()
        return self.buffer.getvalue().decode(self.encoding)


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("NO_COLOR", "COLUMNS", "FORCE_COLOR", "COLORTERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


def shown(stream, *blocks):
    terminal = Terminal(stream)
    terminal.show(*(terminal.line((block, "error")) for block in blocks))
    return stream.written


def test_colours_on_a_terminal_only():
    assert "\x1b[" in shown(Stream(tty=True), "x")
    assert shown(Stream(), "x") == "x\n"


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_escape_at_all_where_colours_are_not_wanted(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    assert shown(Stream(tty=True), "x") == "x\n"


def test_forced_colours_elsewhere_do_not_reach_a_pipe(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert shown(Stream(), "x") == "x\n"


def test_hostile_text_cannot_style_or_act():
    text = shown(Stream(tty=True), "\x1b[5mblink[bold]\x07 :smile: \x1b]0;title\x07")
    inner = text.removeprefix("\x1b[1;31m").removesuffix("\x1b[0m\n")
    assert inner == r"\x1b[5mblink[bold]\x07 :smile: \x1b]0;title\x07"


def test_thin_separators_only_for_a_person():
    assert Terminal(Stream(tty=True)).text("12\u202f000").plain == "12\u202f000"
    assert Terminal(Stream()).text("12\u202f000").plain == "12000"


def test_ascii_output_still_says_everything():
    stream = Stream("ascii")
    assert shown(stream, "‖θ‖ 1 → 2 · λ₁ ≈ 3 ▁▄█ 漢") == "||theta|| 1 -> 2 - lambda_1 ~ 3 _-# ?\n"


def test_width_comes_from_columns_and_stays_readable(monkeypatch):
    assert Terminal(Stream()).width == 100
    for stated, width in [("80", 80), ("300", 120), ("10", 60), ("0", 100), ("wide", 100)]:
        monkeypatch.setenv("COLUMNS", stated)
        assert Terminal(Stream()).width == width


def test_lines_are_wrapped_cut_or_left_whole(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    terminal = Terminal(Stream())
    words = terminal.line("word " * 30)
    assert all(len(line) <= 60 for line in terminal.lines(words))
    assert len(terminal.lines(words)) == 3
    [cut] = terminal.lines(words, fit="cut")
    assert len(cut) == 60
    assert cut.endswith("…")
    assert terminal.lines(words, fit="whole") == [("word " * 30).rstrip()]


def test_blank_lines_and_trailing_spaces():
    terminal = Terminal(Stream())
    assert terminal.lines(terminal.line("a  "), Text(), terminal.line("b")) == ["a", "", "b"]
