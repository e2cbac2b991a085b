"""Memory that is used again: never more of it than was said, and never two owners at once."""

from __future__ import annotations

import numpy as np
import pytest

import trajfile
from trajfile.memory import Pool, cleared


@pytest.mark.parametrize("size", [0, 1, 2**21 - 1, 2**21, 2**21 + 4097])
def test_fresh_memory_is_clear_and_of_the_size_asked_for(size):
    memory = cleared(size)
    assert memory.shape == (size,)
    assert not memory.any()
    memory[:] = 1
    assert int(memory.sum(dtype=np.int64)) == size


def test_what_is_given_back_is_handed_out_again_and_not_before():
    pool = Pool(1000)
    first, second = pool.lease(), pool.lease()
    a = first.rows(2, 25, np.dtype(np.float32))
    b = second.rows(2, 25, np.dtype(np.float32))
    assert a.shape == (2, 25)
    assert not np.shares_memory(a, b)
    first.end()
    c = pool.lease().rows(1, 100, np.dtype(np.int16))
    assert np.shares_memory(a, c)
    assert not np.shares_memory(b, c)
    assert pool.nbytes == 800  # as much again was cut beside them


def test_free_memory_makes_room_for_other_sizes():
    pool = Pool(1000)
    lease = pool.lease()
    for _ in range(2):
        lease.rows(1, 400, np.dtype(np.uint8))
    lease.end()
    assert pool.nbytes == 800
    lease = pool.lease()
    lease.rows(1, 500, np.dtype(np.uint8))
    assert pool.nbytes == 900  # one of the two had to go
    lease.rows(1, 2000, np.dtype(np.uint8))
    assert pool.nbytes == 2500  # larger than the limit, alone
    lease.end()
    assert pool.nbytes <= 1000


def test_without_a_limit_nothing_is_kept():
    pool = Pool()
    lease = pool.lease()
    lease.rows(3, 5, np.dtype(np.float64))
    assert pool.nbytes == 120
    lease.end()
    assert pool.nbytes == 0


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_rows_recorded_through_used_memory_hold_their_own_values(tmp_path, suffix):
    """Also a row that lacks a tensor, whose columns are zero and not what was there before."""
    path = tmp_path / f"run{suffix}"
    with trajfile.Writer(path, background=True, queue_bytes=3000) as writer:
        for step in range(40):
            tensors = {"a": np.full(50, step + 1, np.float32), "b": np.full(50, -step, np.float32)}
            slot = tensors if step >= 20 else {"b": tensors["b"]}
            writer.append(step, params=tensors, optimizer={"exp_avg": slot})
            assert writer._committing._pool.nbytes <= 3000
    with trajfile.open(path) as run:
        for step in range(40):
            assert (run["params"]["a"][step] == step + 1).all()
            assert (run["params"]["b"][step] == -step).all()
        rows = np.empty((40, 100), np.float32)
        run.container.read("optimizer/exp_avg", "float32", slice(0, 40), slice(0, 100), rows)
    steps = np.arange(40, dtype=np.float32)[:, None]
    assert (rows[:, :50] == -steps).all()  # a tensor that joins gets the columns behind
    assert (rows[:, 50:] == np.where(steps >= 20, steps + 1, 0)).all()


def test_small_rows_are_cut_from_larger_memory_and_have_one_owner_each():
    pool = Pool(2**20)
    leases = [pool.lease() for _ in range(100)]
    rows = [lease.rows(2, 500, np.dtype(np.float32)) for lease in leases]
    for number, row in enumerate(rows):
        row[...] = number
    assert [set(row.reshape(-1).tolist()) for row in rows] == [{number} for number in range(100)]
    cut = 2**20 // 4000 * 4000  # of one piece of memory, counted whole
    assert pool.nbytes <= cut
    for lease in leases:
        lease.end()
    assert pool.nbytes <= cut
    again = [pool.lease().rows(2, 500, np.dtype(np.float32)) for _ in range(300)]
    places = sorted(row.__array_interface__["data"][0] for row in again)
    assert min(np.diff(places)) >= 4000
    assert pool.nbytes == 1_200_000  # beyond the limit only because all of it is in use


def test_rows_of_many_sizes_take_no_more_than_the_limit():
    """Those few that come first are cut from larger memory, and all of that counts."""
    pool = Pool(2**20)
    for size in range(1000, 40_000, 500):
        lease = pool.lease()
        lease.rows(1, size, np.dtype(np.uint8))
        assert pool.nbytes <= 2**20
        lease.end()
    assert len(pool._uncut) <= 4
