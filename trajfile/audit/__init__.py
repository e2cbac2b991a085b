"""Many runs held against rules, as a gate: ``trajfile audit``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trajfile.audit.baseline import load_baseline, save_baseline
from trajfile.audit.batch import run_batch
from trajfile.audit.crew import Crew
from trajfile.audit.formats import FORMATS, Result
from trajfile.audit.ledger import Ledger, Summary
from trajfile.audit.outcome import Accepted, Outcome, Settings
from trajfile.audit.rulebook import Rulebook, load_rulebook, narrowed
from trajfile.audit.rules import Rule, Violation

__all__ = [
    "FORMATS",
    "Accepted",
    "Crew",
    "Ledger",
    "Outcome",
    "Result",
    "Rule",
    "Rulebook",
    "Settings",
    "Summary",
    "Violation",
    "audit",
    "crew_for",
    "load_baseline",
    "load_rulebook",
    "narrowed",
    "run_batch",
    "save_baseline",
]


def audit(
    paths: Iterable[str | os.PathLike[str]],
    *,
    rules: str | os.PathLike[str] | Rulebook | None = None,
    baseline: str | os.PathLike[str] | None = None,
    workers: int = 1,
    scheduler: str | None = None,
    memory: str | int = "1GiB",
    device: str = "cpu",
    max_time: float | None = None,
    trust: bool = False,
) -> list[Outcome]:
    """Examine many runs, each in a process that cannot harm the others.

    Args:
        paths: Trajectories, checkpoint folders, folders to be searched, globs and ``@list.txt``.
        rules: A rule file, or rules already loaded; None takes those of ``pyproject.toml`` in the
            current folder, or those shipped.
        baseline: What an earlier audit accepted.
        workers: How many processes of this machine take part. A huge input is divided among them.
        scheduler: Address of a Dask scheduler whose workers take part instead; ``local`` for
            `workers` Dask workers of this machine.
        memory: What the buffers of one input may take.
        device: Where metrics are computed.
        max_time: Seconds that one input may take.
        trust: Whether to run code that checkpoints name, in the workers; see `trajfile.open`.

    Returns:
        An outcome for each input, the worst first.

    Raises:
        UsageError: If the rules, the baseline or an argument cannot be used.
        ResourceError: If there is no such scheduler, or it is gone before the end.
    """
    from trajfile.audit.drive import outcomes
    from trajfile.audit.inputs import inputs
    from trajfile.engine.budget import parse_bytes

    book = rules if isinstance(rules, Rulebook) else load_rulebook(Path(rules) if rules else None)
    accepted = {} if baseline is None else load_baseline(Path(baseline))
    settings = Settings(book, device, parse_bytes(memory), trust=trust, baseline=accepted)
    named = inputs([os.fspath(path) for path in paths])
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder) / "ledger", "", resume=False) as ledger,
        crew_for(settings, workers, scheduler, max_time) as crew,
    ):
        run_batch(named, lambda drawn: outcomes(drawn, settings, crew), settings, ledger)
        return list(ledger.worst_first())


def crew_for(
    settings: Settings, workers: int, scheduler: str | None = None, max_time: float | None = None
) -> Crew:
    """Who does the work of a batch.

    Args:
        settings: How inputs are examined.
        workers: How many processes of this machine, if it is they.
        scheduler: As in `audit`.
        max_time: Seconds that one task may take; None for any.

    Returns:
        The crew.

    Raises:
        UsageError: If Dask is not installed, or the address is none.
        ResourceError: If there is no such scheduler, or it has no workers.
    """
    if scheduler is None:
        from trajfile.audit.pool import Pool

        return Pool(settings, workers, max_time)
    from trajfile.audit.cluster import Cluster

    return Cluster(scheduler, settings, workers, max_time)
