"""The screen of `trajfile validate`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from .terminal import Terminal
from .text import counted

if TYPE_CHECKING:
    from trajfile.report import Finding, Severity


def screen(
    terminal: Terminal, path: str, findings: Sequence[Finding], *, deep: bool
) -> Iterator[Text]:
    """One line a finding, most severe first, then the outcome in one line.

    Args:
        terminal: Where it is shown.
        path: The run, as given.
        findings: What `trajfile.validate` found.
        deep: Whether every committed byte was read.

    Yields:
        Lines to show one below the other.
    """
    from trajfile.report import SEVERITIES

    for severity in SEVERITIES:
        for finding in findings:
            if finding.severity == severity:
                where = finding.evidence.get("location")
                yield terminal.line(
                    (finding.id, "title"),
                    "  ",
                    (f"{severity:<5}", severity),
                    f"  {where}: {finding.message}" if where else f"  {finding.message}",
                )
    counts = Counter(finding.severity for finding in findings)
    found = ", ".join(counted(counts[severity], noun) for severity, noun in _NOUNS.items())
    if counts["error"]:
        yield terminal.line((path, "title"), ": ", ("not valid", "error"), f", {found}")
    else:
        if any(finding.id == _NO_CHECKSUMS for finding in findings):
            depth = "every value read" if deep else "tensors not read; --deep reads them"
        elif deep:
            depth = "every checksum verified"
        else:
            depth = "data not read; --deep reads and verifies it"
        yield terminal.line((path, "title"), ": ", ("valid", "good"), f", {found} ({depth})")


_NO_CHECKSUMS = "CKPT-101"
_NOUNS: dict[Severity, str] = {"error": "error", "warn": "warning", "info": "remark"}
