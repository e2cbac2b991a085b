"""What is held against one another in reading: each goes through the whole run once."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

CORES = len(os.sched_getaffinity(0))


def tool(path: Path) -> None:
    """`trajfile analyze`, every metric."""
    import trajfile

    report = trajfile.analyze(path, device="cpu")
    assert report.run.bytes_read > 0
    assert report.metrics["norms"].status == "ok"


def reader(path: Path) -> None:
    """Reading and verifying through trajfile's container: the tiles of the plan, on all cores."""
    import trajfile
    from trajfile.analyze import plan
    from trajfile.containers import checksum
    from trajfile.engine.staging import read_tile, tile_parts

    with trajfile.open(path) as run:
        planned = plan(run, device="cpu")
        if planned.bytes_to_read >= checksum.LARGE_BYTES:  # as the tool does
            checksum.prepare()
        tiles = [(strip, block) for strip in planned.strips for block in planned.blocks]

        def share(number: int) -> None:
            buffer = np.empty(planned.slot_bytes, np.uint8)
            for strip, block in tiles[number::CORES]:
                parts = tile_parts(strip, block)
                read_tile(run.container, parts, block, planned.layout.rows, buffer)

        with ThreadPoolExecutor(CORES) as pool:
            list(pool.map(share, range(CORES)))


def plain_read(path: Path) -> None:
    """Reading and verifying by h5py alone: blocks of rows into one buffer."""
    import h5py

    with h5py.File(path, "r") as file:
        for stream in ("params", "gradients"):
            lane = _lane(file[f"streams/{stream}"])
            height = max(1, 2**26 // (lane.shape[1] * lane.dtype.itemsize))
            out = np.empty((height, lane.shape[1]), lane.dtype)
            for start in range(0, lane.shape[0], height):
                stop = min(start + height, lane.shape[0])
                lane.read_direct(out, np.s_[start:stop], np.s_[: stop - start])


def plain_loop(path: Path) -> None:
    """Plain h5py and NumPy: a step at a time, five dot products."""
    import h5py

    with h5py.File(path, "r") as file:
        params = file["streams/params/float32"]
        gradients = file["streams/gradients/float32"]
        _five((_flat(params[k]), _flat(gradients[k])) for k in range(params.shape[0]))


def h5py_tensors(path: Path) -> None:
    """The same where h5py keeps a dataset a tensor, as a script does that does not lay them out."""
    import h5py

    with h5py.File(path, "r") as file:
        params, gradients = (dict(file[kind]) for kind in ("params", "gradients"))
        _five(
            tuple({name: lane[k] for name, lane in kind.items()} for kind in (params, gradients))
            for k in range(len(next(iter(params.values()))))
        )


def plain_products(path: Path) -> None:
    """Plain h5py and NumPy: a step at a time, products such as the metrics want.

    Against the first and the last snapshot, and of updates and gradients up to 5 and 64 steps
    apart, each with one call of BLAS; tensor by tensor only what the report tells by tensor.
    """
    import h5py

    with h5py.File(path, "r") as file:
        streams = file["streams/params/float32"], file["streams/gradients/float32"]
        count, width = streams[0].shape
        cuts = np.linspace(0, width, 5).astype(int)[:-1]  # the data has four tensors or more
        first, last = streams[0][0], streams[0][count - 1]
        moved, slopes = np.zeros((64, width), np.float32), np.zeros((6, width), np.float32)
        before = None
        for k in range(count):
            x, g = streams[0][k], streams[1][k]
            slopes[k % 6] = g
            found = [slopes @ g]
            told = [(x, x), (g, g), (x, g), (x - last, g), (x - last, x - last), (x - first,) * 2]
            if before is not None:
                d = moved[k % 64] = x - before
                found += [moved @ d, slopes @ d, moved[:6] @ g]
                told += [(d, d), (d, g)]
            found += [np.add.reduceat(a * b, cuts) for a, b in told]
            before = x
            assert all(np.isfinite(values).all() for values in found)


def torch_load(folder: Path) -> None:
    """torch.load of a .pt file a step, five dot products."""
    import torch

    files = sorted(folder.iterdir())
    loaded = (torch.load(file, weights_only=True) for file in files)
    _five((_named(s["params"]), _named(s["gradients"])) for s in loaded)


def safetensors_mapped(folder: Path) -> None:
    """A memory-mapped .safetensors file a step, five dot products."""
    from safetensors import safe_open

    def steps() -> Iterable[tuple[dict[str, Any], dict[str, Any]]]:
        for file in sorted(folder.iterdir()):
            with safe_open(file, "pt") as opened:
                held: dict[str, dict[str, Any]] = {"params": {}, "gradients": {}}
                for key in opened.keys():  # noqa: SIM118 (it is no mapping)
                    kind, _, name = key.partition("/")
                    held[kind][name] = opened.get_tensor(key)
                yield held["params"], held["gradients"]

    _five(steps())


def decoding(path: Path) -> None:
    """Decoding the chunks of an HDF5 file, which lie in memory, in a thread a core.

    Until the numbers are there: zstd, and the bytes of each put together by the fastest loop here.
    """
    from numcodecs.zstd import Zstd

    from trajfile.containers.kernels import unshuffle

    chunks, item = _chunks(path)
    codec, unsigned = Zstd(), np.dtype(f"u{item}")

    def share(number: int) -> None:
        planes, out = np.empty(2**21, np.uint8), np.empty(2**21 // item, unsigned)
        for packed, size in chunks[number::CORES]:
            codec.decode(packed, planes[:size])
            unshuffle[item](planes[:size], 0, out[: size // item])

    with ThreadPoolExecutor(CORES) as pool:
        list(pool.map(share, range(CORES)))


_kept: dict[Path, tuple[list[tuple[bytes, int]], int]] = {}


def _chunks(path: Path) -> tuple[list[tuple[bytes, int]], int]:
    """Every chunk of the lanes as stored, without its checksum, and its size; bytes of a number."""
    import h5py

    if path not in _kept:
        kept: list[tuple[bytes, int]] = []
        with h5py.File(path, "r") as file:
            for stream in ("params", "gradients"):
                lane = _lane(file[f"streams/{stream}"])
                item = lane.id.get_type().get_size()  # h5py shows bfloat16 as float32
                size = int(np.prod(lane.chunks)) * item
                for number in range(lane.id.get_num_chunks()):
                    place = lane.id.get_chunk_info(number).chunk_offset
                    kept.append((lane.id.read_direct_chunk(place)[1][:-4], size))
        _kept[path] = kept, item
    return _kept[path]


def _lane(stream: Any) -> Any:
    return next(stream[name] for name in ("float32", "bfloat16") if name in stream)


def _flat(row: np.ndarray) -> dict[str, np.ndarray]:
    return {"": row}


def _named(tensors: dict[str, Any]) -> dict[str, Any]:
    return tensors


def _five(steps: Iterable[tuple[Mapping[str, Any], Mapping[str, Any]]]) -> None:
    """<d, d>, <d, g>, <g, g>, <x, g> and <d, last d> of each step, tensor by tensor."""
    before: Mapping[str, Any] = {}
    moved: dict[str, Any] = {}
    found = []
    for theta, gradient in steps:
        sums = np.zeros(5)
        for name, value in theta.items():
            x, g = value.reshape(-1), gradient[name].reshape(-1)
            sums[2] += float(g @ g)
            sums[3] += float(x @ g)
            if name in before:
                d = x - before[name]
                sums[0] += float(d @ d)
                sums[1] += float(d @ g)
                if name in moved:
                    sums[4] += float(d @ moved[name])
                moved[name] = d
        before = {name: value.reshape(-1) for name, value in theta.items()}
        found.append(sums)
    assert np.isfinite(found).all()
    zlib.crc32(np.array(found).tobytes())


CONTENDERS: dict[str, Callable[[Path], None]] = {
    function.__name__: function
    for function in (
        *(
            tool,
            reader,
            plain_read,
            plain_loop,
            h5py_tensors,
            plain_products,
            torch_load,
            safetensors_mapped,
            decoding,
        ),
    )
}
