"""Tensors as a NumPy archive, which `numpy.load` reads."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from trajfile.containers.base import Array
from trajfile.extract import Extract, check_names, labels


def write_npz(file: BinaryIO, extracts: list[Extract]) -> list[str]:
    """Write tensors and their steps.

    Args:
        file: Where to.
        extracts: The tensors.

    Returns:
        What must be known to read them back, a sentence each.
    """
    as_bits: dict[str, list[str]] = {}
    words = {f"{one.name}.dtype": np.array(one.spec.dtype) for one in extracts if one.as_bits}
    check_names(extracts, words)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in {**labels(extracts), **words}.items():
            _put(archive, name, array.dtype, array.shape, [array])
        for one in extracts:
            _put(archive, one.name, one.bits if one.as_bits else one.dtype, one.shape, one.parts())
            if one.as_bits:
                as_bits.setdefault(one.spec.dtype, []).append(one.name)
    return [
        f"NumPy has no {dtype}, so {', '.join(names)} holds the bits: "
        f"view(ml_dtypes.{dtype}) shows the numbers"
        for dtype, names in as_bits.items()
    ]


def _put(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[np.generic],
    shape: tuple[int, ...],
    parts: Iterable[Array],
) -> None:
    """Write one array as its elements come; `numpy.savez` would need them all at once."""
    header = {"descr": npy.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    # A ZipInfo of its own has a fixed date: equal content, equal bytes.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as member:
        npy.write_array_header_1_0(member, header)
        for part in parts:
            member.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
