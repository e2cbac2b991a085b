"""The process that tries inputs, one after another, and says before each which it is.

It is started by `tests.fuzz.__main__`, which notices when it dies or does not come back.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import resource
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from random import Random

import numpy as np
from trajfile_cli.app import main as command_line

import trajfile
from tests.fuzz.image import Image, corpus
from tests.fuzz.mutate import spoil
from trajfile.dtypes import numpy_dtype
from trajfile.errors import TrajfileError
from trajfile.findings import Findings
from trajfile.untrusted import Limits

_APART = 10.0  # seconds
_MEMORY = 512 * 2**20
_LARGEST_READ = 16 * 2**20
#: What Python itself opens: modules that are imported late, and what the system says of itself.
_OWN = (
    *(sys.prefix, sys.base_prefix, str(Path(trajfile.__file__).parents[1])),
    *("/proc/", "/sys/", "/dev/null", "/dev/urandom", "/usr/", "/etc/localtime"),
)
_WATCHED = {"open", "os.listdir", "os.scandir", "os.remove", "os.rename", "shutil.rmtree"}
_FORBIDDEN = {"subprocess.Popen", "os.system", "os.exec", "os.fork", "socket.connect"}


class Outside(BaseException):
    """Something other than the input was touched."""


def make(images: list[Image], seed: int, number: int) -> Image:
    """Input number ``number`` of a seed."""
    rng = Random(f"{seed}/{number}")
    image = rng.choice(images).copy()
    spoil(image, rng)
    return image


def use(path: Path, number: int) -> str:
    """Open, read, check and now and then analyse; anything but an error of ours escapes."""
    outcome, said, code = "read", "", None
    try:
        with trajfile.open(path) as run:
            _read(run)
    except TrajfileError as error:
        outcome = getattr(error, "rule", "") or type(error).__name__
        said = str(error)
    assert "\n" not in said, said
    for deep in (False, True):
        found = trajfile.validate(path, deep=deep)
        Findings.of(str(path), found, deep=deep).to_json()
        assert outcome == "read" or not deep or any(f.severity == "error" for f in found), outcome
    commands = [["info", "--all"], ["validate"]]
    if number % 4 == 0:
        commands.append(["analyze", "--device", "cpu", "--memory", "64MiB"])
    saved = path.with_name(f"saved{path.suffix}")
    if number % 4 == 1:
        commands.append(["repair", "--out", str(saved)])
    for name, *options in commands:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                command_line([name, str(path), *options])
            except SystemExit as ended:
                code = ended.code
        shown = out.getvalue() + err.getvalue()
        assert code in {0, 1, 2, 3, 4}, f"{name} exits {code}: {shown}"
        assert "Traceback" not in shown, shown
        assert all(c.isprintable() or c == "\n" for c in shown), repr(shown)
    if saved.exists():
        assert not [f for f in trajfile.validate(saved, deep=True) if f.severity == "error"]
        shutil.rmtree(saved) if saved.is_dir() else saved.unlink()
    return outcome


def apart(path: Path) -> None:
    """Check it in a process apart, which may die but must be refused then, in time."""
    try:
        found = trajfile.validate(path, deep=True, untrusted=Limits(seconds=_APART))
        print(f"apart {len(found)} findings", flush=True)
    except TrajfileError as error:
        print(f"apart {getattr(error, 'rule', type(error).__name__)}", flush=True)


def _read(run: trajfile.Trajectory) -> None:
    repr(run)
    run.header()
    for spec in run.manifest.streams:
        rows = run.container.committed_rows(spec.name)
        for lane, columns in spec.lanes.items():
            dtype = numpy_dtype(lane)
            if rows * columns * dtype.itemsize <= _LARGEST_READ:
                out = np.empty((rows, columns), dtype)
                run.container.read(spec.name, lane, slice(0, rows), slice(0, columns), out)


def watch(inside: Path) -> list[bool]:
    """Refuse to touch anything outside of a folder while the returned switch is on."""
    switch = [False]
    prefix = str(inside)

    def look(event: str, arguments: tuple[object, ...]) -> None:
        if not switch[0]:
            return
        if event in _FORBIDDEN:
            raise Outside(f"{event} {arguments!r}")
        if event in _WATCHED and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not path.startswith((prefix, *_OWN)):
                raise Outside(f"{event} {path}")

    sys.addaudithook(look)
    return switch


def _limit_memory() -> None:
    with Path("/proc/self/statm").open() as file:
        size = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _MEMORY, size + _MEMORY))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--start", type=int, required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--apart", action="store_true")
    options = parser.parse_args()
    os.environ["TRAJFILE_CACHE_DIR"] = ""  # every input is measured, none outside of its folder
    with tempfile.TemporaryDirectory() as name:
        folder = Path(os.path.realpath(name))
        images = list(corpus(folder))
        if options.apart:
            image = make(images, options.seed, options.start)
            image.write(folder / f"input{image.suffix}")
            apart(folder / f"input{image.suffix}")
            return
        for image in images[::3]:  # everything is imported before memory is limited
            image.write(folder / f"warm{image.suffix}")
            use(folder / f"warm{image.suffix}", 0)
        place = options.keep.resolve() if options.keep else folder
        switch = watch(place)
        _limit_memory()
        for number in range(options.start, options.start + options.count):
            image = make(images, options.seed, number)
            path = place / f"input{image.suffix}"
            image.write(path)
            if options.keep:
                print(f"kept {path}", flush=True)
            print(f"begin {number} {image.suffix}", flush=True)
            switch[0] = True
            try:
                outcome = use(path, number)
            except BaseException:
                switch[0] = False
                print(
                    f"found {number} {' | '.join(traceback.format_exc().splitlines()[-14:])}",
                    flush=True,
                )
                continue
            finally:
                switch[0] = False
            print(f"done {number} {outcome}", flush=True)


if __name__ == "__main__":
    main()
