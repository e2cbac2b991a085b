"""Recordings whose every bit is known, so that what a kill leaves can be held against them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

import trajfile
from trajfile import recording
from trajfile.containers import ahead, checksum, hdf5_direct, open_container, store
from trajfile.containers.digest import digest

STREAMS = ("params", "gradients", "updates", "gradient_samples", "optimizer/exp_avg")


@dataclass(frozen=True)
class Run:
    """One way to record.

    Attributes:
        suffix: ``.h5`` or ``.zarr``.
        compression: As `trajfile.Writer` takes it.
        background: As `trajfile.Writer` takes it.
        everything: All streams, or params alone.
        growing: Whether tensors and scalars join on the way.
        steps: Steps in all.
        width: Elements of the largest tensor.
        group: How many steps are appended between two flushes.
        sampled: Every how many steps there are gradient samples.
        large: Whether what is recorded is treated as large rows are: left where it is until it is
            written, in HDF5 chunk by chunk without the library's pipeline, built by other threads.
    """

    suffix: str
    compression: str | None = None
    background: bool = False
    everything: bool = True
    growing: bool = True
    steps: int = 5
    width: int = 1500
    group: int = 3
    sampled: int = 2
    large: bool = False

    @property
    def name(self) -> str:
        """As the tests show it."""
        words = [
            self.suffix[1:],
            self.compression or "plain",
            "background" if self.background else "foreground",
            "all" if self.everything else "params",
            "growing" if self.growing else "fixed",
            *(["large"] if self.large else []),
        ]
        return "-".join(words)

    def as_dict(self) -> dict[str, Any]:
        """For another process."""
        return asdict(self)

    def writer(self, path: Path, **more: Any) -> trajfile.Writer:
        """Start, or go on after whatever happened."""
        if self.large:  # for the rest of the process
            checksum.prepare()
            hdf5_direct.DIRECT_BYTES = recording._LONG_BYTES = 0
            ahead._PARALLEL_BYTES = ahead._PARALLEL_PACKED = 0
            store.chunk_width = lambda columns: min(columns, 500) or 500
        return trajfile.Writer(
            path,
            mode="a",
            compression=self.compression,
            background=self.background,
            optimizer={"name": "Adam"} if self.everything else None,
            gradient={"stage": "raw", "source": "mini_batch"},
            **more,
        )

    def arguments(self, step: int, life: int = 0) -> dict[str, Any]:
        """What is appended at a step; another ``life`` of the training sees other numbers."""
        rng = np.random.default_rng([step, life])
        shapes: dict[str, tuple[tuple[int, ...], type]] = {
            "w": ((3, self.width // 3), np.float32),
            "b": ((5,), np.float64),
        }
        if self.growing and step >= 2:
            shapes["head"] = ((700,), np.float32)
        if self.growing and step >= 4:
            shapes["late"] = ((2, 2), np.float64)

        def bits(samples: int = 0) -> dict[str, np.ndarray]:
            lead = (samples,) if samples else ()
            return {
                name: np.frombuffer(
                    rng.bytes(int(np.prod(lead + shape)) * np.dtype(dtype).itemsize), dtype
                ).reshape(lead + shape)
                for name, (shape, dtype) in shapes.items()
            }

        given: dict[str, Any] = {"params": bits()}
        given["scalars"] = {"loss": float(rng.random()), "learning_rate": 0.1}
        if self.growing and step >= 3:
            given["scalars"]["accuracy"] = float(rng.random())
        if self.everything:
            given["gradients"], given["updates"] = bits(), bits()
            given["optimizer"] = {"exp_avg": bits(), "exp_avg_sq": bits()}
            if step % self.sampled == 0:
                given["gradient_samples"] = bits(2)
        return given


#: Container x compression x background x streams x growing: all of it.
MATRIX = [
    Run(suffix, compression, background, everything, growing)
    for suffix, compression, background, everything, growing in product(
        (".h5", ".zarr"), (None, "zstd"), (False, True), (True, False), (True, False)
    )
]

#: The same, as large rows are recorded.
LARGE = [
    Run(suffix, compression, background, large=True)
    for suffix, compression, background in product((".h5", ".zarr"), (None, "zstd"), (False, True))
]

#: Steps that are alike and wait for one another, so that a thread commits many at once.
TOGETHER = [
    Run(suffix, compression, background=True, steps=14, group=14, sampled=100)
    for suffix, compression in product((".h5", ".zarr"), (None, "zstd"))
]


def visible(path: Path, run: Run, lives: list[int]) -> int:
    """How many steps the file shows, after checking that it shows each of them whole.

    Args:
        path: The file or folder.
        run: How it was recorded.
        lives: For each step, the life of the training whose numbers it should hold.

    Returns:
        The number of steps; none of them missing in between.
    """
    with trajfile.open(path) as trajectory:
        commits = trajectory.container.commits()[:, 1].tolist()
        assert commits == list(range(len(commits))), f"steps {commits}"
        expected = [run.arguments(step, lives[step]) for step in commits]
        for step, given in enumerate(expected):
            for name in ("scalars", "optimizer"):
                for key, value in given.pop(name, {}).items():
                    given[f"{name}/{key}"] = value
            expected[step] = given
        for stream in trajectory:
            view = trajectory[stream]
            rows = [step for step in commits if stream in expected[step]]
            assert np.unique(view.steps).tolist() == rows, stream
            for tensor, found in view.items():
                steps = [step for step in rows if tensor in expected[step][stream]]
                assert np.unique(found.steps).tolist() == steps, (stream, tensor)
                block = found[:]
                for step in steps:
                    whole = block[found.steps == step]
                    known = expected[step][stream][tensor]
                    assert whole.tobytes() == known.tobytes(), (stream, tensor, step)
            held = {tensor for step in rows for tensor in expected[step][stream]}
            assert held <= set(view), (stream, held)
        for name, (steps, values) in trajectory.scalars.items():
            known = {
                s: expected[s][f"scalars/{name}"]
                for s in commits
                if f"scalars/{name}" in expected[s]
            }
            assert dict(zip(steps.tolist(), values.tolist(), strict=True)) == known, name
        return len(commits)


def digest_of(path: Path) -> str:
    """The logical digest."""
    container = open_container(path)
    try:
        return digest(container)
    finally:
        container.close()


def uninterrupted(run: Run, lives: tuple[int, ...], folder: Path) -> str:
    """The digest of the same recording without any kill."""
    return _uninterrupted(replace(run, background=False, large=False), lives, folder)


@cache
def _uninterrupted(run: Run, lives: tuple[int, ...], folder: Path) -> str:
    path = folder / f"whole{abs(hash((run, lives)))}{run.suffix}"
    with run.writer(path) as writer:
        for step, life in enumerate(lives):
            writer.append(step, **run.arguments(step, life))
    if not list(folder.glob("whole*"))[1:]:  # once: a fork then has everything imported
        assert visible(path, run, list(lives)) == len(lives)
        trajfile.validate(path)
    return digest_of(path)
