"""Writing an `Image` with h5py: section 7 of the specification, HDF5."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import hdf5plugin  # noqa: F401 - registers zstd
import numpy as np
from h5py import h5d, h5p, h5s, h5t, h5z

from tests.conformance.vectors.image import Image, Lane, Style, item
from tests.conformance.vectors.runs import ABSENT

_ZSTD = 32015
Edit = Callable[[h5py.File], None]


def write(image: Image, path: Path, edit: Edit | None = None) -> None:
    """Create all objects, then append in single-writer mode; ``edit`` comes in between."""
    style = image.style
    # Metadata in small blocks keep the file small.
    file = h5py.File(path, "w", libver=("v110", "v110"), meta_block_size=256)
    for name, value in image.attributes.items():
        if isinstance(value, str):
            file.attrs[name] = np.bytes_(value.encode())
        elif name == "format_version":
            file.attrs[name] = np.array(value, "<i8")
        elif isinstance(value, list):
            file.attrs[name] = np.array(value, np.bytes_)
        else:
            file.attrs[name] = value
    for key, table in image.tables.items():
        _create(file, key, f"{table.dtype.kind}{table.dtype.itemsize}", table.shape[1:], style)
    for key, lane in image.lanes.items():
        _create(file, key, lane.dtype, (lane.at_creation,), style, style.width)
        if style.joined or any(len(row) > lane.at_creation for row in lane.rows):
            _create(file, key + ".joined", lane.dtype, (0,), style, style.joined_width)
    for key, other in image.others.items():
        file.create_dataset(key, data=other, track_times=False)
    if edit is not None:
        edit(file)
    file.flush()
    file.swmr_mode = True
    for key, table in image.tables.items():
        _append_table(file[key].id, table, style)
    for key, lane in image.lanes.items():
        _append_lane(file, key, lane, style)
    file.flush()
    if style.killed:  # a copy made while the writer is there is what a kill leaves
        shutil.copyfile(path, path.with_suffix(".copy"))
        file.close()
        path.with_suffix(".copy").replace(path)
    file.close()


def file_type(dtype: str) -> h5t.TypeID:
    """The type of section 6 that holds a dtype."""
    bits = 8 * item(dtype)
    if dtype in {"u8", "i8", "i4", "u1"}:
        return h5t.py_create(np.dtype("<" + dtype))
    if dtype in {"bfloat16", "float8_e5m2"}:
        made = (h5t.IEEE_F32LE if bits == 16 else h5t.IEEE_F16LE).copy()
        exponent, mantissa = (8, 7) if bits == 16 else (5, 2)
        made.set_fields(bits - 1, mantissa, exponent, 0, mantissa)
        made.set_precision(bits)
        made.set_size(bits // 8)
        made.set_ebias(2 ** (exponent - 1) - 1)
        return made
    if dtype in {"float16", "float32", "float64"} or (dtype.strip("uint").isdigit() and bits > 8):
        return h5t.py_create(np.dtype(dtype).newbyteorder("<"))
    return h5t.STD_I8LE if dtype == "int8" else h5t.STD_U8LE


def _create(
    file: h5py.File,
    key: str,
    dtype: str,
    columns: tuple[int, ...],
    style: Style,
    width: int | None = None,
) -> None:
    plist = h5p.create(h5p.DATASET_CREATE)
    plist.set_obj_track_times(False)
    if width is None:
        wide = tuple(max(n, 2) for n in columns)
        plist.set_chunk((64 * style.table_rows if key == "manifest" else style.table_rows, *wide))
        if key == "scalars/value":
            plist.set_fill_value(np.array(ABSENT, "<u8").view("<f8"))
            dtype = "float64"
        limit = tuple(h5s.UNLIMITED if key == "scalars/value" else n for n in columns)
    else:
        plist.set_chunk((style.height, min(width, columns[0] or width)))  # the library wants it so
        if style.compression is not None and style.shuffle:
            plist.set_shuffle()
        if style.compression == "gzip":
            plist.set_deflate(6)
        if style.compression == "zstd":
            plist.set_filter(_ZSTD, h5z.FLAG_MANDATORY, (3,))
        plist.set_fletcher32()
        limit = (columns[0] or h5s.UNLIMITED,)
    links = h5p.create(h5p.LINK_CREATE)
    links.set_create_intermediate_group(True)
    space = h5s.create_simple((0, *columns), (h5s.UNLIMITED, *limit))
    made = h5d.create(file.id, key.encode(), file_type(dtype), space, plist, links)
    if width is not None:
        h5py.Dataset(made).attrs["dtype"] = np.bytes_(dtype)


def _append_table(dataset: h5d.DatasetID, table: np.ndarray, style: Style) -> None:
    rows, columns = len(table) + style.spare[0], table.shape[1:]
    if dataset.get_type().get_class() == h5t.FLOAT:
        columns = (columns[0] + style.spare[1],)
    dataset.set_extent((rows, *columns))
    if table.size:
        space = dataset.get_space()
        space.select_hyperslab((0,) * table.ndim, table.shape)
        memory = dataset.get_type()  # no conversion: NaNs stay as they are
        dataset.write(h5s.create_simple(table.shape), space, np.ascontiguousarray(table), memory)


def _append_lane(file: h5py.File, key: str, lane: Lane, style: Style) -> None:
    most = max((len(row) for row in lane.rows), default=0)
    parts = [(key, 0, lane.at_creation)]
    if key + ".joined" in file:
        parts.append((key + ".joined", lane.at_creation, most))
    for place, first, last in parts:
        dataset = file[place].id
        joined = first == lane.at_creation and place != key
        spare = style.spare[1] if joined else 0
        columns = max(last - first, 0) + spare if joined else lane.at_creation
        dataset.set_extent((len(lane.rows) + style.spare[0], columns))
        for number, row in enumerate(lane.rows):
            part = np.ascontiguousarray(row[first:last])
            if part.size:
                space = dataset.get_space()
                space.select_hyperslab((number, 0), (1, len(part)))
                memory = h5s.create_simple((1, len(part)))
                dataset.write(memory, space, part[None], dataset.get_type())
