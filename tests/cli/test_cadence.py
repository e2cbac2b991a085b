import numpy as np
import pytest
from trajfile_cli.render.cadence import cadence


@pytest.mark.parametrize(
    ("steps", "words"),
    [
        ([], ""),
        ([5], "once"),
        ([5, 5, 5], "once"),
        (range(100), "every step"),
        (range(0, 1000, 10), "every 10"),
        (np.repeat(np.arange(0, 50, 10), 8), "every 10"),
        ([b + k for b in range(0, 1000, 100) for k in range(5)], "bursts of 5, every 100"),
        ([*range(0, 1000, 10), 995], "mostly every 10"),
        ([0, 1, 3, 7, 15, 31, 63], "every 1–32, median 6"),
    ],
)
def test_cadence_in_words(steps, words):
    assert cadence(np.asarray(steps, np.int64)) == words
