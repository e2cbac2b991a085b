"""Adding up rows tensor by tensor: each column once, in steps that do not grow with tensors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trajfile.engine.split import GROUP, even, split

SIZES = st.lists(
    st.one_of(
        st.integers(1, 20),
        st.integers(1, 5 * GROUP),
        st.sampled_from([1, 7, 8, 9, GROUP - 1, GROUP, GROUP + 1, 40 * GROUP]),
    ),
    min_size=1,
    max_size=40,
)


def added_up(row, cut):
    """Follow the steps on a row of numbers; what is nowhere written is NaN."""
    buffer = np.full(cut.width, np.nan)
    buffer[: cut.columns] = row
    buffer[cut.zero] = 0
    for step in cut.steps:
        whole = slice(step.at, step.at + step.groups * step.group)
        if step.index is not None:
            index = cut.indices[step.index]
            assert index.max() < step.at  # what is read lies ahead of what is written
            assert len(index) == whole.stop - whole.start
            buffer[whole] = buffer[: step.at][index]
        assert step.into >= whole.stop or step.index is None
        into = slice(step.into, step.into + step.groups)
        buffer[into] = buffer[whole].reshape(step.groups, step.group).sum(1)
    last = cut.indices[cut.last]
    assert last.max() < cut.result
    assert cut.result + cut.tensors <= cut.width
    return buffer[last]


@settings(deadline=None)
@given(SIZES, st.integers(0, 2**32 - 1))
def test_every_column_is_added_to_its_own_tensor_once(sizes, seed):
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    cut = split(bounds)
    # Whole numbers, so that sums are exact in any order.
    row = np.random.default_rng(seed).integers(-(2**40), 2**40, bounds[-1]).astype(float)
    found = added_up(row, cut)
    np.testing.assert_array_equal(found, np.add.reduceat(row, bounds[:-1]))


@settings(deadline=None)
@given(SIZES, st.data())
def test_what_is_not_finite_stays_in_its_tensor(sizes, data):
    bounds = np.concatenate([[0], np.cumsum(sizes)])
    row = np.ones(bounds[-1])
    spoilt = data.draw(st.integers(0, len(row) - 1))
    row[spoilt] = data.draw(st.sampled_from([np.nan, np.inf]))
    found = added_up(row, split(bounds))
    whose = np.searchsorted(bounds, spoilt, "right") - 1
    np.testing.assert_array_equal(np.isfinite(found), np.arange(len(sizes)) != whose)
    np.testing.assert_array_equal(np.delete(found, whose), np.delete(sizes, whose))


@settings(deadline=None)
@given(SIZES)
def test_a_row_takes_no_more_room_than_is_always_left(sizes):
    """The margin of 24 rows behind a sequence: WIDE_BAND of `trajfile.engine.shape`, halved."""
    cut = split(np.concatenate([[0], np.cumsum(sizes)]))
    assert cut.width <= 12 * cut.columns


@pytest.mark.parametrize("tensors", [1, 10, 1000])
def test_the_number_of_steps_depends_on_the_largest_tensor_alone(tensors):
    """128 x 32 x 32 columns are three sums on top of each other; edges are one, or two, more."""
    size = 2**17
    cut = split(np.arange(tensors + 1) * size)
    assert len(cut.steps) == 3
    odd = split(np.concatenate([[0], np.cumsum([size - 77] + [300] * (tensors - 1))]))
    assert len(odd.steps) <= 5


@given(st.integers(1, 10**6), st.integers(1, 10**5))
def test_columns_are_cut_evenly_into_as_few_parts_as_can_be(columns, most):
    part = even(columns, most)
    assert 1 <= part <= most
    assert -(-columns // part) <= -(-columns // max(1, most - most % GROUP or most))
