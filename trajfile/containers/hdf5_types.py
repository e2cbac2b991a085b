"""Which HDF5 datatype holds each dtype, so that bits go to the file untouched.

HDF5 has no name for bfloat16 and float8_e5m2, but its description of floating-point formats covers
them: they are IEEE-like with other field widths. The stranger formats (no infinities, other biases
of special values) it cannot describe; these are stored as unsigned integers of the same size, and
the attribute ``dtype`` tells which they are.
"""

from __future__ import annotations

from pathlib import Path

import h5py
from h5py import h5t

from trajfile.dtypes import ITEM_SIZES
from trajfile.errors import UsageError

ZSTD_FILTER = 32015

_NATIVE = {
    "float16": h5t.IEEE_F16LE,
    "float32": h5t.IEEE_F32LE,
    "float64": h5t.IEEE_F64LE,
    "int8": h5t.STD_I8LE,
    "int16": h5t.STD_I16LE,
    "int32": h5t.STD_I32LE,
    "int64": h5t.STD_I64LE,
    "uint8": h5t.STD_U8LE,
    "uint16": h5t.STD_U16LE,
    "uint32": h5t.STD_U32LE,
    "uint64": h5t.STD_U64LE,
}


def file_type(dtype: str) -> h5py.h5t.TypeID:
    """The HDF5 datatype in which a dtype is stored.

    Args:
        dtype: A name of the dtype table.

    Returns:
        A little-endian type of the dtype's size.
    """
    if dtype in _NATIVE:
        return _NATIVE[dtype]
    if dtype == "bfloat16":
        return _float(h5t.IEEE_F32LE, sign=15, exponent=(7, 8), mantissa=(0, 7), bias=127)
    if dtype == "float8_e5m2":
        return _float(h5t.IEEE_F16LE, sign=7, exponent=(2, 5), mantissa=(0, 2), bias=15)
    return h5t.STD_U8LE if ITEM_SIZES[dtype] == 1 else h5t.STD_U16LE


def _float(
    base: h5py.h5t.TypeID,
    *,
    sign: int,
    exponent: tuple[int, int],
    mantissa: tuple[int, int],
    bias: int,
) -> h5py.h5t.TypeID:
    """A float type with the given fields, each as (lowest bit, number of bits)."""
    bits = 1 + exponent[1] + mantissa[1]
    made = base.copy()
    made.set_fields(sign, *exponent, *mantissa)  # before the size: the old fields would stick out
    made.set_precision(bits)
    made.set_size(bits // 8)
    made.set_ebias(bias)
    return made


def load_zstd(path: Path) -> None:
    """Register the zstd filter, which HDF5 itself does not have."""
    try:
        import hdf5plugin  # noqa: F401 - importing it registers the filters
    except ImportError as error:
        raise UsageError(
            f"{path}: zstd in HDF5 needs the package hdf5plugin: install trajfile[hdf5-codecs]"
        ) from error
