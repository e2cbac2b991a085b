"""`trajfile convert`: a copy in another container, or of some steps and tensors."""

from __future__ import annotations

from typing import Any

from ..options import Compression, Out, Overwrite, Params, Sources, Steps


def convert(
    sources: Sources,
    out: Out,
    params: Params = None,
    steps: Steps = None,
    compression: Compression = "none",
    overwrite: Overwrite = False,
) -> int:
    """Copy a run to OUT (.h5 or .zarr), verified; run again, it goes on where it was."""
    import trajfile

    from ..render.convert import screen
    from ..render.progress import Progress
    from ..render.terminal import Terminal

    asked: Any = None if compression == "none" else compression
    with Progress("converting") as progress:
        done = trajfile.convert(
            sources,
            out,
            params=params or None,
            steps=steps,
            compression=asked,
            overwrite=overwrite,
            progress=progress,
        )
    terminal = Terminal()
    terminal.show(*screen(terminal, done))
    return 0
