"""What is held against one another in writing: each records the whole run once, then leaves."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

import trajfile

from .data import Size, as_torch

_Step = tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
_drawn: dict[Size, list[_Step]] = {}

#: So many different steps are kept in memory and written by turns, so that drawing isn't timed.
_DIFFERENT = 4


def steps(size: Size) -> Iterator[_Step]:
    """The steps to write, from memory."""
    if size not in _drawn:
        _drawn[size] = list(islice(size.steps(), _DIFFERENT))
    for step in range(size.rows):
        yield _drawn[size][step % _DIFFERENT]


def raw(target: Path, size: Size) -> None:
    """The bytes alone, one file."""
    with target.open("wb", buffering=0) as file:
        for theta, gradient in steps(size):
            for value in (*theta.values(), *gradient.values()):
                file.write(value.data)


def trajfile_hdf5(target: Path, size: Size) -> None:
    """`trajfile.Writer`, HDF5."""
    _recorded(target.with_suffix(".h5"), size)


def trajfile_zarr(target: Path, size: Size) -> None:
    """`trajfile.Writer`, Zarr."""
    _recorded(target.with_suffix(".zarr"), size)


def trajfile_hdf5_zstd(target: Path, size: Size) -> None:
    """`trajfile.Writer`, HDF5, compressed."""
    _recorded(target.with_suffix(".h5"), size, compression="zstd")


def trajfile_zarr_zstd(target: Path, size: Size) -> None:
    """`trajfile.Writer`, Zarr, compressed."""
    _recorded(target.with_suffix(".zarr"), size, compression="zstd")


def trajfile_background(target: Path, size: Size) -> None:
    """`trajfile.Writer(background=True)`, HDF5, until all of it is committed."""
    _recorded(target.with_suffix(".h5"), size, background=True)


def _recorded(path: Path, size: Size, **options: Any) -> None:
    with trajfile.Writer(path, optimizer={"name": "SGD"}, **options) as writer:
        for step, (theta, gradient) in enumerate(steps(size)):
            writer.append(step, params=theta, gradients=gradient)


def torch_save(target: Path, size: Size) -> None:
    """torch.save, a file a step."""
    import torch

    target.mkdir()
    for step, (theta, gradient) in enumerate(steps(size)):
        # As from a model, each tensor has memory of its own.
        state = {"params": as_torch(theta), "gradients": as_torch(gradient)}
        torch.save(state, target / f"{step:06}.pt")


def safetensors(target: Path, size: Size) -> None:
    """safetensors, a file a step."""
    from safetensors.torch import save_file

    target.mkdir()
    for step, (theta, gradient) in enumerate(steps(size)):
        flat = {f"params/{n}": v for n, v in as_torch(theta).items()}
        flat |= {f"gradients/{n}": v for n, v in as_torch(gradient).items()}
        save_file(flat, target / f"{step:06}.safetensors")


def np_save(target: Path, size: Size) -> None:
    """np.save, a file a step and stream."""
    target.mkdir()
    for step, pair in enumerate(steps(size)):
        for kind, tensors in zip(("params", "gradients"), pair, strict=True):
            flat = np.concatenate([value.reshape(-1) for value in tensors.values()])
            np.save(target / f"{kind}-{step:06}.npy", flat)


def h5py_tensors(target: Path, size: Size) -> None:
    """h5py, a dataset a step and tensor, with checksums."""
    import h5py

    with h5py.File(target, "w") as file:
        for step, pair in enumerate(steps(size)):
            for kind, tensors in zip(("params", "gradients"), pair, strict=True):
                for name, value in tensors.items():
                    place = f"{step:06}/{kind}/{name}"
                    file.create_dataset(place, data=value, fletcher32=True)
            file.flush()


def zarr_tensors(target: Path, size: Size) -> None:
    """zarr, an array a step and tensor, uncompressed."""
    import zarr

    root = zarr.open_group(target, mode="w")
    for step, pair in enumerate(steps(size)):
        for kind, tensors in zip(("params", "gradients"), pair, strict=True):
            for name, value in tensors.items():
                place = f"{step:06}/{kind}/{name}"
                root.create_array(place, data=value, compressors=None)


WRITERS: dict[str, Callable[[Path, Size], None]] = {
    function.__name__: function
    for function in (
        *(raw, trajfile_hdf5, trajfile_zarr, trajfile_background),
        *(trajfile_hdf5_zstd, trajfile_zarr_zstd),
        *(torch_save, safetensors, np_save, h5py_tensors, zarr_tensors),
    )
}


def write(name: str, folder: Path, size: Size, *, synced: bool) -> Callable[[], None]:
    """One recording into a fresh place; the call that removes it, so that removal isn't timed.

    Args:
        name: The writer.
        folder: An empty one.
        size: What to write.
        synced: Whether to wait until all of it is on the disk.
    """
    WRITERS[name](folder / "target", size)
    for path in (folder, *folder.rglob("*")) if synced else ():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)

    def remove() -> None:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return remove
