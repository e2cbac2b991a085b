"""`trajfile analyze`: one pass over the file, every metric, a report."""

from __future__ import annotations

from typing import Any

from ..json_target import check_json, write_json
from ..options import (
    Around,
    Device,
    Json,
    Memory,
    Metrics,
    NoCache,
    Params,
    Plan,
    Profile,
    Replay,
    Run,
    Set,
    SkipDamaged,
    Steps,
    Trust,
    Untrusted,
    Window,
    metric_ids,
    metric_options,
)


def analyze(
    run: Run,
    metrics: Metrics = None,
    params: Params = None,
    steps: Steps = None,
    around: Around = None,
    window: Window = None,
    device: Device = "auto",
    memory: Memory = "2GiB",
    json: Json = None,
    plan: Plan = False,
    option: Set = None,
    replay: Replay = None,
    skip_damaged: SkipDamaged = False,
    untrusted: Untrusted = False,
    trust: Trust = False,
    no_cache: NoCache = False,
    profile: Profile = False,
) -> int:
    """Compute the metrics in one pass over a run and report what the optimizer did."""
    from trajfile import open as open_run
    from trajfile.errors import UsageError

    from ..render.terminal import Terminal

    if profile and untrusted:
        raise UsageError("--profile looks into the process, which --untrusted keeps apart")
    if plan and json is not None:
        raise UsageError("--plan computes no report, so there is none for --json to write")
    check_json(json)
    selection: dict[str, Any] = {
        "metrics": metric_ids(metrics),
        "params": params or None,
        "steps": steps,
        "around": around,
        "window": window,
        "device": device,
        "memory": memory,
        "options": metric_options(option),
        "replay": replay,
        "skip_damaged": skip_damaged,
    }
    terminal = Terminal()
    opened = "--untrusted" if untrusted else "--trust" if trust else ""
    with open_run(run, untrusted=untrusted, trust=trust) as trajectory:
        if plan:
            from trajfile.analyze import plan as plan_of

            from ..render.plan import screen as plan_screen

            made = plan_of(trajectory, **selection)
            terminal.show(*plan_screen(terminal, run, made, looked=skip_damaged))
            return 0

        from trajfile.analyze import analyze as report_on
        from trajfile.around import steps_of
        from trajfile.skipping import without

        from ..render.analyze import screen
        from ..render.progress import Progress

        with Progress() as progress:
            if untrusted:
                report = report_on(run, **selection, untrusted=True)
            else:
                report = report_on(
                    trajectory, progress=progress, cache=not no_cache, profile=profile, **selection
                )
        if json is not None:
            write_json(json, report.to_json())
        if json == "-":
            return 0
        event = report.run.around
        narrowed = steps if event is None else steps_of(event)
        header = without(trajectory.header(selection["params"], narrowed), report.findings)
        terminal.write(screen(terminal, report, header, opened=opened))
        if report.run.profile is not None:
            from ..render.profile import screen as profile_screen

            terminal.write(["", *profile_screen(terminal, report.run)])
    return 0
