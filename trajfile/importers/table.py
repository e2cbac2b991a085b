"""From checkpoints to a manifest: which streams and tensors they make, or which of them differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.places import Place
from trajfile.importers.refusal import differs
from trajfile.schema import OPTIMIZER_PREFIX, PARAMS, StreamSpec, TensorSpec

Row = Mapping[str, Place]
Signature = tuple[tuple[str, tuple[int, ...], str], ...]


@dataclass(frozen=True)
class Table:
    """A stream made of checkpoints.

    Attributes:
        spec: Its tensors.
        steps: The step of each row.
        rows: Where each row's tensors lie.
    """

    spec: StreamSpec
    steps: tuple[int, ...]
    rows: tuple[Row, ...]


def tables(checkpoints: Sequence[Checkpoint]) -> dict[str, Table]:
    """The streams of a folder of checkpoints.

    Args:
        checkpoints: In the order of their steps.

    Returns:
        ``params``, and ``optimizer/<slot>`` for each slot that any of them holds.
    """
    check_same(checkpoints)
    made = {PARAMS: _table(PARAMS, [(c, c.params) for c in checkpoints])}
    slots = dict.fromkeys(slot for checkpoint in checkpoints for slot in checkpoint.slots)
    for slot in slots:
        held = [(c, c.slots[slot]) for c in checkpoints if c.slots.get(slot)]
        name = OPTIMIZER_PREFIX + slot
        made[name] = _table(name, held)
    return made


def check_same(checkpoints: Sequence[Checkpoint]) -> None:
    """Check that all checkpoints hold the same parameters.

    Raises:
        Damaged: Naming the first that differs from most, and how.
    """
    signatures = [_signature(checkpoint.params) for checkpoint in checkpoints]
    usual = Counter(signatures).most_common(1)[0][0]
    model = checkpoints[signatures.index(usual)]
    for checkpoint, signature in zip(checkpoints, signatures, strict=True):
        if signature != usual:
            differs(
                checkpoint.path,
                _difference(checkpoint.params, model.params, model.path.name),
                "move it elsewhere if it is of another model or run",
            )


def _table(name: str, held: Sequence[tuple[Checkpoint, Row]]) -> Table:
    specs: dict[str, TensorSpec] = {}
    ends: dict[str, int] = {}
    for row, (checkpoint, places) in enumerate(held):
        for tensor, spec in specs.items():
            if tensor not in places:
                differs(
                    checkpoint.path,
                    f"holds no {name} of {tensor!r}, as {held[row - 1][0].path.name} does",
                    "move it elsewhere if it is of another run",
                )
            place = places[tensor]
            if (place.shape, place.dtype) != (spec.shape, spec.dtype):
                differs(
                    checkpoint.path,
                    f"holds {name} of {tensor!r} as {_shown(place.shape, place.dtype)}, expected "
                    f"{_shown(spec.shape, spec.dtype)} as in {held[0][0].path.name}",
                    "move it elsewhere if it is of another run",
                )
        for tensor, place in places.items():
            if tensor not in specs:
                offset = ends.get(place.dtype, 0)
                specs[tensor] = TensorSpec(tensor, place.shape, place.dtype, offset, row)
                ends[place.dtype] = offset + specs[tensor].size
    steps = tuple(checkpoint.step or 0 for checkpoint, _ in held)
    return Table(StreamSpec(name, tuple(specs.values())), steps, tuple(row for _, row in held))


def _signature(places: Row) -> Signature:
    return tuple(sorted((name, place.shape, place.dtype) for name, place in places.items()))


def _difference(found: Row, expected: Row, model: str) -> str:
    for name, place in expected.items():
        if name not in found:
            return f"lacks the tensor {name!r}, which {model} holds"
        other = found[name]
        if (other.shape, other.dtype) != (place.shape, place.dtype):
            return (
                f"holds {name!r} as {_shown(other.shape, other.dtype)}, expected "
                f"{_shown(place.shape, place.dtype)} as in {model}"
            )
    extra = next(name for name in found if name not in expected)
    return f"holds the tensor {extra!r}, which {model} lacks"


def _shown(shape: tuple[int, ...], dtype: str) -> str:
    return f"{' × '.join(map(str, shape)) or 'scalar'} {dtype}"
