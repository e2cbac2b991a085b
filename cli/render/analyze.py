"""The screen of `trajfile analyze`: at most forty lines, most important first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .around import first_movers, window
from .cadence import cadence
from .figures import drawn_series, phrases
from .following import following
from .grid import grid
from .info import described, provenance
from .spark import sparkline
from .standouts import standouts
from .terminal import Terminal
from .text import clean, clip, counted, number, seconds, shorten, size, steps_between

if TYPE_CHECKING:
    from trajfile.engine.header import Header
    from trajfile.report import Finding, MetricResult, Report, Run

HEIGHT = 40
_MOST_FINDINGS = 6
_MOST_TENSORS = 5
_MOST_STREAM_LINES = 3
_VERDICT_LINES = 5
_REASON_LINES = 5
_MOST_SCALARS = 3
_SHORTEST_REASON, _LONGEST_REASON = 20, 70


def screen(
    terminal: Terminal, report: Report, header: Header | None = None, *, opened: str = ""
) -> list[str]:
    """The report on one screen.

    Args:
        terminal: Where it is shown.
        report: A report of `trajfile.analyze`.
        header: What was selected of the run, if it is at hand: adds cadences, scalars and the
            provenance of gradients.
        opened: The option by which it was opened, such as ``--untrusted``, as the next command
            is then to do too.

    Returns:
        At most `HEIGHT` finished lines: what was recorded, the verdict, findings by severity,
        a row a metric, tensors that stand out, and what to run next. Findings give way first
        where the whole would not fit, and say how many are left out.
    """
    top = [
        *_recorded(terminal, report, header),
        "",
        *terminal.lines(
            terminal.line((clip(clean(report.verdict), _VERDICT_LINES * terminal.width), "verdict"))
        ),
    ]
    bottom = [
        "",
        *_metrics(terminal, report),
        *(_movers(terminal, report) or _tensors(terminal, report)),
        "",
        *_next(terminal, report, opened),
    ]
    return [*top, *_findings(terminal, report, HEIGHT - len(top) - len(bottom)), *bottom]


def _recorded(terminal: Terminal, report: Report, header: Header | None) -> list[str]:
    source, run = report.source, report.run
    version = ".".join(map(str, source.format_version))
    # Checkpoints have no version of this format.
    stored = source.container if " " in source.container else f"{source.container} {version}"
    lines = [terminal.line((source.path, "title"), f"  {stored}")]
    parts = [f"{counted(source.parameters, 'parameter')} in {counted(source.tensors, 'tensor')}"]
    if optimizer := described(source.optimizer):
        parts.append(optimizer)
    lines.append(terminal.line(" · ".join(parts)))
    lines += [terminal.line(line) for line in _streams(terminal, report, header)]
    if run.around is not None:
        lines.append(window(terminal, run.around))
    lines.append(terminal.line((_reading(run), "aside")))
    return terminal.lines(*lines, fit="cut")


def _reading(run: Run) -> str:
    """How much was read, and what was known from before."""
    took = f"{seconds(run.wall_seconds)} on {run.device}"
    if run.cached == "all":
        return (
            f"nothing read, {seconds(run.wall_seconds)}: from the cache, unchanged since measured"
        )
    known = "; older rows from the cache" if run.cached else ""
    passes = f"{run.passes} pass{'' if run.passes == 1 else 'es'}"
    return f"read {size(run.bytes_read)} in {passes}, {took}{known}"


def _streams(terminal: Terminal, report: Report, header: Header | None) -> list[str]:
    """Streams of equal extent share a line."""
    alike: dict[str, list[str]] = {}
    for name, stream in report.source.streams.items():
        often = cadence(header.steps[name]) if header is not None and stream.rows > 1 else ""
        extent = "no rows"
        if stream.rows:
            between = steps_between(stream.first_step, stream.last_step)
            word = "step" if stream.first_step == stream.last_step else "steps"
            extent = f"{counted(stream.rows, 'row')}, {word} {between}"
        alike.setdefault(extent + (f", {often}" if often else ""), []).append(name)
    lines = [f"{', '.join(names)}: {extent}" for extent, names in alike.items()]
    if len(lines) > _MOST_STREAM_LINES:
        rest = len(lines) - _MOST_STREAM_LINES + 1
        lines[_MOST_STREAM_LINES - 1 :] = [f"and {rest} more (trajfile info shows them)"]
    if header is not None:
        scalars = " · ".join(_scalars(header))
        facts = list(filter(None, [scalars, provenance(header.gradient)]))
        joined = " · ".join(facts)
        lines += [joined] if 0 < len(joined) <= terminal.width else facts
    return lines


def _scalars(header: Header) -> list[str]:
    """The first few scalars and how they went."""
    told = []
    for name, (_, values) in list(header.scalars.items())[:_MOST_SCALARS]:
        if len(values):
            start, end = number(float(values[0])), number(float(values[-1]))
            told.append(f"{shorten(name, 24)} {start if start == end else f'{start} → {end}'}")
    if len(header.scalars) > _MOST_SCALARS:
        told.append(f"{counted(len(header.scalars) - _MOST_SCALARS, 'more scalar')}")
    return told


def _findings(terminal: Terminal, report: Report, room: int) -> list[str]:
    """As many findings as fit into the room, each wrapped below its own severity."""
    # The verdict and the table already tell what moved first around an event.
    folded = _folded([f for f in report.findings if f.id != "around.first_movers"])
    blocks = [_finding(terminal, finding, same) for finding, same in folded]
    for shown in range(min(len(blocks), _MOST_FINDINGS), -1, -1):
        lines = [line for block in blocks[:shown] for line in block]
        if left := sum(1 + same for _, same in folded[shown:]):
            more = f"and {counted(left, 'more finding')} (--json shows all)"
            lines += terminal.lines(terminal.line(("       " + more, "")))
        if not lines or len(lines) + 1 <= room:
            return ["", *lines] if lines else []
    return []


def _folded(findings: Sequence[Finding]) -> list[tuple[Finding, int]]:
    """Findings of one id and severity count once, with how many more there are."""
    folded: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        folded.setdefault((finding.id, finding.severity), []).append(finding)
    return [(alike[0], len(alike) - 1) for alike in folded.values()]


def _finding(terminal: Terminal, finding: Finding, same: int) -> list[str]:
    message = clip(clean(finding.message), 3 * terminal.width - 50)
    more = f" (and {same} more of {finding.id})" if same else ""
    severity = terminal.text(f"{finding.severity:<5}", finding.severity)
    return terminal.lines(*grid(terminal, [(severity, terminal.text(message + more))]))


def _metrics(terminal: Terminal, report: Report) -> list[str]:
    """A row a metric; then, in one line, those that could not be computed, and why."""
    computed = {key: r for key, r in report.metrics.items() if r.status == "ok"}
    failed = {key: r for key, r in report.metrics.items() if r.status == "error"}
    absent = {
        key: r for key, r in report.metrics.items() if r.status in {"skipped", "insufficient"}
    }
    lead = max([len(key) for key in report.metrics], default=0) + 2
    cells = max(10, 24 + (terminal.width - 100) // 2)
    drawn = {key: drawn_series(key, result) for key, result in computed.items()}
    sparks = {key: sparkline(series[1], cells) for key, series in drawn.items() if series}
    labels = {key: terminal.text(series[0]) for key, series in drawn.items() if series}
    label = max([text.cell_len for text in labels.values()], default=0)
    right = label + 1 + cells + (4 if any(log for _, log in sparks.values()) else 0)
    room = terminal.width - lead - (right + 2 if sparks else 0)
    lines: list[Text] = []
    for key, result in computed.items():
        row = terminal.line((f"{key:<{lead}}", "accent"))
        row.append_text(_fitting(terminal, phrases(key, result), room))
        if key in sparks:
            blocks, log = sparks[key]
            row.pad_right(lead + room + 2 - row.cell_len)
            row.append_text(labels[key])
            row.pad_right(lead + room + 2 + label + 1 - row.cell_len)
            row.append_text(terminal.text(blocks, "accent"))
            if log:
                row.append_text(terminal.text(" log", "aside"))
        lines.append(row)
    for key, result in failed.items():
        lines.append(
            terminal.line((f"{key:<{lead}}", "accent"), ("failed ", "error"), result.reason or "")
        )
    rows = terminal.lines(*lines, fit="cut")
    if absent:
        reasons = "; ".join(f"{key} ({_why(r)})" for key, r in absent.items())
        reasons = clip(f"not computed: {reasons}", _REASON_LINES * terminal.width - 20)
        rows += terminal.lines(terminal.line((reasons, "aside")))
    return rows


def _fitting(terminal: Terminal, figures: list[str], room: int) -> Text:
    """The figures that fit, most important first; at least one."""
    while True:
        text = terminal.text(" · ".join(figures))
        if text.cell_len <= room or len(figures) <= 1:
            break
        figures = figures[:-1]
    text.truncate(max(room, 10), overflow="ellipsis")
    return text


def _why(result: MetricResult) -> str:
    """Why there are no figures, and what would give them."""
    reason = _shortest(result.reason)
    if result.remedy is None or result.remedy.removeprefix("record ") in reason:
        return reason
    return f"{reason}: {clean(result.remedy)}"


def _shortest(reason: str | None) -> str:
    """The reason up to where its remedy starts."""
    text = reason or "no reason given"
    for mark in ("; ", ": ", ". ", ", ", " - ", " (", " and there are no "):
        head, _, tail = text.partition(mark)
        if tail and len(head) >= _SHORTEST_REASON:
            text = head
    text = text.rstrip(".")
    if text[:2].istitle():
        text = text[0].lower() + text[1:]
    return clip(text, _LONGEST_REASON)


def _movers(terminal: Terminal, report: Report) -> list[str]:
    """The tensors that moved first, if the report is of an event and any did."""
    lines = [] if report.run.around is None else first_movers(terminal, report.run.around)
    return ["", *lines] if lines else []


def _tensors(terminal: Terminal, report: Report) -> list[str]:
    if not any(result.per_tensor for result in report.metrics.values()):
        return []
    found = standouts(report.metrics)
    if not found:
        return []
    widest = max(len(s.tensor) for s in found[:_MOST_TENSORS])
    widest = min(widest, terminal.width // 2)
    lines = [terminal.line(("Tensors that stand out", "accent"))]
    for standout in found[:_MOST_TENSORS]:
        name = shorten(standout.tensor, widest)
        lines.append(terminal.line(f"  {name:<{widest}}  {standout.why}"))
    if len(found) > _MOST_TENSORS:
        lines[0].append_text(terminal.text(f" ({_MOST_TENSORS} of {len(found)})", "aside"))
    return ["", *terminal.lines(*lines, fit="cut")]


def _next(terminal: Terminal, report: Report, opened: str) -> list[str]:
    command, gives = following(report)
    if opened and command.startswith("trajfile analyze"):
        command += f" {opened}"
    line = terminal.line(("Next: ", "accent"), (command, "title"), f"  {gives}")
    if line.cell_len > terminal.width:
        line = terminal.line(("Next: ", "accent"), (command, "title"))
    return terminal.lines(line, fit="whole")  # a command is pasted whole or it is no use
