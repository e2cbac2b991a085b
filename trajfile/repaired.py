"""What a repair saved, and what it did not."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from trajfile.report import Finding, plain


@dataclass(frozen=True)
class LostRows:
    """Rows of a stream that could not be saved, for one reason.

    Attributes:
        reason: Why.
        rows: First and last of rows that follow one another.
        steps: First and last step of those whose step is known; None if none is.
        tensors: The damaged tensors; empty if all are.
    """

    reason: str
    rows: tuple[int, int]
    steps: tuple[int, int] | None
    tensors: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """How many rows."""
        return self.rows[1] - self.rows[0] + 1


@dataclass(frozen=True)
class StreamRepair:
    """What became of one stream.

    Attributes:
        name: The stream, or ``scalars``.
        committed: Rows that were committed.
        saved: Rows that the new file holds.
        lost: The others.
    """

    name: str
    committed: int
    saved: int
    lost: tuple[LostRows, ...] = ()


@dataclass(frozen=True)
class RepairReport:
    """What `repair` saved.

    Attributes:
        path: The damaged run.
        out: The clean file of what survived.
        backup: Where the damaged run lies now, if the clean one took its place.
        uuid: Of both.
        streams: What became of each stream, the scalars last.
        mended: What was damaged and is whole again, one phrase each.
        lost: What else is lost, one phrase each.
        remarks: What `trajfile.validate` says of the new file, errors excepted.
    """

    path: str
    out: str
    backup: str | None
    uuid: str
    streams: tuple[StreamRepair, ...]
    mended: tuple[str, ...]
    lost: tuple[str, ...]
    remarks: tuple[Finding, ...] = ()

    @property
    def lossy(self) -> bool:
        """Whether anything that was committed is lost."""
        return bool(self.lost) or any(stream.lost for stream in self.streams)

    def to_dict(self) -> dict[str, Any]:
        """The report in plain JSON types."""
        built = {**vars(self), "streams": [asdict(stream) for stream in self.streams]}
        told: dict[str, Any] = plain(msgspec.to_builtins({**built, "lossy": self.lossy}))
        return told
