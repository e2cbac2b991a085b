"""Results as data: numbers, units and words, never markup.

The JSON form is schema ``trajfile.report/1`` (spec/report.schema.json). NaN and infinities become
null; integers stay exact.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from trajfile.tables import Table, table_of

if TYPE_CHECKING:
    import pandas

SCHEMA = "trajfile.report/1"

Status = Literal["ok", "insufficient", "skipped", "error"]
Severity = Literal["info", "warn", "error"]
Value: TypeAlias = Any
"""A summary value: None, bool, int, float, str, or a list of these."""

SEVERITIES: tuple[Severity, ...] = ("error", "warn", "info")


class Series(msgspec.Struct, frozen=True):
    """Values over steps.

    Attributes:
        step: The steps, one per value.
        value: The values; None where undefined.
    """

    step: list[int]
    value: list[float | None]


class TensorResult(msgspec.Struct, frozen=True):
    """What a metric says of one tensor."""

    summary: dict[str, Value]


class Finding(msgspec.Struct, frozen=True):
    """Something a reader should know.

    Attributes:
        id: Stable id, ``<metric>.<what>``.
        severity: ``error``, ``warn`` or ``info``.
        message: One sentence for a person.
        evidence: The numbers it rests on.
    """

    id: str
    severity: Severity
    message: str
    evidence: dict[str, Value] = {}


class MetricResult(msgspec.Struct, frozen=True):
    """What one metric found.

    Attributes:
        status: ``ok``; ``insufficient``: the data cannot answer; ``skipped``: an ingredient is
            missing; ``error``: it failed.
        reason: Why, unless ``ok``.
        summary: Numbers and words, under the contract's names.
        series: Values over steps, under the contract's names.
        per_tensor: Summaries of single tensors.
        findings: What a reader should know.
        definition: The quantity in one paragraph.
        reference: The paper it is from.
        notes: Choices and caveats that apply to this run, each one sentence.
        sentence: What happened, in one sentence; None if there is nothing to tell.
        salience: How much the sentence deserves the headline, 0 to 1.
        options: The thresholds and choices in force.
        caveat: A few words without which the figures would mislead, to stand beside them.
        remedy: What to record or declare, in a few words, where that would give the figures.
    """

    status: Status
    reason: str | None = None
    summary: dict[str, Value] = {}
    series: dict[str, Series] = {}
    per_tensor: dict[str, TensorResult] = {}
    findings: list[Finding] = []
    definition: str = ""
    reference: str = ""
    notes: list[str] = []
    sentence: str | None = None
    salience: float = 0.0
    options: dict[str, Value] = {}
    caveat: str | None = None
    remedy: str | None = None


class StreamSource(msgspec.Struct, frozen=True):
    """Extent of one stream: rows and the first and last step (None if empty)."""

    rows: int
    first_step: int | None
    last_step: int | None


class Source(msgspec.Struct, frozen=True):
    """What was analysed."""

    path: str
    container: str
    format_version: tuple[int, int]
    uuid: str
    parameters: int
    streams: dict[str, StreamSource]
    tensors: int = 0
    optimizer: dict[str, Value] = {}
    metadata: dict[str, Value] = {}


class Mover(msgspec.Struct, frozen=True):
    """A tensor that left its usual step behind around an event, or turned non-finite.

    Attributes:
        tensor: Its name.
        onset_step: The snapshot from which it moved by more than usual: with adjacent snapshots,
            the update that did it. None if it did not before turning non-finite.
        seen_step: The next snapshot, the first to show it.
        factor: How many times its usual step that displacement is; None for a tensor that had
            lain still.
        largest_factor: The largest of the window.
        score: By how many of its usual spreads the displacement's logarithm is beyond the usual.
        usual: Its usual relative displacement from snapshot to snapshot.
        non_finite_step: The first step of the window at which a value is NaN or infinite, if any.
        non_finite_stream: The stream that holds it.
    """

    tensor: str
    onset_step: int | None = None
    seen_step: int | None = None
    factor: float | None = None
    largest_factor: float | None = None
    score: float | None = None
    usual: float | None = None
    non_finite_step: int | None = None
    non_finite_stream: str | None = None


class Around(msgspec.Struct, frozen=True):
    """The window around an event that an analysis was narrowed to, and what moved in it.

    Attributes:
        step: The step of the event, as asked for.
        first_step: First step of the window.
        last_step: Last step of the window.
        before: Recorded snapshots before the event.
        after: Recorded snapshots after it.
        widest_stride: Steps between the two snapshots of the window farthest apart, to which
            onsets are known; None with fewer than two.
        tensors: How many tensors were looked at.
        movers: Those that turned non-finite, in order; then those that moved by more than usual,
            in order of onset, then of size.
        reason: Why nothing can be said of them, else None.
        notes: What must be known to read it, one sentence each.
        options: The thresholds in force.
    """

    step: int
    first_step: int
    last_step: int
    before: int
    after: int
    widest_stride: int | None = None
    tensors: int = 0
    movers: list[Mover] = []
    reason: str | None = None
    notes: list[str] = []
    options: dict[str, Value] = {}


class Run(msgspec.Struct, frozen=True):
    """How it was analysed.

    Attributes:
        device: Where it was computed.
        wall_seconds: How long it took.
        bytes_read: Bytes read from the file.
        passes: Passes over it.
        memory_budget_bytes: What buffers were allowed to take.
        peak_buffer_bytes: What they took.
        around: The window around an event, if the analysis was narrowed to one.
        cached: What was measured by an earlier analysis and not again: empty for nothing, ``all``,
            or ``older rows``.
        profile: Seconds by thread and kind of work (read, verify, decode, copy, products, metrics,
            wait, other), if they were asked for.
    """

    device: str
    wall_seconds: float
    bytes_read: int
    passes: int
    memory_budget_bytes: int
    peak_buffer_bytes: int
    around: Around | None = None
    cached: Literal["", "all", "older rows"] = ""
    profile: dict[str, dict[str, float]] | None = None


class Report(msgspec.Struct, frozen=True):
    """The outcome of one analysis.

    Attributes:
        source: What was analysed.
        run: How.
        metrics: Results by metric id.
        findings: All metrics' findings, most severe first.
        verdict: What happened, in one or two sentences.
        trajfile_version: The version that made the report.
        schema: ``trajfile.report/1``.
    """

    source: Source
    run: Run
    metrics: dict[str, MetricResult]
    findings: list[Finding]
    verdict: str = ""
    trajfile_version: str = ""
    schema: str = SCHEMA

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON types, NaN and infinities as None."""
        built: dict[str, Any] = plain(msgspec.to_builtins(self))
        return built

    def to_json(self) -> str:
        """The report as one JSON document of schema ``trajfile.report/1``."""
        return msgspec.json.format(msgspec.json.encode(self.to_dict()), indent=2).decode()

    def to_dataframe(self, table: Table = "series") -> pandas.DataFrame:
        """The report's numbers for pandas.

        Args:
            table: ``series``: a float64 column ``<metric>.<series>`` each, indexed by step, NaN
                where it has no value; ``summary``: the column ``value``, indexed by (metric,
                name); ``tensors``: a row for each tensor, a column ``<metric>.<name>`` each;
                ``findings``: severity, message and evidence, indexed by id.

        Returns:
            The table; without rows if the report has nothing for it.

        Raises:
            UsageError: If pandas is not installed or there is no such table.
        """
        return table_of(self.to_dict(), table)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        """Rebuild a report from `to_dict`.

        Args:
            data: Plain JSON types.

        Returns:
            The report.

        Raises:
            ValueError: If the data is not a report of this schema.
        """
        if data.get("schema") != SCHEMA:
            raise ValueError(f"expected schema {SCHEMA!r}, found {data.get('schema')!r}")
        return msgspec.convert(dict(data), type=cls)


def series(steps: NDArray[np.int64], values: NDArray[np.float64]) -> Series:
    """A series from arrays of equal length; what is not finite becomes None."""
    return Series(np.asarray(steps, np.int64).tolist(), numbers(values))


def series_of(
    steps: NDArray[np.int64], values: Mapping[str, NDArray[np.float64]]
) -> dict[str, Series]:
    """`series` of several arrays over the same steps, which are listed once for all of them."""
    listed: list[int] = np.asarray(steps, np.int64).tolist()
    return {name: Series(listed, numbers(of)) for name, of in values.items()}


def number(value: float | np.floating[Any] | None) -> float | None:
    """A float for a summary, or None where it is undefined."""
    return None if value is None or not math.isfinite(value) else float(value)


def numbers(values: NDArray[np.float64]) -> list[float | None]:
    """`number` of each of an array."""
    floats = np.asarray(values, np.float64)
    listed: list[float | None] = floats.tolist()
    for gap in np.flatnonzero(~np.isfinite(floats)).tolist():
        listed[gap] = None
    return listed


def plain(value: Any) -> Any:
    """The same structure in JSON types: NumPy scalars unwrapped, non-finite floats as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
