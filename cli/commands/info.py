"""`trajfile info`: what is in the file."""

from __future__ import annotations

from ..options import Everything, Run, Trust, Untrusted


def info(
    run: Run,
    everything: Everything = False,
    untrusted: Untrusted = False,
    trust: Trust = False,
) -> int:
    """Show what a run holds: steps, streams, tensors, dtypes, sizes."""
    import trajfile

    from ..render.info import screen
    from ..render.terminal import Terminal

    with trajfile.open(run, untrusted=untrusted, trust=trust) as trajectory:
        terminal = Terminal()
        terminal.show(*screen(terminal, trajectory, everything=everything))
    return 0
