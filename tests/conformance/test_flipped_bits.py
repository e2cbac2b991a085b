"""Bits flipped anywhere in a file or folder: an error of ours or a clean read, and never a hang."""

from __future__ import annotations

import multiprocessing
import shutil
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.conformance.damage import read_all
from trajfile.containers import Compression
from trajfile.errors import FormatError, TrajfileError

FORMS = [
    pytest.param("run.h5", None, id="hdf5"),
    pytest.param("run.h5", "gzip", id="hdf5-gzip"),
    pytest.param("run.zarr", None, id="zarr"),
    pytest.param("run.zarr", "gzip", id="zarr-gzip"),
]


def metadata_heavy_run(path: Path, compression: Compression) -> Path:
    """Many arrays of few bytes, so that most flips hit what describes them."""
    rng = np.random.default_rng(23)
    with trajfile.Writer(path, compression=compression, optimizer={"name": "SGD"}) as writer:
        for step in range(4):
            params = {"w": rng.standard_normal((8, 8)).astype(np.float32)}
            if step > 1:
                params["b"] = rng.standard_normal(7).astype(np.float32)
            writer.append(
                step,
                params=params,
                gradients={"w": params["w"]},
                gradient_samples={"w": np.stack([params["w"]] * 2)},
                scalars={"loss": 1.0},
            )
    return path


def flip_some(path: Path, rng: np.random.Generator) -> None:
    """Flip 1 to 4 bits; in a folder half of them in its documents."""
    files = [path] if path.is_file() else sorted(f for f in path.rglob("*") if f.is_file())
    documents = [file for file in files if file.name == "zarr.json"] or files
    for _ in range(rng.integers(1, 5)):
        among = documents if rng.random() < 0.5 else files
        file = among[rng.integers(len(among))]
        data = bytearray(file.read_bytes())
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        file.write_bytes(data)


def use(path: Path) -> str:
    """Open, read and validate; anything but an error of ours escapes."""
    refused: list[FormatError] = []
    try:
        read_all(path)
    except FormatError as error:
        refused.append(error)
    trajfile.validate(path)
    findings = trajfile.validate(path, deep=True)
    for refusal in refused:  # what a reader refuses, a deep look reports
        assert refusal.rule in {finding.id for finding in findings}
        assert "\n" not in str(refusal)
    return "refused" if refused else "clean"


def append_to(path: Path) -> None:
    """Continue the run, which may be refused, but neither hang nor fail otherwise."""
    params = {"w": np.zeros((8, 8), np.float32), "b": np.zeros(7, np.float32)}
    with suppress(TrajfileError), trajfile.Writer(path, "a") as writer:
        writer.append(9, params=params)


def fuzz(folder: Path, name: str, compression: Compression, seed: int, trials: int) -> None:
    """Damage copies of one run; both outcomes must occur, or nothing was tested."""
    whole = metadata_heavy_run(folder / f"whole-{name}", compression)
    path = folder / name
    rng = np.random.default_rng(seed)
    outcomes = set()
    for _ in range(trials):
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        (shutil.copytree if whole.is_dir() else shutil.copyfile)(whole, path)
        flip_some(path, rng)
        outcomes.add(use(path))
        append_to(path)
    assert outcomes == {"clean", "refused"}


def check_apart(seconds: float, *arguments: object) -> None:
    """Run `fuzz` in a process of its own, which a crash of a library or a hang cannot outlive."""
    process = multiprocessing.get_context("spawn").Process(target=fuzz, args=arguments)
    process.start()
    process.join(seconds)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert not hangs
    assert process.exitcode == 0  # negative: ended by that signal; 1: see the traceback printed


@pytest.mark.parametrize(("name", "compression"), FORMS)
def test_only_our_errors_escape(tmp_path: Path, name: str, compression: Compression) -> None:
    trials = 30 if name.endswith(".h5") else 60
    check_apart(60, tmp_path, name, compression, 5, trials)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compression"), FORMS)
def test_only_our_errors_escape_at_length(
    tmp_path: Path, name: str, compression: Compression
) -> None:
    check_apart(900, tmp_path, name, compression, 6, 3000)
