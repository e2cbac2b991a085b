"""The manifest: what a trajectory holds, as plain immutable records. No I/O.

A manifest revision is one JSON object. It lists the streams in the order of their columns in the
commit record, each stream's tensors in the order of their columns in its lanes, the scalars in
the order of their columns, and what the recorder knows of the optimizer and the gradients.
"""

from __future__ import annotations

import math
import re
from functools import cached_property
from typing import Any

import msgspec

from trajfile.dtypes import ITEM_SIZES

FORMAT = "trajfile"
FORMAT_VERSION = (1, 0)

#: The feature of a trajectory whose chunks span several rows; see spec/format.md.
ARCHIVE = "archive"

#: Feature names in the root attribute ``requires`` that this version understands.
KNOWN_FEATURES: frozenset[str] = frozenset({ARCHIVE})

PARAMS = "params"
GRADIENTS = "gradients"
UPDATES = "updates"
GRADIENT_SAMPLES = "gradient_samples"
OPTIMIZER_PREFIX = "optimizer/"

_STREAM_NAME = re.compile(
    r"params|gradients|gradient_samples|updates|optimizer/[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"
)
#: Bits of the NaN that marks an absent scalar; any other NaN was recorded as such.
ABSENT_BITS = 0x7FF8000074726A66

#: First row of a tensor that is declared but has not been recorded yet. Such tensors come last in
#: their stream, and only they may move to other columns in a later revision.
NOT_YET = 2**48

_MAX_NAME = 1024
_MAX_COLUMNS = 2**48

#: The slots an optimizer keeps for each parameter, under PyTorch's names.
OPTIMIZER_SLOTS: dict[str, tuple[str, ...]] = {
    "SGD": ("momentum_buffer",),
    "Adam": ("exp_avg", "exp_avg_sq"),
    "AdamW": ("exp_avg", "exp_avg_sq"),
    "NAdam": ("exp_avg", "exp_avg_sq"),
    "RAdam": ("exp_avg", "exp_avg_sq"),
    "Adamax": ("exp_avg", "exp_inf"),
    "Adagrad": ("sum",),
    "Adadelta": ("square_avg", "acc_delta"),
    "RMSprop": ("square_avg",),
}


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=False, dict=True):
    """One named tensor and where its coordinates lie.

    Attributes:
        name: The tensor's name, unique within its stream.
        shape: Its shape; ``()`` for a scalar.
        dtype: Its dtype, which is also the name of its lane.
        offset: First column in the lane; the tensor is laid out in C order from there.
        first_row: First row of the stream that holds it: 0 unless it joined later, 2^48
            (`NOT_YET`) until it does.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    offset: int
    first_row: int = 0

    @cached_property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @cached_property
    def columns(self) -> slice:
        """The columns it occupies in its lane."""
        return slice(self.offset, self.offset + self.size)


class StreamSpec(msgspec.Struct, frozen=True, dict=True):
    """One stream: rows of one kind over time.

    Attributes:
        name: ``params``, ``gradients``, ``updates``, ``gradient_samples`` or ``optimizer/<slot>``.
        tensors: Its tensors; within a lane they follow one another without holes.
    """

    name: str
    tensors: tuple[TensorSpec, ...]

    @cached_property
    def lanes(self) -> dict[str, int]:
        """Number of columns of each lane, by dtype, in order of first appearance."""
        lanes: dict[str, int] = {}
        for tensor in self.tensors:
            lanes[tensor.dtype] = lanes.get(tensor.dtype, 0) + tensor.size
        return lanes

    @cached_property
    def by_name(self) -> dict[str, TensorSpec]:
        """The tensors by name."""
        return {tensor.name: tensor for tensor in self.tensors}

    @property
    def sampled(self) -> bool:
        """Whether rows are keyed by (step, sample) instead of by step alone."""
        return self.name == GRADIENT_SAMPLES

    @cached_property
    def row_bytes(self) -> int:
        """Bytes of one row over all lanes, uncompressed."""
        return sum(ITEM_SIZES[dtype] * columns for dtype, columns in self.lanes.items())


class Identity(msgspec.Struct, frozen=True):
    """What the root attributes say, once more where a checksum covers it.

    Attributes:
        uuid: The trajectory's.
        format_version: Major and minor.
    """

    uuid: str
    format_version: tuple[int, int]


class Rewind(msgspec.Struct, frozen=True):
    """Committed steps that were taken back, because training restarted from an earlier state.

    Attributes:
        step: Everything at and after this step was taken back.
        last_step: The last step that had been committed.
        wall_ns: When, in nanoseconds since 1970.
        rows: Rows taken back of each stream; under `scalars`, of the scalars.
    """

    step: int
    last_step: int
    wall_ns: int
    rows: dict[str, int] = {}


class Manifest(msgspec.Struct, frozen=True, dict=True):
    """One revision of the manifest.

    Attributes:
        streams: The streams; their order and number never change after the first commit.
        scalars: Names of the scalar columns, in order; later revisions may append names.
        optimizer: What is known of the optimizer: ``name``, ``weight_decay``,
            ``decoupled_weight_decay``, ``momentum``, ``nesterov``, ``betas``, ... as given.
        groups: Named lists of tensors, such as ``scale_invariant`` and ``layers`` (in order).
        gradient: Provenance of recorded gradients: ``stage``, ``source``, ``batch_size``,
            ``dataset_size``.
        metadata: Free JSON.
        software: Program and version that wrote this revision.
        lineage: Each time that committed steps were taken back, in order.
    """

    streams: tuple[StreamSpec, ...] = ()
    scalars: tuple[str, ...] = ()
    optimizer: dict[str, Any] = {}
    groups: dict[str, tuple[str, ...]] = {}
    gradient: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    software: str = ""
    lineage: tuple[Rewind, ...] = ()

    @cached_property
    def by_name(self) -> dict[str, StreamSpec]:
        """The streams by name."""
        return {stream.name: stream for stream in self.streams}

    def to_line(self, identity: Identity | None = None) -> bytes:
        """The revision as one line of UTF-8 JSON, ending in a newline.

        Args:
            identity: Whose revision it is.

        Returns:
            The line.
        """
        if identity is None:
            return msgspec.json.encode(self) + b"\n"
        revision = _Revision(**msgspec.structs.asdict(self), identity=identity)
        return msgspec.json.encode(revision) + b"\n"


class _Revision(Manifest, frozen=True):
    """A manifest as it is stored."""

    identity: Identity | None = None


class _Repeated(msgspec.Struct):
    identity: Identity | None = None


class SchemaError(ValueError):
    """A manifest that breaks a rule; ``rule`` is the rule's id and ``location`` the place."""

    def __init__(self, message: str, rule: str, location: str = "/manifest"):
        super().__init__(message)
        self.rule = rule
        self.location = location


def parse_manifest(lines: bytes) -> Manifest:
    """Parse and check the newest revision in the bytes of ``/manifest``.

    Args:
        lines: UTF-8 JSON Lines, each a whole revision, the last one in force.

    Returns:
        The newest revision, checked by `check_manifest`.

    Raises:
        SchemaError: If the bytes are not JSON of the manifest's shape or break a rule.
    """
    if not lines.endswith(b"\n"):
        raise SchemaError("the last manifest line does not end in a newline", "CORE-013")
    last = lines[:-1].rpartition(b"\n")[2]
    try:
        manifest = msgspec.json.decode(last, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SchemaError(f"the manifest is not valid: {error}", "CORE-013") from error
    check_manifest(manifest)
    return manifest


def parse_identity(lines: bytes) -> Identity | None:
    """Whose manifest it is, as its newest revision says; None if it does not.

    Args:
        lines: As `parse_manifest` has accepted them.

    Returns:
        The identity.

    Raises:
        SchemaError: If it is not of that shape.
    """
    last = lines[:-1].rpartition(b"\n")[2]
    try:
        return msgspec.json.decode(last, type=_Repeated).identity
    except msgspec.DecodeError as error:
        raise SchemaError(f"the manifest is not valid: {error}", "CORE-013") from error


def check_manifest(manifest: Manifest) -> None:
    """Check every rule that a manifest can break by itself.

    Raises:
        SchemaError: Naming the first broken rule.
    """
    _unique([stream.name for stream in manifest.streams], "stream", "STR-001")
    _unique(list(manifest.scalars), "scalar", "STR-002")
    for name in manifest.scalars:
        check_name(name, "scalar")
    for stream in manifest.streams:
        if not _STREAM_NAME.fullmatch(stream.name):
            raise SchemaError(f"{stream.name!r} is not a stream name of format 1.0", "STR-001")
        _check_tensors(stream)


def revision_problem(old: Manifest, new: Manifest) -> tuple[str, str] | None:
    """What a later revision changes that it must keep.

    Args:
        old: A revision.
        new: A later one.

    Returns:
        The stream concerned, or an empty string, and what is wrong; None if nothing is.
    """
    if [s.name for s in old.streams] != [s.name for s in new.streams]:
        return "", "streams cannot change after the first commit"
    if new.scalars[: len(old.scalars)] != old.scalars:
        return "", "scalars can only be added"
    for before, after in zip(old.streams, new.streams, strict=True):
        settled = tuple(tensor for tensor in before.tensors if tensor.first_row < NOT_YET)
        if after.tensors[: len(settled)] != settled:
            return before.name, f"tensors of {before.name!r} can only be added"
        if before.lanes.keys() != after.lanes.keys():
            return before.name, (
                f"stream {before.name!r} has lanes {', '.join(before.lanes) or 'none'} since its "
                "first commit and cannot gain another: declare a tensor of each dtype before the "
                "first append"
            )
    return None


def check_name(name: str, what: str) -> None:
    """Check that a tensor's or scalar's name is printable text of a sane length.

    Raises:
        SchemaError: If it is empty, overlong, or holds control or unprintable characters.
    """
    if not name or len(name) > _MAX_NAME or not name.isprintable():
        raise SchemaError(
            f"{what} name {name[:60]!r} is empty, longer than {_MAX_NAME} characters, "
            "or holds unprintable characters",
            "STR-003",
        )


def _check_tensors(stream: StreamSpec) -> None:
    where = f"/streams/{stream.name}"
    _unique([tensor.name for tensor in stream.tensors], f"tensor of {stream.name}", "STR-004")
    ends: dict[str, int] = {}
    joined: dict[str, int] = {}
    awaited: str | None = None
    for tensor in stream.tensors:
        check_name(tensor.name, "tensor")
        if tensor.dtype not in ITEM_SIZES:
            raise SchemaError(
                f"{tensor.name!r} has unknown dtype {tensor.dtype!r}", "DT-001", where
            )
        if min(tensor.shape, default=0) < 0 or len(tensor.shape) > 32 or tensor.first_row < 0:
            raise SchemaError(
                f"{tensor.name!r} has impossible shape or first row", "STR-005", where
            )
        expected = ends.get(tensor.dtype, 0)
        if tensor.offset != expected:
            raise SchemaError(
                f"{tensor.name!r} starts at column {tensor.offset} of lane {tensor.dtype}, "
                f"expected {expected}: columns must follow one another without holes",
                "STR-006",
                where,
            )
        if tensor.first_row < joined.get(tensor.dtype, 0):
            raise SchemaError(
                f"{tensor.name!r} joins at row {tensor.first_row}, before a tensor that lies to "
                f"its left in lane {tensor.dtype}: lanes only widen",
                "STR-007",
                where,
            )
        if tensor.first_row < NOT_YET and awaited is not None:
            raise SchemaError(
                f"{tensor.name!r} is listed after {awaited!r}, which has no row yet: such tensors "
                "come last",
                "STR-012",
                where,
            )
        if tensor.first_row >= NOT_YET:
            awaited = tensor.name
        joined[tensor.dtype] = tensor.first_row
        ends[tensor.dtype] = expected + tensor.size
        if ends[tensor.dtype] > _MAX_COLUMNS:
            raise SchemaError(f"lane {tensor.dtype} exceeds 2^48 columns", "STR-005", where)


def _unique(names: list[str], what: str, rule: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SchemaError(f"{what} {name!r} is listed twice", rule)
        seen.add(name)
