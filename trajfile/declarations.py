"""How a stream's table of tensors comes about, and how it grows.

The streams of a trajectory and their lanes are fixed by the first commit; tensors may join a lane
later. What an optimizer keeps for each parameter can only be guessed ahead (frozen ones have no
state), so the tensors of a slot declared ahead wait at `NOT_YET`, behind those that are recorded,
until a row holds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from trajfile.dtypes import ITEM_SIZES
from trajfile.errors import MissingTensor, RecordError, ShapeMismatch, UnknownTensor
from trajfile.schema import (
    GRADIENT_SAMPLES,
    GRADIENTS,
    NOT_YET,
    OPTIMIZER_PREFIX,
    OPTIMIZER_SLOTS,
    PARAMS,
    UPDATES,
    Manifest,
    StreamSpec,
    TensorSpec,
)

_SHAPED_LIKE_PARAMS = (GRADIENTS, UPDATES, GRADIENT_SAMPLES)


@dataclass(frozen=True)
class Outline:
    """Shape and dtype of a tensor's part of a row."""

    shape: tuple[int, ...]
    dtype: str


def declared(name: str, outlines: Mapping[str, Outline]) -> StreamSpec:
    """A stream as it is declared ahead of its first row.

    Args:
        name: Its name.
        outlines: Its tensors.

    Returns:
        The stream; in an optimizer slot every tensor waits for the first row that holds it.
    """
    first_row = NOT_YET if name.startswith(OPTIMIZER_PREFIX) else 0
    return _laid_out(
        name, [TensorSpec(n, o.shape, o.dtype, 0, first_row) for n, o in outlines.items()]
    )


def _laid_out(name: str, tensors: list[TensorSpec]) -> StreamSpec:
    """The tensors one after another in their lanes, those not recorded yet last."""
    ends: dict[str, int] = {}
    placed = []
    for tensor in sorted(tensors, key=lambda tensor: tensor.first_row == NOT_YET):
        offset = ends.get(tensor.dtype, 0)
        ends[tensor.dtype] = offset + tensor.size
        placed.append(tensor if tensor.offset == offset else replace(tensor, offset=offset))
    return StreamSpec(name, tuple(placed))


def take_row(
    stream: StreamSpec, found: Mapping[str, Outline], row: int, step: int, *, lanes_fixed: bool
) -> StreamSpec:
    """The stream's table once it holds one more row, after checking that the row fits.

    Args:
        stream: As it is.
        found: The tensors of the new row.
        row: Its index.
        step: Its step, for messages.
        lanes_fixed: Whether the first commit has been made.

    Returns:
        The same object if nothing changes.

    Raises:
        ShapeMismatch: If a tensor's shape or dtype is not the declared one.
        MissingTensor: If the row lacks a tensor that it must hold.
        RecordError: If a new tensor's dtype has no lane.
    """
    new: dict[str, Outline] = {}
    waited: set[str] = set()
    for name, outline in found.items():
        tensor = stream.by_name.get(name)
        if tensor is None:
            new[name] = outline
        elif (tensor.shape, tensor.dtype) != (outline.shape, outline.dtype):
            raise ShapeMismatch(
                f"{stream.name} at step {step}: tensor {name!r} is {outline.dtype} of shape "
                f"{outline.shape}, expected {tensor.dtype} of shape {tensor.shape} as declared",
                step=step,
                stream=stream.name,
                tensor=name,
            )
        elif tensor.first_row > row:
            waited.add(name)
    if len(found) - len(new) < len(stream.tensors):
        _check_complete(stream, found, row, step)
    if lanes_fixed:
        _check_lanes(stream, new, step)
    if not new and not waited:
        return stream
    # Those that waited follow the settled ones in their old order, the new ones come after.
    settled = [t for t in stream.tensors if t.first_row <= row]
    arrived = [replace(t, first_row=row) for t in stream.tensors if t.name in waited]
    joined = [TensorSpec(name, o.shape, o.dtype, 0, row) for name, o in new.items()]
    waiting = [t for t in stream.tensors if t.first_row > row and t.name not in waited]
    return _laid_out(stream.name, [*settled, *arrived, *joined, *waiting])


def slots_like_params(manifest: Manifest) -> tuple[StreamSpec, ...]:
    """The streams that the optimizer's name promises and nobody has declared, like the params."""
    params = manifest.by_name.get(PARAMS)
    name = manifest.optimizer.get("name")
    slots = OPTIMIZER_SLOTS.get(name, ()) if isinstance(name, str) else ()
    if params is None or (name == "SGD" and not manifest.optimizer.get("momentum")):
        return ()
    outlines = {tensor.name: Outline(tensor.shape, tensor.dtype) for tensor in params.tensors}
    names = [OPTIMIZER_PREFIX + slot for slot in slots]
    return tuple(declared(stream, outlines) for stream in names if stream not in manifest.by_name)


def check_against_params(stream: StreamSpec, params: StreamSpec, step: int) -> None:
    """Check that a stream speaks of the parameters, and of their shapes where it must.

    Args:
        stream: Any stream but ``params``.
        params: The parameters.
        step: The step being appended, for messages.

    Raises:
        UnknownTensor: If ``params`` does not hold a tensor of the stream.
        ShapeMismatch: If gradients or updates of a tensor have another shape than it has.
    """
    for tensor in stream.tensors:
        param = params.by_name.get(tensor.name)
        if param is None:
            raise UnknownTensor(
                f"{stream.name} at step {step}: tensor {tensor.name!r} is not among the recorded "
                f"params ({_some([t.name for t in params.tensors])}); record it there too, or "
                "leave it out",
                step=step,
                stream=stream.name,
                tensor=tensor.name,
            )
        if stream.name in _SHAPED_LIKE_PARAMS and tensor.shape != param.shape:
            raise ShapeMismatch(
                f"{stream.name} at step {step}: tensor {tensor.name!r} has shape {tensor.shape}, "
                f"expected {param.shape} as in params",
                step=step,
                stream=stream.name,
                tensor=tensor.name,
            )


def _check_complete(stream: StreamSpec, found: Mapping[str, Outline], row: int, step: int) -> None:
    absent = [t.name for t in stream.tensors if t.name not in found and t.first_row <= row]
    if absent:
        raise MissingTensor(
            f"{stream.name} at step {step}: {_some(absent)} missing; a row holds every tensor "
            "that was declared or recorded before, so append it too, or leave the stream out at "
            "this step",
            step=step,
            stream=stream.name,
            tensor=absent[0],
        )


def _check_lanes(stream: StreamSpec, new: Mapping[str, Outline], step: int) -> None:
    for name, outline in new.items():
        if outline.dtype not in stream.lanes:
            has = ", ".join(lane for lane in ITEM_SIZES if lane in stream.lanes)
            raise RecordError(
                f"{stream.name} at step {step}: tensor {name!r} is {outline.dtype}, but the stream "
                f"has only {has or 'no lanes'} since the first commit; record it in one of those, "
                f"or declare a tensor of that dtype before the first append",
                step=step,
                stream=stream.name,
                tensor=name,
            )


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:4])
    return shown + (f" and {len(names) - 4} more" if len(names) > 4 else "")
