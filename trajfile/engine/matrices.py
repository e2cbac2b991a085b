"""The matrix imbalance of adjacent layers, which inner products of flat rows cannot give.

The two tensors of a pair are collected at the rows of the pair's timeline as their strips come by,
in the dtype they were recorded in, and multiplied in float64 when the pass is over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from trajfile.dtypes import ITEM_SIZES, numpy_dtype
from trajfile.engine.budget import format_bytes
from trajfile.engine.header import Header
from trajfile.engine.measurements import LayerBalance
from trajfile.engine.needs import LayerPair, Need
from trajfile.engine.rows import Index, layer_streams, positions_of
from trajfile.schema import GRADIENTS, PARAMS, TensorSpec

if TYPE_CHECKING:
    import torch

#: Memory for several steps of a pair at once: calls cost more than small matrices.
BATCH_BYTES = 2**22


def layer_bytes(header: Header, needs: Iterable[LayerPair]) -> int:
    """Bytes that collecting and multiplying the matrices of several pairs takes.

    Args:
        header: The selected part of the run.
        needs: The pairs.

    Returns:
        The collected rows of every distinct tensor, and the float64 matrices of a step of the
        largest pair.
    """
    collected = sum(
        len(positions) * header.tensors[stream][name].size * _item(header, stream, name)
        for (stream, name), positions in wanted_rows(header, needs).items()
    )
    working = 0
    for need in needs:
        first, second = (header.tensors[PARAMS][name] for name in (need.first, need.second))
        working = max(working, _working(first, second))
    return collected + working


def _working(first: TensorSpec, second: TensorSpec) -> int:
    """Bytes that a step of a pair takes while it is multiplied."""
    # Two matrices in float64; D(i), D(i+1), E(i), and products on their way to one of them.
    return int(8 * (first.size + second.size + 6 * first.shape[0] ** 2))


def _item(header: Header, stream: str, name: str) -> int:
    return ITEM_SIZES[header.tensors[stream][name].dtype]


def wanted_rows(header: Header, needs: Iterable[LayerPair]) -> dict[tuple[str, str], Index]:
    """For each (stream, tensor) the positions of the rows to collect, increasing, int64."""
    wanted: dict[tuple[str, str], Index] = {}
    for need in needs:
        steps = header.timeline_steps(need.timeline)
        for stream in layer_streams(need):
            positions = positions_of(header.steps[stream], steps)
            for name in (need.first, need.second):
                before = wanted.get((stream, name), np.empty(0, np.int64))
                wanted[stream, name] = np.union1d(before, positions)
    return wanted


def affordable_layers(
    header: Header, needs: Iterable[Need], share: int
) -> tuple[list[Need], dict[Need, str]]:
    """Leave out the layer pairs that do not fit a share of the memory, dearest first.

    Args:
        header: The selected part of the run.
        needs: What the metrics declared.
        share: Bytes that all layer pairs together may take.

    Returns:
        The needs that are kept, and those refused, each with the reason in one sentence.
    """
    kept = [need for need in needs if not isinstance(need, LayerPair)]
    pairs = [need for need in needs if isinstance(need, LayerPair)]
    refused: dict[Need, str] = {}
    accepted: list[LayerPair] = []
    for need in sorted(pairs, key=lambda need: (layer_bytes(header, [need]), repr(need))):
        size = layer_bytes(header, [*accepted, need])
        if size <= share:
            accepted.append(need)
        else:
            refused[need] = (
                f"its matrices would bring those held to {format_bytes(size)}, more than a "
                f"quarter of the memory ({format_bytes(share)})."
            )
    return [*kept, *accepted], refused


class Collector:
    """Gathers whole tensors at chosen rows from the tiles of a pass, or of a part of one.

    Args:
        header: The selected part of the run.
        needs: The pairs whose tensors are gathered.
        within: For each tensor that a part of a pass meets, its first element there and that
            after the last; None if all of them are met.
    """

    def __init__(
        self,
        header: Header,
        needs: Iterable[LayerPair],
        within: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self._rows = wanted_rows(header, needs)
        self._held: dict[tuple[str, str], NDArray[np.generic]] = {}
        self._starts: dict[str, int] = {}
        for (stream, name), positions in self._rows.items():
            spec = header.tensors[stream][name]
            start, stop = (0, spec.size) if within is None else within.get(name, (0, 0))
            if within is not None and start == stop:
                continue
            self._starts[name] = start
            self._held[stream, name] = np.zeros(
                (len(positions), stop - start), numpy_dtype(spec.dtype)
            )

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(array.nbytes for array in self._held.values())

    def wants(self, stream: str, tensor: str) -> bool:
        """Whether rows of this tensor are gathered."""
        return (stream, tensor) in self._held

    def wants_rows(self, stream: str, tensor: str, positions: Index) -> NDArray[np.bool_]:
        """Which rows of a tensor that is gathered are, by their positions, each of them once."""
        return np.isin(positions, self._rows[stream, tensor], assume_unique=True)

    def gather(
        self,
        stream: str,
        tensor: str,
        element: int,
        positions: Index,
        rows: Index,
        values: NDArray[np.generic],
    ) -> None:
        """Take what is wanted from a piece of a tile.

        Args:
            stream: The stream.
            tensor: The tensor.
            element: The piece's first element of the tensor.
            positions: Positions of the rows at hand, each once.
            rows: Where in `values` each of them is.
            values: The piece, shape (rows, elements), in the recorded dtype.
        """
        wanted = self._rows[stream, tensor]
        _, into, found = np.intersect1d(wanted, positions, assume_unique=True, return_indices=True)
        first = element - self._starts[tensor]
        self._held[stream, tensor][into, first : first + values.shape[1]] = values[rows[found]]

    def take(self, other: Collector) -> None:
        """Take what was gathered in a part of the pass.

        Args:
            other: Of the same needs.
        """
        for (stream, name), values in other._held.items():
            first = other._starts[name] - self._starts[name]
            self._held[stream, name][:, first : first + values.shape[1]] = values

    def matrices(self, stream: str, tensor: str, positions: Index) -> NDArray[np.float64]:
        """Gathered rows of a tensor, each flat, as float64, shape (positions, elements)."""
        rows = np.searchsorted(self._rows[stream, tensor], positions)
        flat: NDArray[np.float64] = self._held[stream, tensor][rows].astype(np.float64)
        return flat


def balance(
    header: Header,
    need: LayerPair,
    collected: Collector,
    recorded: Mapping[str, Index],
    device: torch.device,
    memory: int,
) -> LayerBalance:
    """The imbalance D = W_2' W_2 - W_1 W_1' at each step of a pair's timeline.

    Args:
        header: The selected part of the run.
        need: The pair.
        collected: Its tensors at the timeline's rows.
        recorded: For each stream the recorded row of each selected row.
        device: Where to multiply.
        memory: Bytes for collecting and multiplying; at least `layer_bytes` of all pairs.

    Returns:
        Norms, largest diagonal entry, trace and residual of the law, all float64.
    """
    import torch

    steps = header.timeline_steps(need.timeline)
    at = {s: positions_of(header.steps[s], steps) for s in layer_streams(need)}
    values = np.full((len(steps), 5), np.nan)

    def imbalance(stream: str, index: Index) -> torch.Tensor:
        first, second = (
            torch.from_numpy(collected.matrices(stream, name, at[stream][index]))
            .reshape(-1, *header.tensors[stream][name].shape)
            .to(device)
            for name in (need.first, need.second)
        )
        return second.mT @ second - first @ first.mT

    def exist(stream: str) -> NDArray[np.bool_]:
        tensors = header.tensors[stream]
        first_row = max(tensors[need.first].first_row, tensors[need.second].first_row)
        return np.asarray(recorded[stream][at[stream]] >= first_row)

    def norms(matrices: torch.Tensor) -> NDArray[np.float64]:
        return np.asarray(torch.linalg.vector_norm(matrices, dim=(1, 2)).cpu())

    there = np.flatnonzero(exist(PARAMS))
    ruled = np.zeros(len(steps), bool)
    if need.law is not None:
        known = [None not in pair for pair in zip(need.law.keep, need.law.gain, strict=True)]
        keep, gain = (np.array(side, np.float64) for side in (need.law.keep, need.law.gain))
        ruled = np.array(known, bool) & exist(GRADIENTS)
        ruled[-1:] = False  # nothing follows
    specs = [header.tensors[PARAMS][name] for name in (need.first, need.second)]
    height = max(1, (memory - collected.nbytes) // _working(specs[0], specs[1]))
    following: torch.Tensor | None = None
    for stop in range(len(there), 0, -height):
        index = there[max(0, stop - height) : stop]
        current = imbalance(PARAMS, index)
        diagonal = torch.diagonal(current, dim1=1, dim2=2)
        values[index, 0] = norms(current)
        if diagonal.shape[1]:
            values[index, 1] = diagonal.abs().amax(1).cpu()
        else:
            values[index, 1] = 0
        values[index, 2] = diagonal.sum(1).cpu()
        after = current[1:] if following is None else torch.cat([current[1:], following])
        some = np.flatnonzero(ruled[index[: len(after)]])
        if len(some):
            law = [torch.from_numpy(x[index[some]])[:, None, None].to(device) for x in (keep, gain)]
            chosen = torch.from_numpy(some).to(device)
            now, then = current[chosen], after[chosen]
            residual = then - law[0] * now - law[1] * imbalance(GRADIENTS, index[some])
            values[index[some], 3] = norms(residual)
            values[index[some], 4] = norms(then - now)
        following = current[:1]
    return LayerBalance(steps, *values.T.copy())
