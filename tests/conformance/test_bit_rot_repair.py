"""Each byte flipped, then repaired: nothing saved differs, and nothing is lost unsaid."""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest

import trajfile
from tests.conformance.bit_rot import Flip, record, record_killed, sampled
from tests.unit.test_repair import rows_of
from trajfile.errors import FormatError

FORMS = [
    pytest.param("run.h5", "gzip", record, id="hdf5-gzip"),
    pytest.param("run.zarr", None, record, id="zarr"),
    pytest.param("run.h5", None, record_killed, id="hdf5-killed"),
]


def repair_one(run: Path, flip: Flip, whole: dict, outcomes: Counter) -> None:
    """Flip, repair, compare, and put back."""
    out = run.with_name(f"out{run.suffix}")
    descriptor = os.open(flip.file, os.O_RDWR)
    before = os.pread(descriptor, 1, flip.offset)
    os.pwrite(descriptor, bytes([before[0] ^ flip.pattern]), flip.offset)
    try:
        report = trajfile.repair(run, out)
    except FormatError:
        outcomes["nothing saved"] += 1
        return
    finally:
        os.pwrite(descriptor, before, flip.offset)
        os.close(descriptor)
    saved = rows_of(out)
    shutil.rmtree(out) if out.is_dir() else out.unlink()
    # Samples after a lost one are counted anew: what they hold is compared, not their number.
    known = {(*key[:3], bits) for key, bits in whole.items()}
    found = {(*key[:3], bits) for key, bits in saved.items()}
    assert found <= known, flip
    assert report.lossy == (len(saved) < len(whole)), (flip, report)
    kind = "lossy" if report.lossy else "mended" if report.mended else "whole"
    outcomes[kind] += 1


def study(run: Path, count: int, seed: int) -> None:
    """Repair many times over."""
    whole = rows_of(run)
    outcomes: Counter[str] = Counter()
    for flip in sampled(run, count, seed):
        repair_one(run, flip, whole, outcomes)
    print(f"{count} bytes flipped and repaired: {dict(outcomes)}", flush=True)
    assert len(outcomes) > 1


def apart(seconds: float, *arguments: object) -> None:
    """In a process of its own, which neither a crash nor a hang outlives."""
    process = multiprocessing.get_context("fork").Process(target=study, args=arguments)
    process.start()
    process.join(seconds)
    hangs = process.is_alive()
    process.kill()
    process.join()
    assert not hangs
    assert process.exitcode == 0


@pytest.mark.parametrize(("name", "compression", "make"), FORMS[:2])
def test_some_bytes(tmp_path: Path, name: str, compression: str | None, make) -> None:
    apart(120, make(tmp_path / name, compression), 12, 11)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "compression", "make"), FORMS)
def test_many_bytes(tmp_path: Path, name: str, compression: str | None, make) -> None:
    apart(3000, make(tmp_path / name, compression), 1000, 12)
