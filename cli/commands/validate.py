"""`trajfile validate`: the rules of the format, and what breaks them."""

from __future__ import annotations

from ..exits import CHECK_FAILED
from ..options import Deep, Run


def validate(run: Run, deep: Deep = False) -> int:
    """Check a run against the format's rules; one line a finding; exit code 1 on errors."""
    import trajfile

    from ..render.terminal import Terminal
    from ..render.validate import screen

    findings = trajfile.validate(run, deep=deep)
    terminal = Terminal()
    terminal.show(*screen(terminal, run, findings, deep=deep), fit="whole")
    return CHECK_FAILED if any(finding.severity == "error" for finding in findings) else 0
