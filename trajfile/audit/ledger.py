"""The ledger of a batch: every outcome on the disk as soon as it is known, little in memory.

A JSON Lines file: first what decided the outcomes, then an outcome a line. A batch that was
interrupted goes on from it; a last line that a kill left torn is dropped. Outcomes are read back
worst first without holding them all.
"""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from trajfile.audit.examine import Outcome
from trajfile.errors import UsageError
from trajfile.report import SEVERITIES, Severity

_SCHEMA = "trajfile.audit-ledger/1"


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


class _Entry(msgspec.Struct, frozen=True):
    rank: int
    offset: int
    length: int


class Ledger:
    """Outcomes by input.

    Args:
        path: Where it lies.
        key: What decides outcomes besides the inputs; a ledger of another key is not gone on with.
        resume: Whether to go on with what is there.

    Raises:
        UsageError: If the file cannot be written, or is something else than a ledger.
    """

    def __init__(self, path: Path, key: str, *, resume: bool):
        self.path = path
        self._entries: dict[bytes, _Entry] = {}
        head = msgspec.json.encode({"schema": _SCHEMA, "key": key}) + b"\n"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a+b")
        except OSError as error:
            raise UsageError(f"the ledger {path} cannot be written: {error.strerror}") from error
        self._file.seek(0)
        first = self._file.readline()
        if first and _SCHEMA.encode() not in first:
            self._file.close()
            raise UsageError(f"{path} is not a ledger of an audit; name another file")
        if resume and first == head:
            self._load()
        else:
            self._file.truncate(0)
            self._file.write(head)
            self._file.flush()

    def __len__(self) -> int:
        """How many inputs have an outcome."""
        return len(self._entries)

    def find(self, path: str) -> Outcome | None:
        """The outcome of an input, if there is one."""
        entry = self._entries.get(_digest(path))
        return None if entry is None else self._read(entry)

    def add(self, outcome: Outcome) -> None:
        """Note an outcome; it replaces an earlier one of the same input."""
        line = msgspec.json.encode(outcome) + b"\n"
        self._file.seek(0, 2)
        entry = _Entry(rank_of(outcome), self._file.tell(), len(line))
        self._file.write(line)
        self._file.flush()
        self._entries[_digest(outcome.path)] = entry

    def worst_first(self) -> Iterator[Outcome]:
        """Every outcome, the worst first, otherwise in the order in which they came."""
        for entry in sorted(self._entries.values(), key=lambda item: (item.rank, item.offset)):
            yield self._read(entry)

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
        self._file.close()
        if remove:
            self.path.unlink(missing_ok=True)

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

    def _load(self) -> None:
        offset = self._file.tell()
        for line in self._file:
            try:
                outcome = msgspec.json.decode(line, type=Outcome)
            except msgspec.DecodeError:
                self._file.truncate(offset)  # a kill tore it; what follows cannot be whole
                return
            self._entries[_digest(outcome.path)] = _Entry(rank_of(outcome), offset, len(line))
            offset += len(line)

    def _read(self, entry: _Entry) -> Outcome:
        self._file.seek(entry.offset)
        return msgspec.json.decode(self._file.read(entry.length), type=Outcome)


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


def _digest(path: str) -> bytes:
    return blake2b(path.encode("utf-8", "surrogateescape"), digest_size=16).digest()
