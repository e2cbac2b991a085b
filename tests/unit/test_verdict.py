import numpy as np
import pytest

from trajfile.engine.header import Header
from trajfile.report import MetricResult
from trajfile.schema import TensorSpec
from trajfile.verdict import compose


def header(**rows: int) -> Header:
    return Header(
        steps={name: np.arange(count) for name, count in rows.items()},
        tensors={name: {"w": TensorSpec("w", (2,), "float32", 0)} for name in rows},
        scalars={},
        optimizer={},
        groups={},
        gradient={},
        metadata={},
    )


RUN = header(params=10, gradients=10)


def told(sentence: str | None, salience: float) -> MetricResult:
    return MetricResult("ok", sentence=sentence, salience=salience)


def test_most_salient_sentence_leads_whatever_the_order_of_the_metrics():
    metrics = {
        "norms": told("Plain.", 0.1),
        "imbalance": told("Two phases.", 0.8),
        "alignment": told("Aligned.", 0.35),
    }
    assert compose(metrics, RUN) == "Two phases."
    assert compose(dict(reversed(metrics.items())), RUN) == "Two phases."


def test_second_sentence_needs_salience_of_at_least_point_four():
    first = told("At the edge", 0.85)
    assert compose({"sharpness": first, "geometry": told("Far", 0.39)}, RUN) == "At the edge."
    both = compose({"sharpness": first, "gradient_noise": told("Noise", 0.4)}, RUN)
    assert both == "At the edge. Noise."


def test_never_more_than_two_sentences():
    metrics = {
        "elr": told("A.", 0.75),
        "imbalance": told("B.", 0.8),
        "sharpness": told("C.", 0.85),
    }
    assert compose(metrics, RUN) == "C. B."


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (("periodicity", 0.9), ("elr", 0.75), "first."),
        (("elr", 0.95), ("periodicity", 0.9), "first."),
        (("norms", 1.0), ("elr", 0.95), "first."),
        (("norms", 1.0), ("sharpness", 0.85), "first. second."),
    ],
)
def test_what_the_headline_already_tells_is_not_told_twice(first, second, expected):
    metrics = {first[0]: told("first.", first[1]), second[0]: told("second.", second[1])}
    assert compose(metrics, RUN) == expected


def test_a_told_sentence_makes_room_for_the_next_one():
    metrics = {
        "periodicity": told("Jumps.", 0.9),
        "elr": told("Equilibrium.", 0.75),
        "alignment": told("Misaligned.", 0.7),
    }
    assert compose(metrics, RUN) == "Jumps. Misaligned."


def test_sentences_of_metrics_that_are_not_ok_do_not_count():
    metrics = {"elr": MetricResult("insufficient", "too few", sentence="Bold claim.", salience=1.0)}
    assert compose(metrics, RUN).startswith("Nothing could be determined because")


@pytest.mark.parametrize(
    ("run", "status", "words"),
    [
        (header(), "skipped", "no snapshot of the parameters"),
        (header(params=1), "insufficient", "a single snapshot"),
        (header(params=7), "skipped", "7 snapshots of the parameters without gradients"),
        (RUN, "insufficient", "too few"),
        (RUN, "error", "norms failed"),
    ],
)
def test_nothing_to_tell_is_said_with_its_reason(run, status, words):
    verdict = compose({"norms": MetricResult(status, "reason")}, run)
    assert verdict.startswith("Nothing could be determined because")
    assert words in verdict


def test_computed_but_silent_metrics_are_not_called_undetermined():
    assert "none of them shows anything" in compose({"norms": MetricResult("ok")}, RUN)
