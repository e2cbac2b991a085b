"""What lies in a file: blocks of a lane, and where its chunks are."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from trajfile.containers import open_container
from trajfile.dtypes import numpy_dtype


def read_block(path: Path, rows: slice, columns: slice) -> np.ndarray:
    """The bytes of a block of the lane of the tensor w, read as an analysis reads it."""
    container = open_container(path)
    try:
        lane = container.manifest().by_name["params"].by_name["w"].dtype
        shape = rows.stop - rows.start, columns.stop - columns.start
        out = np.zeros(shape, numpy_dtype(lane))
        container.read("params", lane, rows, columns, out)
    finally:
        container.close()
    return out.view(np.uint8)


def chunks_of(path: Path, key: str = "streams/params/float32") -> list[tuple[int, int]]:
    """Address and size of each chunk of a lane in HDF5, row by row, as the library says."""
    with h5py.File(path) as file:
        lane = file[key].id
        chunks = [lane.get_chunk_info(n) for n in range(lane.get_num_chunks())]
    chunks.sort(key=lambda chunk: chunk.chunk_offset)
    return [(chunk.byte_offset, chunk.size) for chunk in chunks]
