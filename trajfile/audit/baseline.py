"""The baseline: what was accepted of each input, so that only what is new fails."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import msgspec

from trajfile.audit.outcome import Accepted, Outcome
from trajfile.errors import UsageError

_SCHEMA = "trajfile.audit-baseline/1"


class _Baseline(msgspec.Struct, frozen=True):
    schema: str
    inputs: dict[str, Accepted]


def load_baseline(path: Path) -> dict[str, Accepted]:
    """Read a baseline.

    Args:
        path: What `save_baseline` wrote.

    Returns:
        For each input, by its path, what was accepted.

    Raises:
        UsageError: If it cannot be read or is something else.
    """
    try:
        found = msgspec.json.decode(path.read_bytes(), type=_Baseline)
    except OSError as error:
        raise UsageError(f"the baseline {path} cannot be read: {error.strerror}") from error
    except msgspec.DecodeError as error:
        raise UsageError(f"{path} is not a baseline of an audit: {error}") from error
    if found.schema != _SCHEMA:
        raise UsageError(f"{path} is not a baseline: expected {_SCHEMA!r}, found {found.schema!r}")
    return found.inputs


def save_baseline(path: Path, outcomes: Iterable[Outcome]) -> None:
    """Accept outcomes as they are: their violations no longer count, their values are the measure.

    Args:
        path: Where; it is replaced whole.
        outcomes: The outcomes.

    Raises:
        UsageError: If it cannot be written.
    """
    inputs = {
        outcome.path: Accepted(
            sorted({violation.fingerprint for violation in outcome.violations}), outcome.values
        )
        for outcome in outcomes
    }
    text = msgspec.json.format(
        msgspec.json.encode(_Baseline(_SCHEMA, inputs), order="sorted"), indent=1
    )
    temporary = path.with_name(f".{path.name}.partial")
    try:
        temporary.write_bytes(text + b"\n")
        temporary.replace(path)
    except OSError as error:
        raise UsageError(f"the baseline {path} cannot be written: {error.strerror}") from error
