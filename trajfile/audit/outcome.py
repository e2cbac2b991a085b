"""How inputs are examined, and what becomes of each: what goes from process to process."""

from __future__ import annotations

from hashlib import blake2b
from typing import Literal

import msgspec

from trajfile.audit.rulebook import Rulebook
from trajfile.audit.rules import Violation
from trajfile.report import SEVERITIES, Severity
from trajfile.version import __version__

Status = Literal[
    "ok", "damaged", "unsafe", "unreadable", "resources", "timeout", "died", "internal"
]


class Settings(msgspec.Struct, frozen=True):
    """How inputs are examined.

    Attributes:
        rules: The rules.
        device: As in `trajfile.analyze`.
        memory: Bytes for the buffers of one input.
        deep: Whether every committed byte is verified, beyond what the metrics read.
        cache: Whether measurements are kept, and used where an input has not changed.
        trust: Whether code that checkpoints name may be run; see `trajfile.open`.
        baseline: For each input (by its path) the fingerprints and values that were accepted.
        divide_above: An input of which more recorded bytes are to be read is examined in parts.
        threads: Threads of each process; 0 for its share of the cores.
    """

    rules: Rulebook
    device: str = "cpu"
    memory: int = 2**30
    deep: bool = False
    cache: bool = False
    trust: bool = False
    baseline: dict[str, Accepted] = {}
    divide_above: int = 2**31
    threads: int = 0


class Accepted(msgspec.Struct, frozen=True):
    """What a baseline holds of one input.

    Attributes:
        violations: Fingerprints of violations that do not count any more.
        values: For each rule over one value, the value then.
    """

    violations: list[str] = []
    values: dict[str, float] = {}


class Outcome(msgspec.Struct, frozen=True):
    """What became of one input.

    Attributes:
        path: The input as it was named.
        status: ``ok`` if it could be examined, else how that failed.
        identity: What it held when it was examined; changes when the content does.
        container: What it is stored as, if it could be opened.
        seconds: How long it took.
        bytes_read: Recorded bytes that were read.
        verdict: The report's verdict.
        violations: The rules it broke, most severe first.
        values: For each rule over one value, the value found.
    """

    path: str
    status: Status
    identity: str = ""
    container: str = ""
    seconds: float = 0.0
    bytes_read: int = 0
    verdict: str = ""
    violations: list[Violation] = []
    values: dict[str, float] = {}

    @property
    def worst(self) -> Severity | None:
        """The severity of its worst violation that no baseline knows."""
        found = {violation.severity for violation in self.violations if not violation.known}
        return next((severity for severity in SEVERITIES if severity in found), None)


def settings_key(settings: Settings) -> str:
    """A digest of what decides outcomes besides the inputs."""
    deciding = msgspec.structs.replace(settings, threads=0)
    stated = msgspec.json.encode([deciding, __version__], order="deterministic")
    return blake2b(stated, digest_size=16).hexdigest()
