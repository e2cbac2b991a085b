"""Each byte of a run flipped: detected or harmless, never another number, a crash or a hang."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.bit_rot import (
    DETECTED,
    GROUP,
    HARMLESS,
    in_groups,
    one_by_one,
    record,
    record_killed,
    rot,
    sampled,
    told,
)

FORMS = [
    pytest.param("run.h5", None, record, id="hdf5"),
    pytest.param("run.h5", "zstd", record, id="hdf5-zstd"),
    pytest.param("run.h5", None, record_killed, id="hdf5-killed"),
    pytest.param("run.zarr", None, record, id="zarr"),
    pytest.param("run.zarr", "gzip", record, id="zarr-gzip"),
    pytest.param("run.zarr", None, record_killed, id="zarr-killed"),
]


@pytest.mark.parametrize(("name", "compression", "make"), FORMS)
def test_some_bytes(tmp_path: Path, name: str, compression: str | None, make, figure) -> None:
    run = make(tmp_path / name, compression)
    outcomes = rot(run, sampled(run, 100, seed=41))
    figure(f"{run.name} {compression or ''} {make.__name__}: {told(outcomes)} of 100 bytes flipped")
    assert set(outcomes) == {HARMLESS, DETECTED}


@pytest.mark.slow
@pytest.mark.parametrize("bits", [False, True], ids=["all-bits", "one-bit"])
@pytest.mark.parametrize(("name", "compression", "make"), FORMS)
def test_every_byte(
    tmp_path: Path, name: str, compression: str | None, make, bits: bool, figure
) -> None:
    """Where many neighbours may be flipped at once without notice, nobody reads them."""
    run = make(tmp_path / name, compression, spare=False)
    groups = in_groups(run)
    outcomes = rot(run, groups)
    unread = sum(g.length for g, o in zip(groups, outcomes, strict=True) if o == HARMLESS)
    read = [g for g, o in zip(groups, outcomes, strict=True) if o != HARMLESS]
    alone = rot(run, one_by_one(read, bits=bits))
    size = sum(group.length for group in groups)
    assert unread + len(alone) == size
    figure(
        f"{run.name} {compression or ''} {make.__name__}: {size} bytes flipped, {unread} unread "
        f"ones in groups of {GROUP}, the others by themselves: {told(alone)}"
    )
    assert set(outcomes) | set(alone) == {HARMLESS, DETECTED}
