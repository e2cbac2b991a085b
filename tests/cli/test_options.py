import pytest
from trajfile_cli.options import metric_ids, metric_options

from trajfile.errors import UsageError


def test_metric_ids():
    assert metric_ids(None) is None
    assert metric_ids("norms") == ["norms"]
    assert metric_ids(" norms, elr ,") == ["norms", "elr"]
    for text in ("", " , "):
        with pytest.raises(UsageError, match="names no metric"):
            metric_ids(text)


def test_metric_options_are_read_as_json_scalars_or_words():
    assert metric_options(None) == {}
    assert metric_options(
        [
            "periodicity.delta=0.05",
            "sharpness.window=6",
            "a.flag=true",
            "a.none=null",
            "a.word=sharpness",
            "a.text=x=[1]",
            "a.empty=",
        ]
    ) == {
        "periodicity.delta": 0.05,
        "sharpness.window": 6,
        "a.flag": True,
        "a.none": None,
        "a.word": "sharpness",
        "a.text": "x=[1]",
        "a.empty": "",
    }


@pytest.mark.parametrize("setting", ["delta=1", "periodicity.delta", ".delta=1", "a.=1", ""])
def test_malformed_settings_are_refused_with_an_example(setting):
    with pytest.raises(UsageError, match=r"for example periodicity\.delta=0\.05"):
        metric_options([setting])


def test_a_setting_given_twice_is_refused():
    with pytest.raises(UsageError, match="given twice"):
        metric_options(["a.b=1", "a.b=2"])
