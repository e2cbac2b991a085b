"""The ledger of a batch: every outcome on the disk as soon as it is known, none in memory.

A database of SQLite with an outcome a row. A batch that was interrupted goes on from it; a row that
a kill cut short is rolled back when it is opened. Outcomes are read back worst first, by an index.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from trajfile.audit.outcome import Outcome
from trajfile.audit.sifting import fingerprint
from trajfile.errors import ResourceError, UsageError
from trajfile.report import SEVERITIES, Severity

#: By this a database is known to be a ledger of this layout.
_MARK = 0x74726101
_TABLES = """
CREATE TABLE head (key TEXT);
CREATE TABLE outcomes (
    number INTEGER PRIMARY KEY, path BLOB UNIQUE, rank INTEGER, outcome BLOB
);
CREATE INDEX worst ON outcomes (rank, number);
"""


class Summary(msgspec.Struct, frozen=True):
    """What a batch came to.

    Attributes:
        inputs: How many inputs.
        failing: How many have a violation at or above the severity that fails.
        clean: How many have no violation that counts.
        unexamined: How many could not be examined.
        errors: Violations of severity error that no baseline knows.
        warnings: Of severity warn.
        remarks: Of severity info.
        known: Violations that the baseline knows.
        reused: How many outcomes are of an earlier, interrupted batch.
        bytes_read: Recorded bytes read.
        seconds: Time the inputs took together.
    """

    inputs: int = 0
    failing: int = 0
    clean: int = 0
    unexamined: int = 0
    errors: int = 0
    warnings: int = 0
    remarks: int = 0
    known: int = 0
    reused: int = 0
    bytes_read: int = 0
    seconds: float = 0.0


class Ledger:
    """Outcomes by input.

    Args:
        path: Where it lies.
        key: What decides outcomes besides the inputs; a ledger of another key is not gone on with.
        resume: Whether to go on with what is there.

    Raises:
        UsageError: If the file cannot be written, or is something else than a ledger.
        ResourceError: If another audit is at it.
    """

    def __init__(self, path: Path, key: str, *, resume: bool):
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, timeout=1, isolation_level=None)
        except (OSError, sqlite3.OperationalError) as error:
            raise UsageError(f"the ledger {path} cannot be written: {error}") from error
        try:
            self._open(key, resume=resume)
        except sqlite3.OperationalError as error:
            self._base.close()
            if "locked" in str(error):
                raise ResourceError(
                    f"the ledger {path} is in use by another audit of the same: wait for it"
                ) from error
            raise UsageError(f"the ledger {path} cannot be written: {error}") from error
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise UsageError(
                f"{path} is not a ledger of an audit: remove it, or name another file"
            ) from error

    def _open(self, key: str, *, resume: bool) -> None:
        base = self._base
        # It is to survive the end of this process, not a loss of power.
        for setting in ("locking_mode = EXCLUSIVE", "synchronous = OFF", "journal_mode = TRUNCATE"):
            base.execute(f"PRAGMA {setting}")
        base.execute("BEGIN EXCLUSIVE")
        (mark,) = base.execute("PRAGMA application_id").fetchone()
        tables = [name for (name,) in base.execute("SELECT name FROM sqlite_master")]
        if tables and mark != _MARK:
            raise sqlite3.DatabaseError("of another program")
        if not tables:
            base.execute(f"PRAGMA application_id = {_MARK}")
            for statement in _TABLES.split(";"):
                base.execute(statement)
        found = base.execute("SELECT key FROM head").fetchone()
        if not (resume and found == (key,)):
            base.execute("DELETE FROM outcomes")
            base.execute("DELETE FROM head")
            base.execute("INSERT INTO head VALUES (?)", (key,))
        base.execute("COMMIT")

    def __len__(self) -> int:
        """How many inputs have an outcome."""
        return int(self._base.execute("SELECT count(*) FROM outcomes").fetchone()[0])

    def find(self, path: str) -> Outcome | None:
        """The outcome of an input, if there is one."""
        found = self._base.execute(
            "SELECT outcome FROM outcomes WHERE path = ?", (fingerprint(path),)
        ).fetchone()
        return None if found is None else msgspec.json.decode(found[0], type=Outcome)

    def add(self, outcome: Outcome) -> None:
        """Note an outcome; it replaces an earlier one of the same input.

        Args:
            outcome: The outcome.

        Raises:
            ResourceError: If the disk is full.
        """
        row = fingerprint(outcome.path), rank_of(outcome), msgspec.json.encode(outcome)
        try:
            self._base.execute(
                "INSERT OR REPLACE INTO outcomes (path, rank, outcome) VALUES (?, ?, ?)", row
            )
        except sqlite3.OperationalError as error:
            raise ResourceError(
                f"the ledger {self.path} cannot be written ({error}): make room, and go on with "
                "--resume"
            ) from error

    def worst_first(self) -> Iterator[Outcome]:
        """Every outcome, the worst first, otherwise in the order in which they came."""
        for (line,) in self._base.execute("SELECT outcome FROM outcomes ORDER BY rank, number"):
            yield msgspec.json.decode(line, type=Outcome)

    def summary(self, fail_on: Severity, reused: int = 0) -> Summary:
        """Count what there is."""
        counts = dict.fromkeys(("failing", "clean", "unexamined", "known", "bytes_read"), 0)
        severities = dict.fromkeys(SEVERITIES, 0)
        seconds = 0.0
        for outcome in self.worst_first():
            for item in outcome.violations:
                if item.known:
                    counts["known"] += 1
                else:
                    severities[item.severity] += 1
            counts["failing"] += fails(outcome, fail_on)
            counts["clean"] += outcome.worst is None
            counts["unexamined"] += outcome.status != "ok"
            counts["bytes_read"] += outcome.bytes_read
            seconds += outcome.seconds
        return Summary(
            inputs=len(self),
            errors=severities["error"],
            warnings=severities["warn"],
            remarks=severities["info"],
            reused=reused,
            seconds=seconds,
            **counts,
        )

    def close(self, *, remove: bool = False) -> None:
        """Close the file; remove it if the batch is done."""
        self._base.close()
        if remove:
            self.path.unlink(missing_ok=True)
            self.path.with_name(f"{self.path.name}-journal").unlink(missing_ok=True)

    def __enter__(self) -> Self:
        """The ledger itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close; what an interrupted batch found stays."""
        self.close()


def rank_of(outcome: Outcome) -> int:
    """The place of an outcome among others: smaller is worse."""
    worst = outcome.worst
    place = len(SEVERITIES) if worst is None else SEVERITIES.index(worst)
    count = sum(item.severity == worst and not item.known for item in outcome.violations)
    return place * 1000 - min(count, 999) if worst is not None else place * 1000


def fails(outcome: Outcome, fail_on: Severity) -> bool:
    """Whether an outcome fails a batch that fails on that severity."""
    worst = outcome.worst
    return worst is not None and SEVERITIES.index(worst) <= SEVERITIES.index(fail_on)
