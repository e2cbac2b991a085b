"""A batch: inputs in, outcomes into a ledger, a summary out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from trajfile.audit.examine import Outcome, Settings, identity_of
from trajfile.audit.ledger import Ledger, Summary, fails

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
    reused: list[Outcome] = []

    def fresh() -> Iterator[str]:
        for path in paths:
            earlier = ledger.find(path) if len(ledger) else None
            if earlier is not None and earlier.identity == identity_of(path):
                reused.append(earlier)
            else:
                yield path

    count = 0
    # Those that are reused are told as they are come upon, between those examined.
    for outcome in chain(examiner(fresh()), [None]):
        while reused:
            told(reused.pop())
            count += 1
        if outcome is None:
            break
        ledger.add(outcome)
        told(outcome)
        if fail_fast and fails(outcome, fail_on):
            break
    return ledger.summary(fail_on, count)
