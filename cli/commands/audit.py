"""`trajfile audit`: many runs held against rules, as a gate."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..exits import CHECK_FAILED
from ..options import Memory, NoCache, Trust

if TYPE_CHECKING:
    from trajfile.audit import Ledger, Settings

Paths = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="PATH...",
        help="Runs, checkpoint folders, folders to search, globs, @LIST of them, - for stdin.",
    ),
]
Rules = Annotated[
    Path | None,
    typer.Option("--rules", metavar="FILE", help="A rule file; by default [tool.trajfile.audit]."),
]
Select = Annotated[
    str | None, typer.Option("--select", metavar="A,B", help="Only these rules; globs allowed.")
]
Ignore = Annotated[
    str | None, typer.Option("--ignore", metavar="A,B", help="Not these rules; globs allowed.")
]
Format = Annotated[
    Literal["table", "json", "jsonl", "csv", "markdown", "junit", "sarif", "github"],
    typer.Option("--format", help="In which form the outcome is written."),
]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="FILE", help="Write the outcome there, not to stdout."),
]
FailOn = Annotated[
    Literal["warn", "error"] | None,
    typer.Option("--fail-on", help="The least severity that makes the exit code 1."),
]
Workers = Annotated[
    int, typer.Option("--workers", min=1, metavar="N", help="How many runs at a time.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS|local",
        help="Have the workers of a Dask scheduler do it; local starts N of this machine.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Skip what the same audit, interrupted, has finished.")
]
Baseline = Annotated[
    Path | None,
    typer.Option("--baseline", metavar="FILE", help="Only what this file does not have fails."),
]
WriteBaseline = Annotated[
    Path | None,
    typer.Option("--write-baseline", metavar="FILE", help="Accept what is found, for later."),
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")]
MaxTime = Annotated[
    float | None,
    typer.Option("--max-time", metavar="SECONDS", min=0.1, help="Give a run up after that long."),
]
Device = Annotated[
    str, typer.Option("--device", metavar="cpu|auto|cuda[:i]", help="Where metrics are computed.")
]
Deep = Annotated[
    bool, typer.Option("--deep", help="Verify every committed byte, beyond what metrics read.")
]
Explain = Annotated[
    str | None,
    typer.Option("--explain", metavar="ID", help="Say what a rule means; 'all' lists them."),
]


def audit(
    paths: Paths = None,
    rules: Rules = None,
    select: Select = None,
    ignore: Ignore = None,
    form: Format = "table",
    output: Output = None,
    fail_on: FailOn = None,
    workers: Workers = 1,
    scheduler: Scheduler = None,
    resume: Resume = False,
    baseline: Baseline = None,
    write_baseline: WriteBaseline = None,
    fail_fast: FailFast = False,
    max_time: MaxTime = None,
    memory: Memory = "1GiB",
    device: Device = "cpu",
    deep: Deep = False,
    no_cache: NoCache = False,
    trust: Trust = False,
    explain: Explain = None,
) -> int:
    """Examine many runs and hold each against rules; exit code 1 if one fails."""
    import msgspec

    from trajfile.audit import (
        FORMATS,
        Result,
        Settings,
        crew_for,
        load_baseline,
        load_rulebook,
        narrowed,
        run_batch,
        save_baseline,
    )
    from trajfile.audit.drive import outcomes
    from trajfile.audit.inputs import inputs
    from trajfile.engine.budget import parse_bytes
    from trajfile.engine.profiles import profile_for
    from trajfile.errors import UsageError

    from ..render.audit import Tally, explained, screen
    from ..render.terminal import Terminal

    book = narrowed(load_rulebook(rules), _ids(select), _ids(ignore))
    if fail_on is not None:
        book = msgspec.structs.replace(book, fail_on=fail_on)
    terminal = Terminal()
    if explain is not None:
        terminal.show(*explained(terminal, book, explain))
        return 0
    if not paths:
        raise UsageError("nothing to audit: name runs, folders, globs or @LIST")
    profile_for(device)
    accepted = {} if baseline is None else load_baseline(baseline)
    settings = Settings(book, device, parse_bytes(memory), deep, not no_cache, trust, accepted)
    if trust:
        sys.stderr.write(
            "--trust: workers run the code that checkpoints name; only do this with files you made "
            "yourself\n"
        )
    given = list(sys.stdin) if "-" in paths else []

    with (
        _ledger(settings, paths, resume=resume) as ledger,
        crew_for(settings, workers, scheduler, max_time) as crew,
        Tally() as tally,
    ):
        if tally.watched:
            tally.expect(sum(1 for _ in inputs(paths, stdin=given)))
        summary = run_batch(
            inputs(paths, stdin=given),
            lambda drawn: outcomes(drawn, settings, crew),
            settings,
            ledger,
            fail_fast=fail_fast,
            told=tally,
        )
        tally.done()
        if write_baseline is not None:
            save_baseline(write_baseline, ledger.worst_first())
        result = Result(summary, book, ledger.worst_first)
        if form == "table":
            lines = terminal.lines(*screen(terminal, result))
            pieces: Iterable[str] = (line + "\n" for line in lines)
        else:
            pieces = FORMATS[form](result)
        if output is not None:
            with output.open("w", encoding="utf-8") as file:
                file.writelines(pieces)
        elif form == "table":
            terminal.write(lines)
        else:
            sys.stdout.writelines(pieces)
        ledger.close(remove=True)
    return CHECK_FAILED if summary.failing else 0


def _ids(text: str | None) -> list[str] | None:
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def _ledger(settings: Settings, paths: list[str], *, resume: bool) -> Ledger:
    """The ledger of this very audit: the same arguments in the same folder."""
    from hashlib import blake2b

    from trajfile.audit import Ledger
    from trajfile.audit.outcome import settings_key

    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    named = "\0".join([str(Path.cwd()), *paths])
    digest = blake2b(named.encode("utf-8", "surrogateescape"), digest_size=12).hexdigest()
    path = state / "trajfile" / "audit" / f"{digest}.sqlite"
    return Ledger(path, settings_key(settings), resume=resume)
