"""The choice of snapshots."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trajfile.replay.snapshots import visit


@given(
    count=st.integers(0, 60),
    budget=st.integers(1, 40),
    values=st.lists(st.floats(), min_size=60, max_size=60),
)
def test_each_place_once_as_many_as_allowed_and_the_ends_among_them(count, budget, values):
    asked = []

    def measure(place):
        asked.append(place)
        return values[place]

    known = visit(count, budget, measure)
    assert len(asked) == len(set(asked)) == len(known) == min(count, budget)
    assert list(known) == sorted(asked)
    assert all(0 <= place < count for place in known)
    if len(known) > 1:
        assert {0, count - 1} <= set(known)


def test_a_step_is_closed_in_on():
    known = visit(1000, 16, lambda place: 1.0 if place < 637 else 5.0)
    before = max(place for place, value in known.items() if value == 1.0)
    after = min(place for place, value in known.items() if value == 5.0)
    assert before < 637 <= after
    assert after - before <= 2  # 143 apart after the even half, halved seven or eight times


def test_where_nothing_changes_the_gaps_are_halved():
    places = list(visit(129, 9, lambda place: 2.0))
    assert max(b - a for a, b in pairwise(places)) <= 32
