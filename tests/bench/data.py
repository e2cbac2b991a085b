"""The data that all contenders read or write: the same numbers, in each one's own form."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np

import trajfile

DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@dataclass(frozen=True)
class Size:
    """So many snapshots of parameters and gradients, with so many columns each.

    Attributes:
        name: What it is called.
        rows: Snapshots.
        columns: Columns of the parameters, and of the gradients.
        dtype: Of both.
    """

    name: str
    rows: int
    columns: int
    dtype: str = "float32"

    @property
    def nbytes(self) -> int:
        """Bytes of all numbers."""
        return 2 * self.rows * self.columns * DTYPES[self.dtype].itemsize

    @property
    def label(self) -> str:
        """For a table."""
        for power, letter in ((10**6, " M"), (10**3, " k")):
            if self.columns >= power:
                return f"{self.rows:,} x {self.columns / power:.4g}{letter}"
        return f"{self.rows:,} x {self.columns}"

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensors of a network: two linear layers, and equal square-ish ones for the rest."""
        hidden = max(2, min(64, self.columns // 200))
        shapes: dict[str, tuple[int, ...]] = {
            "fc1.weight": (hidden, hidden),
            "fc2.weight": (10, hidden),
        }
        left = self.columns - hidden * (hidden + 10)
        count = max(2, min(100, left // 40_000))
        for number in range(count):
            size = left // (count - number)
            shapes[f"block{number}.weight"] = (2, size // 2) if size % 2 == 0 else (size,)
            left -= size
        return shapes

    def steps(self) -> Iterator[tuple[dict[str, np.ndarray], dict[str, np.ndarray]]]:
        """Parameters and gradients of each step: a noisy descent, updates 1e-3 of the size.

        Gradients come from a short list by turns: drawing 10^9 normal numbers takes minutes.
        """
        generator = np.random.default_rng(0)
        dtype = DTYPES[self.dtype]
        theta = generator.standard_normal(self.columns, np.float32)
        drawn = generator.standard_normal(self.columns + 16 * 1009, np.float32)
        shapes = self.shapes()
        cuts = np.cumsum([int(np.prod(shape)) for shape in shapes.values()])[:-1]

        def named(flat: np.ndarray) -> dict[str, np.ndarray]:
            parts = np.split(flat.astype(dtype, copy=False), cuts)
            return {n: p.reshape(s) for (n, s), p in zip(shapes.items(), parts, strict=True)}

        for step in range(self.rows):
            start = 1009 * (step % 16)
            gradient = drawn[start : start + self.columns]
            yield named(theta), named(gradient)
            theta = theta - np.float32(1e-3) * gradient


def record(path: Path, size: Size, compression: str | None = None) -> Path:
    """The trajectory, with every step's loss."""
    with trajfile.Writer(
        path,
        compression=compression,
        optimizer={"name": "SGD", "momentum": 0.0, "weight_decay": 0.0},
        gradient={"stage": "raw", "source": "mini_batch"},
    ) as writer:
        for step, (theta, gradient) in enumerate(size.steps()):
            scalars = {"loss": 1 / (1 + step), "learning_rate": 1e-3}
            writer.append(step, params=theta, gradients=gradient, scalars=scalars)
    return path


def as_torch(tensors: dict[str, np.ndarray]) -> dict[str, object]:
    """The same memory as PyTorch tensors."""
    import torch

    return {
        name: torch.from_numpy(value.view(np.uint16)).view(torch.bfloat16)
        if value.dtype == DTYPES["bfloat16"]
        else torch.from_numpy(value)
        for name, value in tensors.items()
    }


def save_torch(folder: Path, size: Size) -> Path:
    """A .pt file a step."""
    import torch

    folder.mkdir()
    for step, (theta, gradient) in enumerate(size.steps()):
        # A view would be saved with all of the memory it is of.
        parts = [{n: v.clone() for n, v in as_torch(x).items()} for x in (theta, gradient)]
        torch.save({"params": parts[0], "gradients": parts[1]}, folder / f"{step:06}.pt")
    return folder


def save_safetensors(folder: Path, size: Size) -> Path:
    """A .safetensors file a step."""
    from safetensors.torch import save_file

    folder.mkdir()
    for step, (theta, gradient) in enumerate(size.steps()):
        flat = {
            f"{kind}/{name}": value.contiguous()
            for kind, held in (("params", theta), ("gradients", gradient))
            for name, value in as_torch(held).items()
        }
        save_file(flat, folder / f"{step:06}.safetensors")
    return folder


def save_h5py(path: Path, size: Size) -> Path:
    """One HDF5 file, as plain h5py writes it: for each tensor a dataset of all its steps."""
    import h5py

    with h5py.File(path, "w") as file:
        for step, told in enumerate(size.steps()):
            for kind, tensors in zip(("params", "gradients"), told, strict=True):
                for name, value in tensors.items():
                    if not step:
                        file.create_dataset(
                            f"{kind}/{name}", (size.rows, *value.shape), value.dtype
                        )
                    file[kind][name][step] = value
    return path
