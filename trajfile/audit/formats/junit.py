"""JUnit XML, which every CI system shows: an input is a test case, a violation a failure."""

from __future__ import annotations

from collections.abc import Iterator
from xml.sax.saxutils import escape, quoteattr

from trajfile.audit.formats.result import Result, printable
from trajfile.audit.ledger import fails
from trajfile.audit.outcome import Outcome


def junit(result: Result) -> Iterator[str]:
    """One test suite.

    An input that could not be examined is an error; one that fails the batch has a failure with
    all that it broke; the rest is written to the output of its test case.

    Args:
        result: The batch.

    Yields:
        Pieces of the document.
    """
    total = result.summary
    errors = sum(
        outcome.status != "ok" for outcome in result.outcomes() if _failing(result, outcome)
    )
    counts = (
        f'tests="{total.inputs}" failures="{total.failing - errors}" errors="{errors}" '
        f'time="{total.seconds:.3f}"'
    )
    yield '<?xml version="1.0" encoding="UTF-8"?>\n'
    yield f'<testsuites name="trajfile audit" {counts}>\n'
    yield f'<testsuite name="trajfile audit" {counts}>\n'
    for outcome in result.outcomes():
        name = quoteattr(printable(outcome.path))
        head = f'<testcase classname="trajfile.audit" name={name} time="{outcome.seconds:.3f}"'
        said = "\n".join(_lines(outcome))
        if _failing(result, outcome):
            tag = "failure" if outcome.status == "ok" else "error"
            first = next(v for v in outcome.violations if not v.known)
            yield (
                f"{head}>\n<{tag} type={quoteattr(first.rule)} "
                f"message={quoteattr(printable(first.message))}>{escape(said)}</{tag}>\n"
                "</testcase>\n"
            )
        elif said:
            yield f"{head}>\n<system-out>{escape(said)}</system-out>\n</testcase>\n"
        else:
            yield f"{head}/>\n"
    yield "</testsuite>\n</testsuites>\n"


def _failing(result: Result, outcome: Outcome) -> bool:
    return fails(outcome, result.rules.fail_on)


def _lines(outcome: Outcome) -> Iterator[str]:
    for item in outcome.violations:
        known = " (known)" if item.known else ""
        yield f"{item.severity} {item.rule}{known}: {printable(item.message)} {item.remedy}"
