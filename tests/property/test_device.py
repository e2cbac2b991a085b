"""Whatever the tiles and the memory, a device gives the answer of the twin."""

import numpy as np
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
    }
    try:
        found, _, _ = passed(dense, needs, kept=None, **options)
    except ResourceError:
        assert options["budget"] < 2**20  # the runs are far smaller
        return
    expected = measure(dense, needs)
    same(found, expected, 1e-12)
    for rows, band in expected.bands.items():
        left, right = (np.nanmax(np.append(expected.inner(row, row), 0.0)) for row in rows)
        mine = found.bands[rows]
        for name, values in mine.tensors.items():
            for lag in mine.tensor_lags:
                told = band.tensors[name][:, band.lags.index(lag)]
                close = {"rtol": 0, "atol": 1e-12 * np.sqrt(left * right)}
                np.testing.assert_allclose(values[:, mine.tensor_column(lag)], told, **close)
    for need, grams in expected.sample_grams.items():
        for name, values in found.sample_grams[need].tensors.items():
            most = max((np.abs(gram).max(initial=0) for gram in grams.grams), default=0)
            np.testing.assert_allclose(values, grams.tensors[name], 1e-12, 1e-12 * most)
