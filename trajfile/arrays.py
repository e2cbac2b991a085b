"""From the arrays people have to NumPy arrays of the same bits.

Frameworks agree on NumPy's array protocol and on DLPack, but neither carries bfloat16 or float8 out
of PyTorch, whose tensors are therefore seen as integers of their size and renamed. Nothing here
changes a value: what has no dtype in the dtype table is refused, not converted.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from typing import Any

import numpy as np

from trajfile.containers.base import Array
from trajfile.dtypes import ITEM_SIZES, NATIVE, dtype_name, numpy_dtype

_CONVERSION_FAILURES = (TypeError, ValueError, RuntimeError, BufferError, AttributeError)


def as_array(value: object) -> Array:
    """The value as a little-endian NumPy array, bit for bit; host memory is shared, not copied.

    Args:
        value: A NumPy array or scalar, a PyTorch tensor on any device, or anything with
            ``__array__`` or ``__dlpack__`` (JAX, TensorFlow, MLX, CuPy).

    Returns:
        An array of the same shape in a dtype of the dtype table; possibly not contiguous.

    Raises:
        TypeError: If it is not an array, cannot be brought to the host, or has a dtype that a
            lane cannot hold (bool, complex, object, text, ...).
    """
    if type(value) is np.ndarray and _as_it_is(value.dtype):
        return value
    if _is_torch(value):
        return _from_torch(value)
    array = value if isinstance(value, np.ndarray) else _from_protocol(value)
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError("it is a masked array, whose mask a lane cannot hold; pass filled values")
    if dtype_name(array.dtype) is None:
        raise TypeError(_refusal(str(array.dtype)))
    little = array.dtype.newbyteorder("<")
    return array if array.dtype == little else array.byteswap().view(little)


@lru_cache(maxsize=256)
def _as_it_is(dtype: np.dtype[np.generic]) -> bool:
    return dtype_name(dtype) is not None and dtype == dtype.newbyteorder("<")


def _is_torch(value: object) -> bool:
    tensor_type = getattr(sys.modules.get("torch"), "Tensor", None)
    return tensor_type is not None and isinstance(value, tensor_type)


def _from_protocol(value: object) -> Array:
    if not hasattr(value, "__array__") and not hasattr(value, "__dlpack__"):
        raise TypeError(
            f"a {type(value).__name__} is not an array; pass a NumPy array, a tensor, or anything "
            "with __array__ or __dlpack__"
        )
    # __array__ first: it is the one that carries ml_dtypes. Where it fails (it may refuse to
    # leave a device), DLPack can be asked for a copy on the host.
    try:
        if hasattr(value, "__array__"):
            return np.asarray(value)
    except _CONVERSION_FAILURES as error:
        if not hasattr(value, "__dlpack__"):
            raise TypeError(f"{type(value).__name__}.__array__ failed: {error}") from error
    source: Any = value
    try:
        return np.from_dlpack(source, device="cpu")
    except _CONVERSION_FAILURES as error:
        raise TypeError(f"{type(value).__name__}.__dlpack__ failed: {error}") from error


def _from_torch(value: Any) -> Array:
    import torch  # the caller holds a tensor: it is loaded already

    name = str(value.dtype).removeprefix("torch.")
    if name not in ITEM_SIZES:
        raise TypeError(_refusal(str(value.dtype)))
    try:
        host = _on_host(value.detach().resolve_neg())
        if name not in NATIVE:
            host = host.view(torch.uint8 if ITEM_SIZES[name] == 1 else torch.int16)
        array: Array = host.numpy()
    except _CONVERSION_FAILURES as error:
        raise TypeError(
            f"a {type(value).__name__} of layout {value.layout} on {value.device} cannot be "
            f"brought to the host as a dense array: {error}"
        ) from error
    return array if name in NATIVE else array.view(numpy_dtype(name))


def _on_host(value: Any) -> Any:
    """A tensor in the host's memory; itself if it is there."""
    import torch

    if value.device.type != "cuda" or value.layout != torch.strided:
        return value.cpu()
    # Pinned memory takes a copy at the speed of the bus, and PyTorch keeps it for the next one;
    # fresh memory that is not would have to be cleared page by page first.
    host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
    return host.copy_(value)


def _refusal(dtype: str) -> str:
    return (
        f"dtype {dtype} cannot be recorded, expected one of {', '.join(ITEM_SIZES)}; "
        "convert it yourself if that is what you mean"
    )


def as_number(value: object) -> float:
    """A scalar to record: a Python number, or an array or tensor without axes, as float64.

    Args:
        value: Anything that `float` takes, except text and arrays with axes.

    Returns:
        The number; every NaN becomes the one NaN that `math.nan` is, so that none can be
        mistaken for the mark of an absent value.

    Raises:
        TypeError: If it is not a single real number.
    """
    shape = tuple(getattr(value, "shape", ()))
    if shape or isinstance(value, (str, bytes, bytearray)):
        found = f"an array of shape {shape}" if shape else repr(value)
        raise TypeError(f"expected a single number, found {found}")
    source: Any = value
    if "complex" in str(getattr(value, "dtype", "")):
        raise TypeError(f"expected a single real number, found dtype {source.dtype}")
    if _is_torch(value):
        source = source.detach()  # a loss comes with its graph, and PyTorch warns about that
    try:
        number = float(source)
    except (*_CONVERSION_FAILURES, OverflowError) as error:
        raise TypeError(
            f"expected a single number, found a {type(value).__name__}: {error}"
        ) from error
    return float("nan") if number != number else number
