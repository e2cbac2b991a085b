"""`trajfile validate`: the rules of the format, and what breaks them."""

from __future__ import annotations

from ..exits import CHECK_FAILED
from ..json_target import check_json, write_json
from ..options import Deep, Json, Run, Trust, Untrusted


def validate(
    run: Run,
    deep: Deep = False,
    json: Json = None,
    untrusted: Untrusted = False,
    trust: Trust = False,
) -> int:
    """Check a run against the format's rules; one line a finding; exit code 1 on errors."""
    import trajfile
    from trajfile.findings import Findings

    from ..render.terminal import Terminal
    from ..render.validate import screen

    check_json(json)
    findings = trajfile.validate(run, deep=deep, untrusted=untrusted, trust=trust)
    document = Findings.of(run, findings, deep=deep)
    if json is not None:
        write_json(json, document.to_json())
    if json != "-":
        terminal = Terminal()
        terminal.show(*screen(terminal, run, findings, deep=deep), fit="whole")
    return 0 if document.valid else CHECK_FAILED
