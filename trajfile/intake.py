"""What a caller passes to `append`, turned into steps, arrays and numbers, or refused by name."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from typing import TypeAlias

from trajfile.arrays import as_array, as_number
from trajfile.containers.base import Array
from trajfile.errors import RecordError, ShapeMismatch, UsageError
from trajfile.schema import GRADIENT_SAMPLES, OPTIMIZER_PREFIX

Given: TypeAlias = Mapping[str, object]
"""Tensors as the caller has them, by name; None stands for an absent one."""


def step_number(step: object) -> int:
    """A step as an int.

    Args:
        step: Anything that is a whole number; not a bool.

    Returns:
        The step, from 0 to 2^63 - 1.

    Raises:
        RecordError: If it is not one.
    """
    try:
        at = operator.index(step)  # type: ignore[arg-type]  # this is the check
    except TypeError:
        at = -1
    if isinstance(step, bool) or not 0 <= at < 2**63:
        raise RecordError(f"step {step!r} is not a step: expected a whole number from 0 to 2^63-1")
    return at


def check_resume_step(step: object, mode: str) -> None:
    """Check the step from which a file is to be recorded anew.

    Args:
        step: The step.
        mode: How the file is opened.

    Raises:
        UsageError: If it is not a step, or the file is not continued.
    """
    if mode != "a":
        raise UsageError(f"resume_step={step!r} continues a file: pass mode='a', not {mode!r}")
    try:
        step_number(step)
    except RecordError as error:
        raise UsageError(
            f"resume_step is {step!r}, expected a whole number from 0 to 2^63-1"
        ) from error


def is_empty(given: object) -> bool:
    """Whether a stream is left out of an append."""
    return given is None or (isinstance(given, Mapping) and not given)


def slot_streams(optimizer: object, step: int) -> dict[str, Given | None]:
    """The optimizer's slots as streams.

    Args:
        optimizer: What the caller passed: tensors by slot; None stands for no slots.
        step: The step, for messages.

    Returns:
        What was passed for each slot, by the stream's name.

    Raises:
        RecordError: If it is not a mapping.
    """
    if not isinstance(optimizer, Mapping | None):
        raise RecordError(
            f"optimizer at step {step}: expected slots, each a mapping of tensor names to "
            f"arrays, found a {type(optimizer).__name__}",
            step=step,
            stream="optimizer",
        )
    return {OPTIMIZER_PREFIX + str(slot): row for slot, row in (optimizer or {}).items()}


def named_arrays(stream: str, given: object, step: int | None) -> dict[str, Array]:
    """One stream's tensors as NumPy arrays.

    Args:
        stream: The stream, for messages.
        given: What the caller passed.
        step: The step, for messages; None outside of an append.

    Returns:
        By tensor name, see `trajfile.arrays.as_array`; absent ones left out.

    Raises:
        RecordError: If it is not a mapping of texts to arrays that a lane can hold.
    """
    where = stream if step is None else f"{stream} at step {step}"
    if not isinstance(given, Mapping):
        raise RecordError(
            f"{where}: expected a mapping of tensor names to arrays, such as "
            f"dict(model.named_parameters()), found a {type(given).__name__}",
            step=step,
            stream=stream,
        )
    arrays = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise RecordError(
                f"{where}: tensor name {name!r} is not a text", step=step, stream=stream
            )
        if value is None:
            continue
        try:
            arrays[name] = as_array(value)
        except TypeError as error:
            raise RecordError(
                f"{where}: tensor {name!r} cannot be recorded: {error}",
                step=step,
                stream=stream,
                tensor=name,
            ) from error
    return arrays


def named_numbers(given: object, step: int) -> dict[str, float]:
    """Scalars as Python floats.

    Args:
        given: What the caller passed.
        step: The step, for messages.

    Returns:
        By name; absent ones left out.

    Raises:
        RecordError: If it is not a mapping of texts to single real numbers.
    """
    if not isinstance(given, Mapping):
        raise RecordError(
            f"scalars at step {step}: expected a mapping of names to numbers, found a "
            f"{type(given).__name__}",
            step=step,
        )
    numbers = {}
    for name, value in given.items():
        if not isinstance(name, str):
            raise RecordError(f"scalars at step {step}: name {name!r} is not a text", step=step)
        if value is None:
            continue
        try:
            numbers[name] = as_number(value)
        except TypeError as error:
            raise RecordError(
                f"scalar {name!r} at step {step} cannot be recorded: {error}", step=step
            ) from error
    return numbers


def sample_count(samples: Mapping[str, Array], step: int) -> int:
    """The number of gradient samples, which all tensors must share.

    Args:
        samples: For each tensor an array of shape (L, *shape).
        step: The step, for messages.

    Returns:
        L; 0 without tensors.

    Raises:
        ShapeMismatch: If a tensor has another L, or none.
    """
    counts = {name: array.shape[0] if array.ndim else 0 for name, array in samples.items()}
    expected = next(iter(counts.values()), 0)
    for name, count in counts.items():
        if count < 1 or count != expected:
            raise ShapeMismatch(
                f"{GRADIENT_SAMPLES} at step {step}: tensor {name!r} has shape "
                f"{samples[name].shape}, expected (samples, ...) with "
                f"{expected or 'at least 1'} samples along the first axis",
                step=step,
                stream=GRADIENT_SAMPLES,
                tensor=name,
            )
    return expected
