"""`trajfile export`: tensors into a file that other programs read."""

from __future__ import annotations

from ..options import Out, Overwrite, Run, Steps, Stream, Tensors, Trust


def export(
    run: Run,
    tensor: Tensors,
    out: Out,
    stream: Stream = "params",
    steps: Steps = None,
    overwrite: Overwrite = False,
    trust: Trust = False,
) -> int:
    """Write tensors over their steps to OUT: .npz, .safetensors or .csv, by its suffix."""
    import trajfile

    from ..render.export import screen
    from ..render.terminal import Terminal

    written = trajfile.export(
        run, out, tensor, stream=stream, steps=steps, overwrite=overwrite, trust=trust
    )
    terminal = Terminal()
    terminal.show(*screen(terminal, written))
    return 0
