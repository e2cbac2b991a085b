"""Whatever the tiles and the memory, a device gives the answer of the twin."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.property.test_engine import needs_of, runs, same
from tests.twin import measure
from tests.unit.test_device import passed
from trajfile.errors import ResourceError


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_tiling_and_any_memory_gives_the_answer_of_the_twin(data):
    dense = data.draw(runs())
    needs = data.draw(needs_of(dense))
    options = {
        "width": data.draw(st.sampled_from([262144, 16, 5, 1])),
        "lanes": data.draw(st.sampled_from([1, 4])),
        "budget": data.draw(st.sampled_from([2**30, 100_000, 40_000, 20_000])),
        "scratch": data.draw(st.sampled_from([2**20, 2**10])),
        "batched": data.draw(st.booleans()),
    }
    try:
        found, _, _ = passed(dense, needs, kept=None, **options)
    except ResourceError:
        assert options["budget"] < 2**20  # the runs are far smaller
        return
    same(found, measure(dense, needs), 1e-12)
