"""`trajfile convert`: a copy in another container, or of some steps and tensors."""

from __future__ import annotations

from typing import Any

from ..options import Compression, Layout, Out, Overwrite, Params, Sources, Steps, Trust


def convert(
    sources: Sources,
    out: Out,
    params: Params = None,
    steps: Steps = None,
    layout: Layout = "rows",
    compression: Compression = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> int:
    """Copy a run to OUT (.h5 or .zarr), verified; run again, it goes on where it was."""
    import trajfile

    from ..render.convert import screen
    from ..render.progress import Progress
    from ..render.terminal import Terminal

    how: Any = {"layout": layout, "compression": compression}  # checked there
    with Progress("converting") as progress:
        done = trajfile.convert(
            sources,
            out,
            params=params or None,
            steps=steps,
            **how,
            overwrite=overwrite,
            trust=trust,
            progress=progress,
        )
    terminal = Terminal()
    terminal.show(*screen(terminal, done))
    return 0
