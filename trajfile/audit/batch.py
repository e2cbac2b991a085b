"""A batch: inputs in, outcomes into a ledger, a summary out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from trajfile.audit.content import identity_of
from trajfile.audit.ledger import Ledger, Summary, fails
from trajfile.audit.outcome import Outcome, Settings

Examiner = Callable[[Iterable[str]], Iterator[Outcome]]


def run_batch(
    paths: Iterable[str],
    examiner: Examiner,
    settings: Settings,
    ledger: Ledger,
    *,
    fail_fast: bool = False,
    told: Callable[[Outcome], None] = lambda outcome: None,
) -> Summary:
    """Examine inputs and note every outcome.

    Args:
        paths: The inputs.
        examiner: What examines them, in whatever processes.
        settings: How; decides which severity fails.
        ledger: Where outcomes go. Inputs it has already, with the content they have now, are not
            examined again.
        fail_fast: Whether to stop at the first input that fails.
        told: Called with every outcome, also with those that were there already.

    Returns:
        The summary over all of the ledger.
    """
    fail_on = settings.rules.fail_on
    resumes = len(ledger) > 0
    reused = 0

    def fresh() -> Iterator[str]:
        nonlocal reused
        for path in paths:
            earlier = ledger.find(path) if resumes else None
            if earlier is not None and earlier.identity == identity_of(path):
                reused += 1
                told(earlier)  # as it is come upon, between those examined
            else:
                yield path

    for outcome in examiner(fresh()):
        ledger.add(outcome)
        told(outcome)
        if fail_fast and fails(outcome, fail_on):
            break
    return ledger.summary(fail_on, reused)
