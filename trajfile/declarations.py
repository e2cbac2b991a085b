"""How a stream's table of tensors comes about, and how it grows.

The streams of a trajectory and their lanes are fixed by the first commit; tensors may join a lane
later. A tensor that is declared ahead and not recorded yet has its first row at `NOT_YET`, beyond
any row there will be, until the row is known.
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
    OPTIMIZER_PREFIX,
    OPTIMIZER_SLOTS,
    PARAMS,
    UPDATES,
    Manifest,
    StreamSpec,
    TensorSpec,
)

#: First row of a tensor that is declared but has not been recorded yet.
NOT_YET = 2**48

_SHAPED_LIKE_PARAMS = (GRADIENTS, UPDATES, GRADIENT_SAMPLES)


@dataclass(frozen=True)
class Outline:
    """Shape and dtype of a tensor's part of a row."""

    shape: tuple[int, ...]
    dtype: str


def join(stream: StreamSpec, joining: Mapping[str, Outline], first_row: int) -> StreamSpec:
    """The stream with tensors added at the end of their lanes.

    Args:
        stream: As it is.
        joining: The new tensors.
        first_row: The row from which they are recorded.

    Returns:
        The grown stream.
    """
    ends = dict(stream.lanes)
    tensors = list(stream.tensors)
    for name, outline in joining.items():
        offset = ends.get(outline.dtype, 0)
        tensor = TensorSpec(name, outline.shape, outline.dtype, offset, first_row)
        ends[outline.dtype] = offset + tensor.size
        tensors.append(tensor)
    return StreamSpec(stream.name, tuple(tensors))


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
    moved: dict[str, int] = {}
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
            moved[name] = row
    if len(found) - len(new) < len(stream.tensors):
        absent = [t.name for t in stream.tensors if t.name not in found and t.first_row <= row]
        if absent and not (row == 0 and stream.name.startswith(OPTIMIZER_PREFIX)):
            raise MissingTensor(
                f"{stream.name} at step {step}: {_some(absent)} missing; a row holds every tensor "
                "that was declared or recorded before, so append it too, or leave the stream out "
                "at this step",
                step=step,
                stream=stream.name,
                tensor=absent[0],
            )
        # Frozen parameters have no optimizer state: a slot's first row says which do.
        moved |= dict.fromkeys(absent, NOT_YET)
    if lanes_fixed:
        _check_lanes(stream, new, step)
    if moved:
        tensors = tuple(
            replace(t, first_row=moved[t.name]) if t.name in moved else t for t in stream.tensors
        )
        stream = StreamSpec(stream.name, tensors)
    return join(stream, new, row) if new else stream


def slots_like_params(manifest: Manifest) -> tuple[StreamSpec, ...]:
    """The streams that the optimizer's name promises and nobody has declared, like the params."""
    params = manifest.by_name.get(PARAMS)
    name = manifest.optimizer.get("name")
    slots = OPTIMIZER_SLOTS.get(name, ()) if isinstance(name, str) else ()
    if params is None or (name == "SGD" and not manifest.optimizer.get("momentum")):
        return ()
    outlines = {tensor.name: Outline(tensor.shape, tensor.dtype) for tensor in params.tensors}
    names = [OPTIMIZER_PREFIX + slot for slot in slots]
    return tuple(
        join(StreamSpec(stream, ()), outlines, 0)
        for stream in names
        if stream not in manifest.by_name
    )


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


def check_groups_known(manifest: Manifest, step: int) -> None:
    """Check that groups name recorded tensors.

    Args:
        manifest: The manifest.
        step: The step being appended, for messages.

    Raises:
        UnknownTensor: If a group names a tensor that ``params`` (without params: any stream)
            does not hold.
    """
    params = manifest.by_name.get(PARAMS)
    streams = manifest.streams if params is None else (params,)
    known = {tensor.name for stream in streams for tensor in stream.tensors}
    for group, names in manifest.groups.items():
        for name in names:
            if known and name not in known:
                raise UnknownTensor(
                    f"group {group!r} names tensor {name!r}, which is not among those recorded "
                    f"at step {step} ({_some(sorted(known))})",
                    step=step,
                    stream=PARAMS,
                    tensor=name,
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
