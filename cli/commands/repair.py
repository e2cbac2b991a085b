"""`trajfile repair`: what survived, and a clean file of it."""

from __future__ import annotations

from ..exits import CHECK_FAILED
from ..options import InPlace, Json, Repaired, Run


def repair(run: Run, out: Repaired = None, in_place: InPlace = False, json: Json = None) -> int:
    """Save what is whole of a damaged run to a clean file; exit code 1 if anything is lost."""
    from pathlib import Path

    import trajfile
    from trajfile.whole_file import whole_file

    from ..render.repair import screen
    from ..render.terminal import Terminal

    report = trajfile.repair(run, out, in_place=in_place)
    if json is not None:
        import msgspec

        text = msgspec.json.format(msgspec.json.encode(report.to_dict()), indent=2)
        if json == "-":
            print(text.decode())
        else:
            with whole_file(Path(json)) as file:
                file.write(text + b"\n")
    if json != "-":
        terminal = Terminal()
        terminal.show(*screen(terminal, report), fit="whole")
    return CHECK_FAILED if report.lossy else 0
