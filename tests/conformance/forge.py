"""Changing what a finished trajectory holds, with its checksums made to match again.

A rule is only tested by a file that breaks it and no other; so whatever is changed here, the
commit records and their checksums are rewritten to bear it out.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import zarr

from trajfile.containers.hdf5_resume import lookup3
from trajfile.containers.record import crc32c, keys_crc, scalars_crc

_FIXED = 5


def get(path: Path, key: str) -> np.ndarray:
    """A whole array, with the stock libraries."""
    if path.is_dir():
        return np.asarray(zarr.open_array(path / key, mode="r")[...])
    with h5py.File(path, "r") as file:
        return file[key][...]


def put(path: Path, key: str, values: np.ndarray) -> None:
    """Replace an array's shape and content."""
    if path.is_dir():
        fill = json.loads((path / key / "zarr.json").read_bytes())["fill_value"]
        with zarr.config.set({"array.write_empty_chunks": True}):
            array = zarr.open_array(path / key, mode="r+")
            array.resize(values.shape)
            array[...] = values
        edit(path, key, lambda d: d.update(fill_value=fill))  # zarr forgets the payload of a NaN
        return
    with h5py.File(path, "r+") as file:
        file[key].resize(values.shape)
        file[key][...] = values


def remake(path: Path, key: str, **changed: Any) -> None:
    """Create an HDF5 dataset anew with other settings and the same content."""
    with h5py.File(path, "r+") as file:
        old = file[key]
        settings: dict[str, Any] = {
            "shape": old.shape,
            "dtype": old.dtype,
            "maxshape": old.maxshape,
            "chunks": old.chunks,
            "shuffle": old.shuffle,
            "fletcher32": old.fletcher32,
            "fillvalue": old.fillvalue,
            **changed,
        }
        values, attributes = old[...], dict(old.attrs)
        del file[key]
        made = file.create_dataset(key, **settings)
        if settings.get("data") is None:
            made[...] = values.astype(made.dtype)
        for name, value in attributes.items():
            made.attrs[name] = value


def edit(path: Path, key: str, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a zarr.json, that of the root by the key ``""``."""
    file = path / key / "zarr.json"
    document = json.loads(file.read_bytes())
    change(document)
    file.write_text(json.dumps(document))


def recommit(path: Path, change: Callable[[np.ndarray], object]) -> None:
    """Change the table of commit records; each record's own checksum is made to match."""
    table = get(path, "commits")
    change(table)
    for row in table:
        row[-1] = crc32c(np.ascontiguousarray(row[:-1]).astype("<u8"))
    put(path, "commits", table)


def rewrite(path: Path, change: Callable[[list[bytes]], list[bytes]]) -> None:
    """Change the lines of the manifest; as many must come back."""
    old = get(path, "manifest").tobytes()
    old = old[: int(get(path, "commits")[-1, 3])]
    lines = change(old.splitlines(keepends=True))
    new = b"".join(lines)
    put(path, "manifest", np.frombuffer(new, np.uint8))

    def point(table: np.ndarray) -> None:
        for row in table:
            visible = b"".join(lines[: old[: int(row[3])].count(b"\n")])
            row[3] = len(visible)
            row[_FIXED + streams(table)] = crc32c(visible)

    recommit(path, point)


def restate(path: Path, change: Callable[[dict[str, Any]], object], *, last: bool = False) -> None:
    """Change every revision of the manifest, or only the last."""

    def changed(lines: list[bytes]) -> list[bytes]:
        documents = [json.loads(line) for line in lines]
        for document in documents[-1:] if last else documents:
            change(document)
        return [json.dumps(document).encode() + b"\n" for document in documents]

    rewrite(path, changed)


def rekey(
    path: Path, stream: str, change: Callable[[np.ndarray], object], key: str = "step"
) -> None:
    """Change the steps or samples of a stream."""
    order = [
        s["name"] for s in json.loads(get(path, "manifest").tobytes().splitlines()[0])["streams"]
    ]
    index = order.index(stream)
    values = get(path, f"streams/{stream}/{key}")
    change(values)
    put(path, f"streams/{stream}/{key}", values)
    steps = get(path, f"streams/{stream}/step")
    samples = get(path, f"streams/{stream}/sample") if stream == "gradient_samples" else None

    def point(table: np.ndarray) -> None:
        for row in table:
            rows = int(row[_FIXED + index])
            part = None if samples is None else samples[:rows]
            row[7 + streams(table) + index] = keys_crc(steps[:rows], part)

    recommit(path, point)


def rescale(path: Path, change: Callable[[np.ndarray, np.ndarray], object], names: int) -> None:
    """Change the steps and values of the scalars, of which there are that many names."""
    steps, values = get(path, "scalars/step"), get(path, "scalars/value")
    change(steps, values)
    put(path, "scalars/step", steps)
    put(path, "scalars/value", values)

    def point(table: np.ndarray) -> None:
        for row in table:
            rows = int(row[4])
            row[6 + streams(table)] = scalars_crc(
                0, steps[:rows], np.ascontiguousarray(values[:rows, :names])
            )

    recommit(path, point)


def streams(table: np.ndarray) -> int:
    """Number of streams that a table of commit records is for."""
    return (table.shape[1] - 8) // 2


def superblock(path: Path, **fields: int) -> None:
    """Set ``version``, ``flags`` or ``end`` of an HDF5 superblock; its checksum matches again."""
    data = bytearray(path.read_bytes())
    for name, value in fields.items():
        where, form = {"version": (8, "<B"), "flags": (11, "<B"), "end": (28, "<Q")}[name]
        struct.pack_into(form, data, where, value)
    struct.pack_into("<I", data, 44, lookup3(bytes(data[:44])))
    path.write_bytes(data)
