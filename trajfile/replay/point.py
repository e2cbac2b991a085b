"""A recorded snapshot as tensors, as the user's loss is given it."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from trajfile.containers.base import Array
from trajfile.dtypes import EXTENDED
from trajfile.engine.header import Header
from trajfile.engine.needs import Timeline
from trajfile.errors import UsageError
from trajfile.reader import Trajectory
from trajfile.schema import PARAMS, TensorSpec


def differentiable(header: Header, name: str) -> dict[str, TensorSpec]:
    """The selected tensors of `params` that a loss can be differentiated by.

    Args:
        header: The selected part of the run.
        name: The factory, for the message.

    Returns:
        Those of float dtype, by name.

    Raises:
        UsageError: If there are none.
    """
    tensors = header.tensors.get(PARAMS, {})
    chosen = {n: t for n, t in tensors.items() if t.dtype.startswith(("float", "bfloat"))}
    if not chosen:
        raise UsageError(f"--replay {name}: no tensor of params with a float dtype is selected")
    return chosen


def whole_steps(
    trajectory: Trajectory, header: Header, along: tuple[str, ...] = (PARAMS,)
) -> NDArray[np.int64]:
    """The selected steps at which every tensor of some streams was recorded.

    Args:
        trajectory: The run.
        header: Its selected part.
        along: The streams.

    Returns:
        int64, increasing.
    """
    steps = header.timeline_steps(Timeline(along))
    views = [trajectory[stream] for stream in along]
    joined = [int(rows.steps[0]) for view in views for rows in view.values() if len(rows)]
    return steps[steps >= max(joined, default=0)]


def tensors_at(
    trajectory: Trajectory, step: int, device: str, *, float64: bool
) -> dict[str, torch.Tensor]:
    """All tensors of `params` at a step.

    Args:
        trajectory: The run.
        step: A step that holds them all.
        device: Where they shall lie.
        float64: Whether those of float dtype are promoted.

    Returns:
        By name, as recorded; those below float32 in float32, whose derivatives are worth taking.
    """
    view = trajectory[PARAMS]
    return {
        name: _tensor(rows.at(step), device, float64) for name, rows in view.items() if len(rows)
    }


def _tensor(array: Array, device: str, float64: bool) -> torch.Tensor:
    name = array.dtype.name
    if name in EXTENDED or name == "float16":
        array = array.astype(np.float32)
    tensor = torch.from_numpy(np.array(array))
    if float64 and tensor.is_floating_point():
        tensor = tensor.double()
    return tensor.to(device)
