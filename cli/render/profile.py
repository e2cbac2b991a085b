"""The table of `trajfile analyze --profile`: where the time went, thread by thread."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .terminal import Terminal

if TYPE_CHECKING:
    from trajfile.report import Run

_MEANINGS = {
    "read": "from the disk or the page cache",
    "verify": "checksums",
    "decode": "decompression",
    "copy": "converting, and to the device",
    "products": "of rows",
    "metrics": "from products",
    "wait": "for other threads",
    "other": "opening, planning, loading PyTorch",
}
_NAME, _CELL = 10, 9
_SHORT = {"trajfile-": "", "MainThread": "main"}
_NOTHING = 0.0005


def screen(terminal: Terminal, run: Run) -> list[str]:
    """A row a kind of work: seconds of each thread, and its share of all work done.

    Threads that do not fit beside one another are added up by what they are for.

    Args:
        terminal: Where it is shown.
        run: How the analysis ran, with its profile.

    Returns:
        Finished lines.
    """
    threads = {_named(name): spent for name, spent in (run.profile or {}).items()}
    room = (terminal.width - _NAME - 2 * _CELL) // _CELL
    if len(threads) > room:
        threads = _by_role(threads)
    every = {kind: sum(spent.get(kind, 0.0) for spent in threads.values()) for kind in _MEANINGS}
    busy = sum(spent for kind, spent in every.items() if kind != "wait")
    head = f"{'seconds':<{_NAME}}" + "".join(f"{name:>{_CELL}}" for name in [*threads, "all"])
    lines = [terminal.line((head + f"{'share':>{_CELL}}", "accent"))]
    shown = {kind: total for kind, total in every.items() if total >= _NOTHING}
    explained = len(head) + _CELL + 2 + max((len(_MEANINGS[kind]) for kind in shown), default=0)
    for kind, total in shown.items():
        cells = [spent.get(kind, 0.0) for spent in threads.values()]
        row = f"{kind:<{_NAME}}" + "".join(f"{_cell(cell):>{_CELL}}" for cell in [*cells, total])
        share = "" if kind == "wait" else f"{total / busy:.0%}"
        line = terminal.line(row + f"{share:>{_CELL}}")
        if explained <= terminal.width:
            line.append_text(terminal.text(f"  {_MEANINGS[kind]}", "aside"))
        lines.append(line)
    return terminal.lines(*lines, fit="cut")


def _named(thread: str) -> str:
    for long, short in _SHORT.items():
        thread = thread.replace(long, short)
    return thread.replace("worker-", "work-").replace("_", "-")


def _by_role(threads: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    roles: dict[str, dict[str, float]] = {}
    for name, spent in threads.items():
        role = roles.setdefault(name.rstrip("0123456789-"), {})
        for kind, seconds in spent.items():
            role[kind] = role.get(kind, 0.0) + seconds
    return roles


def _cell(seconds: float) -> str:
    return "" if seconds < _NOTHING else f"{seconds:.3f}" if seconds < 100 else f"{seconds:.0f}"
