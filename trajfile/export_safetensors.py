"""Tensors as a safetensors file: the size of a JSON header, the header, and the bytes."""

from __future__ import annotations

from typing import Any, BinaryIO

import msgspec
import numpy as np

from trajfile.extract import Extract, labels

_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e8m0fnu": "F8_E8M0",
}


def write_safetensors(file: BinaryIO, extracts: list[Extract]) -> list[str]:
    """Write tensors and their steps.

    Args:
        file: Where to.
        extracts: The tensors.

    Returns:
        What must be known to read them back, a sentence each.
    """
    header: dict[str, Any] = {}
    metadata = {"stream": extracts[0].stream}
    end = 0

    def place(name: str, dtype: str, shape: tuple[int, ...], size: int) -> None:
        nonlocal end
        code = _CODES.get(dtype, "U8")
        header[name] = {"dtype": code, "shape": shape, "data_offsets": (end, end + size)}
        end += size

    # The widest elements first, so that each tensor is aligned and can be mapped into memory.
    indexed = labels(extracts)
    for name, array in sorted(indexed.items(), key=lambda item: -item[1].itemsize):
        place(name, array.dtype.name, array.shape, array.nbytes)
    ordered = sorted(extracts, key=lambda one: -one.dtype.itemsize)
    for one in ordered:
        place(one.name, one.spec.dtype, one.shape, one.nbytes)
        if one.spec.dtype not in _CODES:
            metadata[f"{one.name}.dtype"] = one.spec.dtype
    text = msgspec.json.encode({"__metadata__": metadata, **header})
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for _, array in sorted(indexed.items(), key=lambda item: -item[1].itemsize):
        file.write(array.tobytes())
    for one in ordered:
        for part in one.parts():
            file.write(np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    return [
        f"safetensors has no {one.spec.dtype}, so {one.name} holds the bits as U8; the metadata "
        "entry of its name and .dtype says so"
        for one in extracts
        if one.spec.dtype not in _CODES
    ]
