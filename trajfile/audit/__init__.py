"""Many runs held against rules, as a gate: ``trajfile audit``."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from trajfile.audit.baseline import load_baseline, save_baseline
from trajfile.audit.batch import run_batch
from trajfile.audit.examine import Accepted, Outcome, Settings
from trajfile.audit.formats import FORMATS, Result
from trajfile.audit.ledger import Ledger, Summary
from trajfile.audit.rulebook import Rulebook, load_rulebook, narrowed
from trajfile.audit.rules import Rule, Violation

__all__ = [
    "FORMATS",
    "Accepted",
    "Ledger",
    "Outcome",
    "Result",
    "Rule",
    "Rulebook",
    "Settings",
    "Summary",
    "Violation",
    "audit",
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
    memory: str | int = "1GiB",
    device: str = "cpu",
    max_time: float | None = None,
) -> list[Outcome]:
    """Examine many runs, each in a process that cannot harm the others.

    Args:
        paths: Trajectories, checkpoint folders, folders to be searched, globs and ``@list.txt``.
        rules: A rule file, or rules already loaded; None takes those of ``pyproject.toml`` in the
            current folder, or those shipped.
        baseline: What an earlier audit accepted.
        workers: How many inputs are examined at a time.
        memory: What the buffers of one input may take.
        device: Where metrics are computed.
        max_time: Seconds that one input may take.

    Returns:
        An outcome for each input, the worst first.

    Raises:
        UsageError: If the rules, the baseline or an argument cannot be used.
    """
    from trajfile.audit.inputs import inputs
    from trajfile.audit.pool import outcomes
    from trajfile.engine.budget import parse_bytes

    book = rules if isinstance(rules, Rulebook) else load_rulebook(Path(rules) if rules else None)
    accepted = {} if baseline is None else load_baseline(Path(baseline))
    settings = Settings(book, device, parse_bytes(memory), baseline=accepted)
    named = inputs([os.fspath(path) for path in paths])
    with (
        tempfile.TemporaryDirectory() as folder,
        Ledger(Path(folder) / "ledger", "", resume=False) as ledger,
    ):
        run_batch(
            named,
            lambda drawn: outcomes(drawn, settings, workers=workers, max_time=max_time),
            settings,
            ledger,
        )
        return list(ledger.worst_first())
