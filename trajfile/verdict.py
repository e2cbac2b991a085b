"""The headline: which one or two of the metrics' sentences a reader should see first."""

from __future__ import annotations

from collections.abc import Mapping

from trajfile.engine.header import Header
from trajfile.report import MetricResult
from trajfile.schema import GRADIENTS, PARAMS

#: A second sentence must deserve at least this much of the headline.
SECOND_SALIENCE = 0.4

#: The headline already tells what the second metric would say, unless its own salience exceeds
#: the bound: periodic jumps are swings of the effective learning rate, so the regime between
#: them adds nothing short of divergence; non-finite values are what divergence ends in.
_TOLD_BY: dict[tuple[str, str], float] = {
    ("periodicity", "elr"): 0.9,
    ("elr", "periodicity"): 0.9,
    ("norms", "elr"): 1.0,
    ("elr", "norms"): 0.5,
}


def compose(metrics: Mapping[str, MetricResult], header: Header) -> str:
    """What happened, in one or two sentences.

    Args:
        metrics: Results by metric id.
        header: What was known of the run beforehand.

    Returns:
        The most salient sentence; a second one if it is salient enough and not told by the first;
        or, if no metric has anything to tell, a sentence that says why.
    """
    told = [
        (metric_id, result.sentence.strip(), result.salience)
        for metric_id, result in metrics.items()
        if result.status == "ok" and result.sentence
    ]
    told.sort(key=lambda item: -item[2])  # stable: the table's order decides between equals
    if not told:
        return _nothing(metrics, header)
    first_id, first, _ = told[0]
    for second_id, second, salience in told[1:]:
        bound = _TOLD_BY.get((first_id, second_id), 0.0)
        if salience >= SECOND_SALIENCE and salience > bound and second != first:
            return f"{_closed(first)} {_closed(second)}"
    return _closed(first)


def _nothing(metrics: Mapping[str, MetricResult], header: Header) -> str:
    if failed := [metric_id for metric_id, result in metrics.items() if result.status == "error"]:
        return f"Nothing could be determined because {_listed(failed)} failed."
    snapshots = len(header.steps.get(PARAMS, ()))
    if not header.has(PARAMS):
        why = "no snapshot of the parameters was recorded or selected"
    elif snapshots == 1:
        why = "a single snapshot shows no movement; at least two are needed"
    elif not header.has(GRADIENTS):
        why = f"{snapshots} snapshots of the parameters without gradients do not answer it"
    elif any(result.status == "ok" for result in metrics.values()):
        return "The metrics were computed, but none of them shows anything that stands out."
    else:
        why = "the recorded rows are too few for the metrics asked for"
    return f"Nothing could be determined because {why}."


def _closed(sentence: str) -> str:
    return sentence if sentence.endswith((".", "!", "?")) else sentence + "."


def _listed(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
