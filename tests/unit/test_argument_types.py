"""Arguments of a wrong type are refused with a sentence, not with whatever breaks first."""

from pathlib import Path

import pytest

import trajfile
from trajfile.errors import UsageError

RUN = Path(__file__).parents[2] / "sample_data/two_phases.h5"


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"steps": (0, 10)}, "slice"),
        ({"steps": slice("a", None)}, "slice"),
        ({"steps": slice(0, 2.5)}, "slice"),
        ({"metrics": [3]}, "ids"),
        ({"metrics": 3}, "ids"),
        ({"device": None}, "None"),
        ({"device": 3}, "one of auto, cpu"),
        ({"params": 3}, "globs"),
        ({"params": [3]}, "globs"),
        ({"memory": None}, "None"),
        ({"options": ["norms.spike_window"]}, "mapping"),
        ({"options": {3: 4}}, "mapping"),
        ({"around": "5"}, "whole number"),
        ({"around": 5, "window": 2.5}, "whole number"),
    ],
    ids=str,
)
def test_a_wrong_type_is_refused(wrong, says):
    with pytest.raises(UsageError, match=says):
        trajfile.analyze(RUN, **wrong)


def test_one_metric_and_one_glob_may_be_given_as_text():
    name = next(iter(trajfile.open(RUN).tensors("params")))
    report = trajfile.analyze(RUN, metrics="norms", params=name, steps="0:50")
    assert list(report.metrics) == ["norms"]
    assert report.source.tensors == 1


@pytest.mark.parametrize("call", [trajfile.open, trajfile.analyze, trajfile.validate])
@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("", "is empty"),
        ("https://host/x.h5", "https://host/x.h5: remote runs are not supported"),
        ("gs://bucket/x.zarr", "remote"),
        (None, "None"),
        (3, "3"),
    ],
)
def test_a_path_that_is_none_is_refused(call, path, says):
    with pytest.raises(UsageError, match=says):
        call(path)
