"""A warm process with the shim in it that forks a recording, lets it die, and looks at the rest.

    python -m tests.durability.forge FOLDER

reads one trial a line as JSON and answers each with a line of JSON. A trial records into a fresh
path, is killed as it says, perhaps again while it resumes, and is then resumed to its end.
"""

from __future__ import annotations

import gc
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import hdf5plugin  # noqa: F401  (warm)

import trajfile
from tests.durability.runs import Run, digest_of, uninterrupted, visible
from tests.durability.shim import COUNT, ERRORS, EVER, FAIL, SHORT, Shim

with suppress(ImportError):
    import trajfile.containers.kernels  # noqa: F401  (warm)

SHIM = Shim()
_PATIENCE = 60


def forked(work: Callable[[Callable[[str], None]], None], after: float | None = None) -> Any:
    """Run something in a fork; its lines, how it ended, and what it raised.

    Args:
        work: Called with a function that says a line to the parent.
        after: Seconds until it is killed, if it is to be.
    """
    reader, writer = os.pipe()
    gc.freeze()  # or each child looks through all that is imported, and has it copied
    child = os.fork()
    if child == 0:
        os.close(reader)
        signal.alarm(_PATIENCE)

        def say(line: str) -> None:
            os.write(writer, line.encode() + b"\n")

        try:
            work(say)
        except BaseException:
            SHIM.disarm()
            say("error " + json.dumps(traceback.format_exc()))
        os._exit(0)
    os.close(writer)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reader) as lines:
        said = lines.read().splitlines()
    _, status = os.waitpid(child, 0)
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    errors = [json.loads(line[6:]) for line in said if line.startswith("error ")]
    if ended == signal.SIGALRM:
        errors.append(f"still running after {_PATIENCE} s")
    return said, ended, errors


def record(run: Run, path: Path, life: int, say: Callable[[str], None], **more: Any) -> None:
    """Record from wherever the file ends to the last step, saying what is committed.

    A thread has to wait for the end of each group, so that it always makes the same calls.
    """
    writer = run.writer(path, **more)
    start = 0 if writer.committed_step is None else writer.committed_step + 1
    say(f"opened {start}")
    waiting = ExitStack()
    for step in range(start, run.steps):
        say(f"begun {step}")
        writer.append(step, **run.arguments(step, life))
        if writer._committing._queue is None or step == start or step % run.group == run.group - 1:
            waiting.close()
            writer.flush()
            if writer._committing._queue is not None:
                waiting.enter_context(writer._committing._queue._changed)
        if writer.committed_step is not None:
            say(f"durable {writer.committed_step}")
    waiting.close()
    writer.flush()
    say(f"durable {writer.committed_step}")
    writer.close()
    say(f"calls {SHIM.calls()}")


def counted(run: Run, place: Path, say: Callable[[str], None]) -> None:
    """Record without a kill, saying how many calls could be one."""
    SHIM.arm(place, COUNT)
    record(run, place / f"run{run.suffix}", 0, say)


def trial(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One recording, one or more kills, one check, one resumption."""
    run = Run(**job["run"])
    place = folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    path = place / f"run{run.suffix}"
    resume_step = job.get("resume_step")
    lives = [0] * run.steps
    durable = -1
    begun = durable
    signals = []
    problems: list[str] = []
    for life, kill in enumerate(job["kills"]):
        more = {"resume_step": resume_step} if resume_step is not None and life else {}

        def work(
            say: Callable[[str], None],
            kill: dict[str, Any] = kill,
            more: Any = more,
            life: int = life if resume_step is not None else 0,
        ) -> None:
            SHIM.arm(place, kill.get("action", COUNT), kill.get("at", 1))
            record(run, path, life, say, **more)

        said, ended, errors = forked(work, kill.get("after"))
        signals.append(ended)
        problems += errors
        words = [line.split(" ", 1) for line in said]
        if any(word == "opened" for word, _ in words) and more and resume_step <= durable:
            lives[resume_step:] = [life] * (run.steps - resume_step)
            durable = begun = resume_step - 1
        durable = max([durable, *(int(n) for word, n in words if word == "durable")])
        begun = max([begun, *(int(n) for word, n in words if word == "begun")])
    outcome: dict[str, Any] = {"durable": durable, "begun": begun, "signals": signals}

    def look(say: Callable[[str], None]) -> None:
        shown = 0
        seen = lives
        if path.exists():
            if resume_step is not None:
                with trajfile.open(path) as trajectory:
                    taken_back = len(trajectory.manifest.lineage)
                # Killed before it said that it had opened, it may or may not have taken back.
                seen = [0] * resume_step + [min(1, taken_back)] * (run.steps - resume_step)
            shown = visible(path, run, seen)
        least = durable + 1
        if resume_step is not None and seen != lives:
            least = min(least, resume_step)
        assert shown >= least, f"{shown} steps left of {least} committed ones"
        assert shown <= begun + 1, f"{shown} steps shown, {begun + 1} begun"
        say(f"shown {shown}")
        if resume_step is not None:
            with run.writer(path, resume_step=resume_step):
                pass
            seen = [0] * resume_step + [1] * (run.steps - resume_step)
        with run.writer(path) as writer:
            start = 0 if writer.committed_step is None else writer.committed_step + 1
            for step in range(start, run.steps):
                writer.append(step, **run.arguments(step, seen[step]))
        broken = [f for f in trajfile.validate(path) if f.severity == "error"]
        assert not broken, broken
        assert digest_of(path) == uninterrupted(run, tuple(seen), folder / "whole")
        assert sorted(place.iterdir()) == [path], "something was left behind"

    said, _, errors = forked(look)
    problems += errors
    outcome["shown"] = next((int(line[6:]) for line in said if line.startswith("shown")), None)
    return {**outcome, "problems": problems}


def refusal(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One recording that meets a system that refuses to write, for a while.

    What is refused may be housekeeping (trimming a shape), of which nobody needs to hear.
    """
    run = Run(**job["run"])
    refuse, fresh = job["refuse"], job["way"] == "fresh"
    place = folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    path = place / f"run{run.suffix}"

    def work(say: Callable[[str], None]) -> None:
        SHIM.arm(
            place,
            SHORT if refuse["kind"] == "short" else FAIL,
            refuse["at"],
            1 if refuse["kind"] == "once" else EVER,
            ERRORS[refuse["error"]],
        )
        writer = run.writer(path)
        refusals = step = 0
        while step < run.steps:
            try:
                writer.append(step, **run.arguments(step))
                writer.flush()
                step += 1
            except trajfile.ResourceError as error:
                if str(path) not in str(error) or "\n" in str(error):
                    raise
                refusals += 1
                committed = -1 if writer.committed_step is None else writer.committed_step
                if path.exists():
                    assert visible(path, run, [0] * run.steps) >= committed + 1
                if refusals == 3 or refuse["kind"] == "once":
                    SHIM.disarm()
                while fresh:
                    try:
                        writer.close()
                        writer = run.writer(path)
                        break
                    except trajfile.ResourceError:
                        refusals += 1
                        SHIM.disarm()
                step = 0 if writer.committed_step is None else writer.committed_step + 1
        SHIM.disarm()
        writer.close()
        broken = [f for f in trajfile.validate(path) if f.severity == "error"]
        assert not broken, broken
        assert digest_of(path) == uninterrupted(run, (0,) * run.steps, folder / "whole")
        assert sorted(place.iterdir()) == [path], "something was left behind"

    _, ended, errors = forked(work)
    return {"problems": errors + ([f"ended by signal {ended}"] if ended else [])}


def main() -> None:
    """Answer trials until the input ends."""
    folder = Path(sys.argv[1])
    (folder / "whole").mkdir(exist_ok=True)
    random.seed(0)
    for line in sys.stdin:
        job = json.loads(line)
        run = Run(**job["run"])
        if job.get("count"):
            place = folder / "count"
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            said, _, problems = forked(lambda say, run=run, place=place: counted(run, place, say))
            answer: dict[str, Any] = {"calls": int(said[-1].split()[-1]), "problems": problems}
        else:
            lives = [0] * run.steps
            uninterrupted(run, tuple(lives), folder / "whole")
            if job.get("resume_step") is not None:
                cut = job["resume_step"]
                lives = [0] * cut + [1] * (run.steps - cut)
                uninterrupted(run, tuple(lives), folder / "whole")
            answer = refusal(job, folder) if "refuse" in job else trial(job, folder)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
