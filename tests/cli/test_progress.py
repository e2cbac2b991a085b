import io
import sys

import pytest
from trajfile_cli.render import progress as module
from trajfile_cli.render.progress import Progress, figures


class Screen(io.StringIO):
    def __init__(self, tty):
        super().__init__()
        self._tty = tty

    def isatty(self):
        return self._tty


def drawn(monkeypatch, *, tty, elapsed):
    screen = Screen(tty)
    now = [0.0]
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Progress() as progress:
        now[0] = 5.0
        progress(0, 4 * 2**30)
        now[0] += elapsed
        progress(2**30, 4 * 2**30)
    return screen.getvalue()


def test_bar_with_throughput_and_time_left_after_a_moment(monkeypatch):
    assert "1.0 GiB of 4.0 GiB · 512 MiB/s · 6 s left" in drawn(monkeypatch, tty=True, elapsed=2.0)


@pytest.mark.parametrize(("tty", "elapsed"), [(True, 0.5), (False, 2.0)])
def test_nothing_at_all_for_short_work_or_without_a_terminal(monkeypatch, tty, elapsed):
    assert drawn(monkeypatch, tty=tty, elapsed=elapsed) == ""


def test_figures_before_anything_is_known():
    assert figures(0, 2048, 0.0) == "0 B of 2.0 KiB"
