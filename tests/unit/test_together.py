"""Commits appended together are to a reader what they would be one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

import trajfile
from trajfile.containers import open_container
from trajfile.containers.digest import digest
from trajfile.containers.journal import Journal
from trajfile.containers.store import COMMIT_ROWS
from trajfile.containers.zarr_store import ZarrStore
from trajfile.errors import RecordError

SUFFIXES = [".h5", ".zarr"]


def appended(writer: trajfile.Writer, step: int) -> None:
    rng = np.random.default_rng(step)
    tensors = {"w": rng.standard_normal((3, 5), np.float32), "b": rng.standard_normal(2)}
    if step >= 90:
        tensors["late"] = rng.standard_normal(4)
    writer.append(
        step,
        params=tensors,
        gradients=tensors if step % 3 else None,
        gradient_samples={n: np.stack([t] * (1 + step % 4)) for n, t in tensors.items()}
        if step % 40 == 0
        else None,
        scalars={"loss": float(step)} if step % 5 else None,
    )


def record(path: Path, steps: range, **options: object) -> Path:
    with trajfile.Writer(path, mode="a", **options) as writer:
        if steps.start == 0:
            writer.declare("gradients", like={"w": np.zeros((3, 5), np.float32), "b": np.zeros(2)})
        for step in steps:
            appended(writer, step)
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_content_is_the_same(suffix: str, tmp_path: Path, monkeypatch) -> None:
    one_by_one = record(tmp_path / f"one{suffix}", range(2 * COMMIT_ROWS + 10))
    sizes: list[int] = []
    append_some = Journal.append_some

    def noting(journal: Journal, commits: list) -> int:
        sizes.append(append_some(journal, commits))
        return sizes[-1]

    monkeypatch.setattr(Journal, "append_some", noting)
    several = record(tmp_path / f"several{suffix}", range(2 * COMMIT_ROWS + 10), background=True)
    assert sum(sizes) == 2 * COMMIT_ROWS + 10
    assert max(sizes) > 1, "nothing was ever queued"
    ends = np.cumsum(sizes)
    for end, size in zip(ends, sizes, strict=True):
        assert (end - 1) // COMMIT_ROWS == (end - size) // COMMIT_ROWS  # in one chunk of the table
    containers = [open_container(path) for path in (one_by_one, several)]
    assert digest(containers[0]) == digest(containers[1])
    # But for the time, and for the identity, which the checksum of the manifest covers.
    tables = [container._table for container in containers]
    np.testing.assert_array_equal(*(np.delete(table, [2, 8, -1], axis=1) for table in tables))
    for container in containers:
        container.close()
    assert not [f for f in trajfile.validate(several) if f.severity == "error"]


def test_each_is_synced_by_itself_against_loss_of_power(tmp_path: Path, monkeypatch) -> None:
    sizes: list[int] = []
    append_some = Journal.append_some
    monkeypatch.setattr(
        Journal,
        "append_some",
        lambda j, commits: sizes.append(append_some(j, commits)) or sizes[-1],
    )
    record(tmp_path / "run.h5", range(30), background=True, durability="power")
    assert sizes == [1] * 30


def test_what_does_not_fit_is_refused_when_its_turn_comes(tmp_path: Path) -> None:
    from trajfile.containers.base import Commit, Rows

    path = record(tmp_path / "run.h5", range(3))
    container = open_container(path, writable=True)
    lanes = {"float32": np.ones((1, 15), np.float32), "float64": np.ones((1, 2))}
    good = [Commit(step, {"params": Rows(lanes)}) for step in range(3, 6)]
    wrong = Commit(6, {"params": Rows({"float32": np.ones((1, 14), np.float32)})})
    assert container.append_some([*good, wrong, *good]) == 3
    with pytest.raises(RecordError, match="step 6"):
        container.append_some([wrong, *good])
    assert container.append_some([Commit(7, {"params": Rows(lanes)})]) == 1
    container.close()
    with trajfile.open(path) as run:
        assert run.steps("params").tolist() == [0, 1, 2, 3, 4, 5, 7]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_refused_write_takes_none_of_them(suffix: str, tmp_path: Path, monkeypatch) -> None:
    from trajfile.containers.base import Commit, Rows
    from trajfile.errors import ResourceError

    path = record(tmp_path / f"run{suffix}", range(3))
    container = open_container(path, writable=True)
    lanes = {"float32": np.ones((1, 15), np.float32), "float64": np.ones((1, 2))}
    commits = [Commit(step, {"params": Rows(lanes)}) for step in range(3, 9)]
    hand_over = Journal._hand_over

    def refused(journal: Journal, keys: list[str]) -> None:
        hand_over(journal, keys)
        if keys == ["commits"]:  # the records are there, and yet it is told that they are not
            raise ResourceError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Journal, "_hand_over", refused)
        with pytest.raises(ResourceError):
            container.append_some(commits)
    assert len(container.commits()) == 3
    store, shown = container._store, []
    save = type(store).save

    def looked_at(self, key: str, start: int, values: np.ndarray) -> None:
        """What a kill in the middle of this write may leave is rows changed in part."""
        save(self, key, start, values)
        if key == "commits" and len(shown) < len(commits):
            assert len(values) == 1
            self.flush([key])
            copy = tmp_path / f"copy{len(shown)}{suffix}"
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
            with trajfile.open(copy) as left:
                shown.append(len(left.container.commits()))

    with monkeypatch.context() as patched:
        patched.setattr(type(store), "save", looked_at)
        assert container.append_some(commits[3:5]) == 2
    assert shown == [8, 7, 6, 5, 4, 3]
    container.close()
    with trajfile.open(path) as run:
        assert run.steps("params").tolist() == [0, 1, 2, 6, 7]


def test_a_reader_that_meets_records_out_of_order_looks_again(tmp_path: Path, monkeypatch) -> None:
    """It may read a page of the table before, and the next one after, they were written."""
    path = record(tmp_path / "run.zarr", range(9))
    load, met = ZarrStore.load, []

    def halfway(store: ZarrStore, key: str, count: int | None = None) -> np.ndarray:
        table = load(store, key, count)
        if key == "commits" and not met:
            met.append(key)
            table[4:6] = 0
        return table

    monkeypatch.setattr(ZarrStore, "load", halfway)
    with trajfile.open(path) as run:
        assert met
        assert run.steps("params").tolist() == list(range(9))


@pytest.mark.parametrize("step", [0, 7, 2**63 - 1, -3])
def test_a_record_covers_the_keys_of_its_rows(step: int) -> None:
    """A step below zero is met where a damaged file is repaired, and refused later, by name."""
    from trajfile.containers.base import Commit, Rows
    from trajfile.containers.commit_rows import records_of
    from trajfile.containers.record import Record, keys_crc, valid_records
    from trajfile.schema import Manifest, StreamSpec

    manifest = Manifest((StreamSpec("params", ()), StreamSpec("gradient_samples", ())))
    rows = {"params": Rows({}), "gradient_samples": Rows({}, np.arange(3, dtype=np.int32))}
    before = Record.empty(2)
    none = np.empty((0, 0))
    (record,) = records_of([Commit(step, rows, wall_ns=5)], manifest, before, none)
    steps = np.full(3, step, np.int64)
    assert record.rows == (1, 3)
    assert record.keys_crcs == (keys_crc(steps[:1], None), keys_crc(steps, np.arange(3)))
    encoded = record.encode()
    assert valid_records(encoded).all()
    assert Record.decode(encoded[0]) == record
