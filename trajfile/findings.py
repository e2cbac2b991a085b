"""What `validate` finds, as one JSON document.

Its schema is ``trajfile.findings/1`` (spec/findings.schema.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from trajfile.report import Finding, plain

SCHEMA = "trajfile.findings/1"


class Findings(msgspec.Struct, frozen=True):
    """The outcome of one validation of a trajectory.

    Attributes:
        path: The file or folder, as given.
        deep: Whether every committed row was read too.
        valid: Whether the file keeps every rule of the format: no finding is an error.
        findings: What breaks a rule, in the order of the rules; evidence holds the location.
        trajfile_version: The version that looked.
        schema: ``trajfile.findings/1``.
    """

    path: str
    deep: bool
    valid: bool
    findings: list[Finding]
    trajfile_version: str = ""
    schema: str = SCHEMA

    @classmethod
    def of(cls, path: str, findings: Sequence[Finding], *, deep: bool) -> Findings:
        """Wrap what `trajfile.validate` returned.

        Args:
            path: The file or folder, as given.
            findings: What was found.
            deep: Whether every committed row was read.

        Returns:
            The document.
        """
        from trajfile.version import __version__

        valid = all(finding.severity != "error" for finding in findings)
        return cls(path, deep, valid, list(findings), __version__)

    def to_dict(self) -> dict[str, Any]:
        """The document as plain JSON types."""
        built: dict[str, Any] = plain(msgspec.to_builtins(self))
        return built

    def to_json(self) -> str:
        """The document as JSON text."""
        return msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=2).decode()
