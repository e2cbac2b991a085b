"""The dtypes a lane may have, and how each is named, sized and viewed in NumPy.

A lane is named after its dtype. NumPy knows the IEEE floats and the integers; ml_dtypes adds the
low-precision ones. Importing ml_dtypes is put off until one of those is met.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

#: Dtypes that NumPy itself knows: name -> item size in bytes.
NATIVE: dict[str, int] = {
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}

#: Dtypes that ml_dtypes defines: name -> item size in bytes (sub-byte types occupy a whole byte).
EXTENDED: dict[str, int] = {
    "bfloat16": 2,
    "float8_e3m4": 1,
    "float8_e4m3": 1,
    "float8_e4m3b11fnuz": 1,
    "float8_e4m3fn": 1,
    "float8_e4m3fnuz": 1,
    "float8_e5m2": 1,
    "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1,
    "float6_e2m3fn": 1,
    "float6_e3m2fn": 1,
    "float4_e2m1fn": 1,
    "int2": 1,
    "int4": 1,
    "uint2": 1,
    "uint4": 1,
}

ITEM_SIZES: dict[str, int] = NATIVE | EXTENDED

_BITS: dict[int, np.dtype[np.generic]] = {n: np.dtype(f"<u{n}") for n in (1, 2, 4, 8)}


@lru_cache(maxsize=64)  # each step asks
def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """The little-endian NumPy dtype called ``name`` in the dtype table.

    Args:
        name: A key of `ITEM_SIZES`.

    Returns:
        A NumPy dtype; one of ml_dtypes' where NumPy has none of its own.

    Raises:
        KeyError: If the dtype table does not hold ``name``.
    """
    if name in NATIVE:
        return np.dtype(name).newbyteorder("<")
    if name not in EXTENDED:
        raise KeyError(name)
    import ml_dtypes  # put off: it costs as much start-up time as NumPy

    dtype: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
    return dtype


def bits_dtype(name: str) -> np.dtype[np.generic]:
    """The unsigned integer dtype of the same size, through which bits are moved untouched."""
    return _BITS[ITEM_SIZES[name]]


@lru_cache(maxsize=256)  # NumPy composes a name anew each time, and a step has many tensors
def dtype_name(dtype: np.dtype[np.generic]) -> str | None:
    """The table's name of a NumPy dtype in either byte order, or None if it has none."""
    name = dtype.name
    return name if name in ITEM_SIZES else None


def bits_of(array: NDArray[np.generic]) -> NDArray[np.generic]:
    """The same memory seen as unsigned integers of the item's size."""
    return array.view(_BITS[array.dtype.itemsize])
