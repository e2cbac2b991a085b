"""The column dimension of a pass: strips of coordinates that are read together.

Tensors are laid end to end in the order of their leading stream (``params`` where it holds them),
and cut into strips at the borders of that stream's stored chunks, so that a chunk is read and
verified once. Another stream may lay the same tensors out in another order or dtype: a strip says
for each stream which ranges of which lane make up its columns.

Within a strip, a region is a stretch whose tensors are held by the same streams since the same
rows, so that every product either counts in all of it or in none of it.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from trajfile.dtypes import ITEM_SIZES, NATIVE
from trajfile.engine.header import Header
from trajfile.engine.rows import RowNeeds, layer_streams
from trajfile.schema import GRADIENT_SAMPLES, PARAMS, TensorSpec

#: The dtypes that PyTorch converts by itself; rows of any other are staged as float32, which
#: holds all their values.
_TORCH_KNOWS = frozenset(NATIVE) | {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
}

#: The dtypes as which rows are staged that the compiled kernels multiply.
FUSED = frozenset({"float32", "bfloat16"})


def staged_dtype(lane: str) -> str:
    """The dtype in which a lane's rows are handed to the device."""
    return lane if lane in _TORCH_KNOWS else "float32"


@dataclass(frozen=True)
class Piece:
    """A run of one tensor's elements.

    Attributes:
        tensor: The tensor.
        element: Its first element here.
        start: First column in the strip.
        stop: Column after the last.
    """

    tensor: str
    element: int
    start: int
    stop: int


@dataclass(frozen=True)
class Run:
    """Columns of a strip that are contiguous in one lane of a stream.

    Attributes:
        lane: The lane, named by its dtype.
        lane_start: First column in the lane.
        start: First column in the strip.
        stop: Column after the last.
    """

    lane: str
    lane_start: int
    start: int
    stop: int

    @property
    def row_bytes(self) -> int:
        """Bytes of one row as recorded."""
        return (self.stop - self.start) * ITEM_SIZES[self.lane]

    @property
    def staged_bytes(self) -> int:
        """Bytes of one row as staged for the device."""
        return (self.stop - self.start) * ITEM_SIZES[staged_dtype(self.lane)]


@dataclass(frozen=True)
class Region:
    """A stretch of a strip whose tensors the same streams hold since the same rows.

    Attributes:
        pieces: Its pieces, one after another.
        first_rows: For each stream that holds them and is read, the first recorded row that does.
    """

    pieces: tuple[Piece, ...]
    first_rows: Mapping[str, int]

    @property
    def start(self) -> int:
        """First column in the strip."""
        return self.pieces[0].start

    @property
    def stop(self) -> int:
        """Column after the last."""
        return self.pieces[-1].stop

    def between(self, start: int, stop: int) -> tuple[Piece, ...]:
        """The pieces that have columns in [start, stop); there may be thousands of others."""
        first = bisect_right(self.pieces, start, key=lambda piece: piece.stop)
        last = bisect_left(self.pieces, stop, key=lambda piece: piece.start)
        return self.pieces[first:last]


@dataclass(frozen=True)
class Strip:
    """Columns that are read together.

    Attributes:
        columns: How many.
        regions: Its regions, one after another.
        runs: For each stream to read, where its columns lie.
    """

    columns: int
    regions: tuple[Region, ...]
    runs: Mapping[str, tuple[Run, ...]]

    def row_bytes(self, stream: str) -> int:
        """Bytes of one row of a stream within the strip, as recorded."""
        return sum(run.row_bytes for run in self.runs.get(stream, ()))

    def staged_bytes(self, stream: str) -> int:
        """Bytes of one row of a stream within the strip, as staged for the device."""
        return sum(run.staged_bytes for run in self.runs.get(stream, ()))


@dataclass(frozen=True)
class PlacedTensor:
    """A tensor that is read.

    Attributes:
        name: Its name.
        specs: What it is in each stream that it is read from; the first of them leads.
    """

    name: str
    specs: Mapping[str, TensorSpec]

    @property
    def leader(self) -> str:
        """The leading stream."""
        return next(iter(self.specs))

    @property
    def spec(self) -> TensorSpec:
        """What it is in the leading stream."""
        return self.specs[self.leader]


def streams_to_read(header: Header, rows: RowNeeds, tensor: str) -> tuple[str, ...]:
    """The streams from which a tensor must be read, leading stream first.

    Args:
        header: The selected part of the run.
        rows: The reduced needs.
        tensor: The tensor.

    Returns:
        Their names; a stream whose only partners in products do not hold the tensor is left out.
    """
    wanted: set[str] = set()
    for pair in rows.pairs:
        both = {rows.tracks[rows.sequences[side].track].stream for side in (pair.left, pair.right)}
        if all(tensor in header.tensors[stream] for stream in both):
            wanted |= both
    if rows.samples and tensor in header.tensors[GRADIENT_SAMPLES]:
        wanted.add(GRADIENT_SAMPLES)
    for need in rows.layers:
        if tensor in {need.first, need.second}:
            wanted.update(layer_streams(need))
    return tuple(stream for stream in _leading_first(header) if stream in wanted)


def _leading_first(header: Header) -> list[str]:
    """The streams in recorded order, but ``params`` ahead of all."""
    return sorted(header.tensors, key=lambda stream: stream != PARAMS)


def cut_strips(
    header: Header, rows: RowNeeds, chunk_columns: Callable[[str, str], int], width: int
) -> Iterator[Strip]:
    """Cut the columns that are needed into strips of about `width`.

    Args:
        header: The selected part of the run.
        rows: The reduced needs.
        chunk_columns: Width of a stored chunk of a stream's lane.
        width: Most columns of a strip. Where a chunk is wider it is cut evenly; where it is
            narrower, whole chunks are joined.

    Yields:
        The strips, in order.
    """
    gathered: list[tuple[PlacedTensor, int, int]] = []  # tensor, first and last element
    columns = 0
    for cell in _cells(placed_tensors(header, rows), chunk_columns, width):
        size = sum(stop - start for _, start, stop in cell)
        leads = (cell[0][0].leader, cell[0][0].spec.dtype)
        if gathered and (
            columns + size > width or leads != (gathered[0][0].leader, gathered[0][0].spec.dtype)
        ):
            yield _strip(gathered)
            gathered, columns = [], 0
        gathered += cell
        columns += size
    if gathered:
        yield _strip(gathered)


def placed_tensors(header: Header, rows: RowNeeds) -> list[PlacedTensor]:
    """The tensors to read, in the order of their leading stream's lanes and columns."""
    names = dict.fromkeys(name for held in header.tensors.values() for name in held)
    placed = []
    for name in names:
        streams = streams_to_read(header, rows, name)
        if streams and any(header.tensors[stream][name].size for stream in streams):
            placed.append(PlacedTensor(name, {s: header.tensors[s][name] for s in streams}))
    order = {stream: number for number, stream in enumerate(_leading_first(header))}
    return sorted(placed, key=lambda p: (order[p.leader], p.spec.dtype, p.spec.offset))


def _cells(
    placed: list[PlacedTensor], chunk_columns: Callable[[str, str], int], width: int
) -> Iterator[list[tuple[PlacedTensor, int, int]]]:
    """Group the tensors' elements by the smallest part of the leading lane that is read at once."""
    cell: list[tuple[PlacedTensor, int, int]] = []
    current: tuple[str, str, int] | None = None
    for tensor in placed:
        spec = tensor.spec
        chunk = max(1, chunk_columns(tensor.leader, spec.dtype))
        parts = -(-chunk // width)
        at = 0
        while at < spec.size:
            column = spec.offset + at
            base, inside = column // chunk * chunk, column % chunk
            part = inside * parts // chunk
            end = base + -(-(part + 1) * chunk // parts)
            stop = min(spec.size, at + end - column)
            key = tensor.leader, spec.dtype, end
            if cell and key != current:
                yield cell
                cell = []
            current = key
            cell.append((tensor, at, stop))
            at = stop
    if cell:
        yield cell


def _strip(parts: list[tuple[PlacedTensor, int, int]]) -> Strip:
    regions: list[Region] = []
    pieces: list[Piece] = []
    signature: dict[str, int] = {}
    runs: dict[str, list[Run]] = {}
    column = 0
    for tensor, start, stop in parts:
        piece = Piece(tensor.name, start, column, column + stop - start)
        first_rows = {stream: spec.first_row for stream, spec in tensor.specs.items()}
        if pieces and first_rows != signature:
            regions.append(Region(tuple(pieces), signature))
            pieces = []
        signature = first_rows
        last = pieces[-1] if pieces else None
        if last and last.tensor == tensor.name and last.element + last.stop - last.start == start:
            pieces[-1] = Piece(tensor.name, last.element, last.start, piece.stop)
        else:
            pieces.append(piece)
        for stream, spec in tensor.specs.items():
            _extend(runs.setdefault(stream, []), spec, piece)
        column = piece.stop
    regions.append(Region(tuple(pieces), signature))
    return Strip(column, tuple(regions), {s: tuple(r) for s, r in runs.items()})


def _extend(runs: list[Run], spec: TensorSpec, piece: Piece) -> None:
    """Add a piece to a stream's runs, joining it to the last where they touch in the lane."""
    lane_start = spec.offset + piece.element
    if runs:
        last = runs[-1]
        touches = last.lane_start + last.stop - last.start == lane_start
        if last.lane == spec.dtype and last.stop == piece.start and touches:
            runs[-1] = Run(last.lane, last.lane_start, last.start, piece.stop)
            return
    runs.append(Run(spec.dtype, lane_start, piece.start, piece.stop))
