"""The arguments and options that commands share, and how their text is read."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

Run = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A .h5 file, a .zarr folder, or a folder of checkpoints."),
]
Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="SRC...",
        help="What to convert; several are taken for consecutive parts of one run.",
    ),
]
Params = Annotated[
    list[str] | None,
    typer.Option(
        "--params", metavar="GLOB", help="Only tensors whose name matches; may be repeated."
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        "--steps",
        metavar="A:B:S",
        help="Only steps from A up to but not including B, and of these every S-th.",
    ),
]
Around = Annotated[
    int | None,
    typer.Option(
        "--around",
        metavar="STEP",
        help="Only the snapshots around a step, and which tensors moved first there.",
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        metavar="N",
        help="With --around: how many snapshots before and after; 20 by default.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="A,B", help="Only these metrics; all by default."),
]
Device = Annotated[
    str,
    typer.Option("--device", metavar="auto|cpu|cuda[:i]", help="Where to compute."),
]
Memory = Annotated[
    str,
    typer.Option("--memory", metavar="SIZE", help="Most memory the pass may use for buffers."),
]
Json = Annotated[
    str | None,
    typer.Option(
        "--json",
        metavar="PATH|-",
        help="Write the whole result as JSON; with - to stdout, and nothing else there.",
    ),
]
Plan = Annotated[
    bool,
    typer.Option(
        "--plan", help="Only print what would be read, how, and which metrics are skipped."
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="METRIC.NAME=VALUE",
        help="Set a metric's option, as `trajfile metrics METRIC` lists them; may be repeated.",
    ),
]
Replay = Annotated[
    str | None,
    typer.Option(
        "--replay",
        metavar="FILE.py:FACTORY",
        help="Run your own code: FACTORY returns the loss, for the exact sharpness.",
    ),
]
Deep = Annotated[
    bool, typer.Option("--deep", help="Read every committed byte, and so verify every checksum.")
]
Repaired = Annotated[
    str | None,
    typer.Option(
        "--out", "-o", metavar="OUT", help="Where the clean run goes; beside the run by default."
    ),
]
InPlace = Annotated[
    bool,
    typer.Option(
        "--in-place", help="Put the clean run in the place of the damaged one, which is kept aside."
    ),
]
SkipDamaged = Annotated[
    bool,
    typer.Option(
        "--skip-damaged", help="Leave out rows whose checksums fail, and say which; reads twice."
    ),
]
NoCache = Annotated[
    bool,
    typer.Option(
        "--no-cache", help="Measure anew, and keep no measurements for the next analysis."
    ),
]
Profile = Annotated[
    bool, typer.Option("--profile", help="Show where the time went, thread by thread.")
]
Untrusted = Annotated[
    bool,
    typer.Option(
        "--untrusted",
        help="Read the file, a stranger's, in a process apart with limits on memory and time.",
    ),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the code that checkpoints name where they cannot be read without; only yours.",
    ),
]
Everything = Annotated[bool, typer.Option("--all", help="List every tensor and scalar.")]
Tensors = Annotated[
    list[str],
    typer.Option(
        "--tensor", metavar="NAME", help="A tensor, or a glob over names; may be repeated."
    ),
]
Stream = Annotated[
    str, typer.Option("--stream", metavar="STREAM", help="The stream it is taken from.")
]
Out = Annotated[str, typer.Option("-o", "--out", metavar="OUT", help="Where to write.")]
Layout = Annotated[
    str,
    typer.Option(
        "--layout",
        metavar="rows|archive",
        help="With archive, chunks span steps: smaller, and nothing can be appended.",
    ),
]
Compression = Annotated[
    str | None,
    typer.Option(
        "--compression",
        metavar="none|zstd|gzip",
        help="By default none of rows, and zstd of an archive.",
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace OUT if it exists.")]
MetricId = Annotated[
    str | None, typer.Argument(metavar="[ID]", help="A metric's id; without it, all are listed.")
]


def metric_ids(text: str | None) -> list[str] | None:
    """Read ``--metrics``.

    Args:
        text: Ids separated by commas, or None.

    Returns:
        The ids; None, for all metrics, stays None.

    Raises:
        UsageError: If the text names no metric.
    """
    from trajfile.errors import UsageError

    if text is None:
        return None
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise UsageError(
            f"--metrics {text!r} names no metric: expected ids separated by commas, as "
            "`trajfile metrics` lists them"
        )
    return ids


def metric_options(settings: list[str] | None) -> dict[str, Any]:
    """Read ``--option``.

    Args:
        settings: Each ``metric.name=value``, the value a JSON scalar or a plain word.

    Returns:
        Values by ``metric.name``.

    Raises:
        UsageError: If a setting is not of that form, or repeats another.
    """
    from trajfile.errors import UsageError

    options: dict[str, Any] = {}
    for setting in settings or ():
        name, equals, value = setting.partition("=")
        metric, dot, option = name.strip().partition(".")
        if not (equals and dot and metric and option):
            raise UsageError(
                f"--option {setting!r} is not of the form metric.name=value, "
                "for example periodicity.delta=0.05"
            )
        if name.strip() in options:
            raise UsageError(f"--option {name.strip()} is given twice; keep one of them")
        options[name.strip()] = _scalar(value.strip())
    return options


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return text if isinstance(value, (dict, list)) else value
