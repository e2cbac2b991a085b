"""The cache of measurements: unchanged runs are not read, changed ones are never mistaken."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import time
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

import trajfile
from trajfile.analyze import plan
from trajfile.cache import stamp as stamps
from trajfile.cache.entry import NOT_AN_ENTRY, Entry, Origin
from trajfile.cache.folder import Folder
from trajfile.cache.growth import extension
from trajfile.engine.needs import Inner, Row, Timeline
from trajfile.measuring import Measured, Measuring

ROWS = 100
SHAPES = {"conv.weight": (6, 3, 3, 3), "fc1.weight": (8, 6), "fc2.weight": (4, 8), "bias": (5,)}


@pytest.fixture(autouse=True)
def fine_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of these tests are measured at once; the real patience is tested by itself."""
    monkeypatch.setattr(stamps, "TICK_NS", -(10**9))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def append(path: Path, start: int, stop: int, mode: str = "a", **options: object) -> None:
    with trajfile.Writer(
        path, mode=mode, optimizer={"name": "SGD", "learning_rate": 0.1}, **options
    ) as writer:
        for step in range(start, stop):
            rng = np.random.default_rng(step)
            theta = {n: rng.standard_normal(s, np.float32) + 3 for n, s in SHAPES.items()}
            gradient = {n: rng.standard_normal(s, np.float32) for n, s in SHAPES.items()}
            samples = {n: rng.standard_normal((4, *s), np.float32) for n, s in SHAPES.items()}
            writer.append(
                step,
                params=theta,
                gradients=gradient if step % 2 == 0 else None,
                gradient_samples=samples if step % 10 == 0 else None,
                scalars={"loss": 1 / (1 + step), "learning_rate": 0.1},
            )


@pytest.fixture(params=[".h5", ".zarr"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / f"run{request.param}"
    append(path, 0, ROWS, "x")
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "run.h5"
    append(path, 0, 20, "x")
    return path


def numbers(report: trajfile.Report) -> dict[str, object]:
    told = report.to_dict()
    return {"metrics": told["metrics"], "findings": told["findings"], "verdict": told["verdict"]}


def agree(found: object, expected: object) -> None:
    """Equal but for rounding in float64."""
    if isinstance(expected, dict):
        assert isinstance(found, dict)
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            agree(found[key], value)
    elif isinstance(expected, list):
        assert isinstance(found, list)
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            agree(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    elif not isinstance(expected, str):  # sentences hold rounded numbers
        assert found == expected


def test_an_unchanged_run_is_not_read(run: Path, kept: Path) -> None:
    first = trajfile.analyze(run, cache=kept)
    again = trajfile.analyze(run, cache=kept)
    assert first.run.cached == ""
    assert first.run.bytes_read > 0
    assert (again.run.cached, again.run.bytes_read, again.run.passes) == ("all", 0, 0)
    assert numbers(again) == numbers(first)


def test_without_asking_nothing_is_kept(file: Path, kept: Path, monkeypatch) -> None:
    monkeypatch.setenv("TRAJFILE_CACHE_DIR", str(kept))
    trajfile.analyze(file)
    assert not kept.exists()
    trajfile.analyze(file, cache=True)
    assert len(list(kept.iterdir())) == 1
    assert trajfile.analyze(file, cache=True).run.cached == "all"
    monkeypatch.setenv("TRAJFILE_CACHE_DIR", "")
    assert trajfile.analyze(file, cache=True).run.cached == ""


def test_what_is_asked_decides_not_how_it_is_judged(file: Path, kept: Path) -> None:
    trajfile.analyze(file, cache=kept)

    def cached(**options: object) -> str:
        return trajfile.analyze(file, cache=kept, **options).run.cached

    assert cached(metrics="norms") == "all"
    assert cached(options={"periodicity.delta": 0.5}) == "all"
    assert cached(params="fc*") == ""
    assert cached(params="fc*") == "all"
    assert cached(steps="0:10") == ""
    assert cached(memory="1GiB") == ""
    assert cached(device="cpu") == ""
    assert cached(skip_damaged=True) == ""
    selected = trajfile.analyze(file, cache=kept, params="fc*", metrics=["norms"])
    assert selected.run.cached == "all"
    assert numbers(selected) == numbers(trajfile.analyze(file, params="fc*", metrics=["norms"]))


def test_a_grown_run_is_completed(run: Path, kept: Path) -> None:
    trajfile.analyze(run, cache=kept)
    append(run, ROWS, ROWS + 13)
    grown = trajfile.analyze(run, cache=kept)
    whole = trajfile.analyze(run)
    assert grown.run.cached == "older rows"
    assert grown.run.bytes_read < 0.8 * whole.run.bytes_read
    agree(numbers(grown), numbers(whole))
    assert trajfile.analyze(run, cache=kept).run.cached == "all"
    assert len(list(kept.iterdir())) == 1  # the entry grown from has left
    append(run, ROWS + 13, ROWS + 14)
    once_more = trajfile.analyze(run, metrics=["norms", "elr"], cache=kept)
    assert once_more.run.cached == "older rows"
    assert once_more.run.bytes_read < 0.1 * whole.run.bytes_read
    agree(numbers(once_more), numbers(trajfile.analyze(run, metrics=["norms", "elr"])))


def test_steps_that_lie_before_what_was_appended_are_not_read(run: Path, kept: Path) -> None:
    first = trajfile.analyze(run, steps="0:60", cache=kept)
    append(run, ROWS, ROWS + 2)
    again = trajfile.analyze(run, steps="0:60", cache=kept)
    assert again.run.cached == "all"
    assert numbers(again) == numbers(first)


def test_a_rewound_run_is_read_whole(run: Path, kept: Path) -> None:
    trajfile.analyze(run, cache=kept)
    time.sleep(0.001)
    append(run, ROWS - 5, ROWS + 10, resume_step=ROWS - 5)
    again = trajfile.analyze(run, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == numbers(trajfile.analyze(run))


def test_tensors_that_join_are_measured_with_all_rows(file: Path, kept: Path) -> None:
    trajfile.analyze(file, cache=kept)
    with trajfile.Writer(file, mode="a") as writer:
        for step in range(20, 25):
            theta = {n: np.full(s, step, np.float32) for n, s in SHAPES.items()}
            writer.append(step, params=theta | {"late": np.ones(3, np.float32)})
    again = trajfile.analyze(file, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == numbers(trajfile.analyze(file))


def test_a_changed_byte_is_not_covered_up(file: Path, kept: Path) -> None:
    trajfile.analyze(file, cache=kept)
    known = file.stat()
    content = bytearray(file.read_bytes())
    place = content.find(np.float32(trajfile.open(file)["params"]["bias"][7]).tobytes())
    content[place] ^= 1
    with file.open("r+b") as changed:
        changed.seek(place)
        changed.write(content[place : place + 1])
    os.utime(file, ns=(known.st_atime_ns, known.st_mtime_ns))  # as if nothing had been written
    with pytest.raises(trajfile.FormatError, match="step 7"):
        trajfile.analyze(file, cache=kept)


def test_a_run_put_in_anothers_place_is_read(file: Path, kept: Path, tmp_path: Path) -> None:
    trajfile.analyze(file, cache=kept)
    other = tmp_path / "other.h5"
    append(other, 10, 30, "x")
    os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
    other.replace(file)
    again = trajfile.analyze(file, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == numbers(trajfile.analyze(file))


def test_a_branch_does_not_grow_from_its_sister(file: Path, kept: Path, tmp_path: Path) -> None:
    sister = tmp_path / "sister.h5"
    shutil.copy(file, sister)
    append(file, 20, 30)
    trajfile.analyze(file, cache=kept)
    append(sister, 20, 33)
    again = trajfile.analyze(sister, cache=kept)
    assert again.run.cached == ""


def test_a_file_written_a_moment_ago_is_not_trusted(file: Path, monkeypatch) -> None:
    assert stamps.stamp(file) is not None
    monkeypatch.setattr(stamps, "TICK_NS", 3600 * 10**9)
    assert stamps.stamp(file) is None


def test_a_stamp_tells_every_change_in_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "deep" / "er").mkdir(parents=True)
    for name in ("a", "deep/b", "deep/er/c"):
        (folder / name).write_text(name)
    seen = {stamps.stamp(folder)}
    (folder / "deep/er/c").write_text("x")
    seen.add(stamps.stamp(folder))
    (folder / "deep/er/d").write_text("d")
    seen.add(stamps.stamp(folder))
    (folder / "a").unlink()
    seen.add(stamps.stamp(folder))
    outside = tmp_path / "outside"
    outside.write_text("far")
    (folder / "link").symlink_to(outside)
    seen.add(stamps.stamp(folder))
    outside.write_text("near")
    seen.add(stamps.stamp(folder))
    assert len(seen) == 6
    assert None not in seen
    (folder / "down").symlink_to(tmp_path)
    assert stamps.stamp(folder) is None
    assert stamps.stamp(tmp_path / "nowhere") is None


def test_checkpoints_are_kept_until_one_changes(tmp_path: Path, kept: Path) -> None:
    torch = pytest.importorskip("torch")
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    for step in range(5):
        state = {"w": torch.full((4, 3), float(step + 1)), "b": torch.ones(3) * step}
        torch.save(state, folder / f"step_{step}.pt")
    trajfile.analyze(folder, cache=kept)
    assert trajfile.analyze(folder, cache=kept).run.cached == "all"
    torch.save({"w": torch.full((4, 3), 9.0), "b": torch.ones(3)}, folder / "step_4.pt")
    again = trajfile.analyze(folder, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == numbers(trajfile.analyze(folder))


def test_a_damaged_entry_never_answers(file: Path, kept: Path) -> None:
    expected = numbers(trajfile.analyze(file, cache=kept))
    (path,) = kept.iterdir()
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    answers = set()
    for case in range(30):
        content = bytearray(whole)
        if case % 3:
            content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
        else:
            del content[int(rng.integers(len(content))) :]
        path.write_bytes(content)
        report = trajfile.analyze(file, metrics=None if case < 12 else "norms", cache=kept)
        answers.add(report.run.cached)
        if case < 12:
            assert numbers(report) == expected
        for left in kept.iterdir():
            left.unlink()
    assert "" in answers


def test_what_is_no_entry_is_passed_over(file: Path, kept: Path, tmp_path: Path) -> None:
    trajfile.analyze(file, cache=kept)
    (path,) = kept.iterdir()
    touched = tmp_path / "touched"

    class Trap:
        def __reduce__(self):
            return Path.touch, (touched,)

    def saved(save: Callable[..., None], **arrays: np.ndarray) -> None:
        with path.open("wb") as out:
            save(out, **arrays)

    array = np.array([Trap()], object)
    for write in (
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(b"not an entry"),
        lambda: path.write_bytes(pickle.dumps(Trap())),
        lambda: saved(np.savez, document=array),
        lambda: saved(np.savez, document=np.zeros(3)),
        lambda: saved(np.save, arr=np.zeros(3)),
    ):
        write()
        with pytest.raises(NOT_AN_ENTRY):
            Entry(path)
        assert trajfile.analyze(file, cache=kept).run.cached == ""
    path.unlink()
    path.mkdir()
    assert trajfile.analyze(file, cache=kept).run.cached == ""
    assert not touched.exists()


def test_a_folder_that_cannot_be_written_stops_nothing(file: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert trajfile.analyze(file, cache=blocked / "cache").run.cached == ""


def test_the_longest_unused_leave_first(file: Path, kept: Path) -> None:
    with trajfile.open(file) as run:
        header = run.header()
        row = Row("params", Timeline(("params",)))
        needs = frozenset([Inner(row, row)])
        made: Measured = Measuring(run, "cpu", 2**28).of(header, needs)
    origins = [Origin(f"{n:032x}", "s", 1, "h") for n in range(4)]
    Folder(kept).store(origins[0], needs, made.measurements, "cpu")
    (one,) = kept.iterdir()
    folder = Folder(kept, most_bytes=int(3.5 * one.stat().st_size))
    for origin in origins[1:3]:
        folder.store(origin, needs, made.measurements, "cpu")
    for age, origin in enumerate(origins[:3]):
        (path,) = kept.glob(f"{origin.run}*")
        os.utime(path, ns=(0, 10**9 * (10 - age)))
    (entry,) = folder.entries(origins[2].run)
    folder.used(entry)
    folder.store(origins[3], needs, made.measurements, "cpu")
    left = {path.name.split("-")[0] for path in kept.iterdir()}
    assert left == {origins[n].run for n in (0, 2, 3)}
    tiny = Folder(kept, most_bytes=one.stat().st_size)
    tiny.store(origins[1], needs, made.measurements, "cpu")
    assert not list(kept.glob(f"{origins[1].run}*"))


PARAMS = Row("params", Timeline(("params",)))
STEP = Row("params", Timeline(("params",)), "difference")
GRADIENT = Row("gradients", Timeline(("params", "gradients")))
THETA = Row("params", Timeline(("params", "gradients")))
NEEDS = frozenset(
    [
        Inner(PARAMS, PARAMS, (0, 3, 17), per_tensor=True),
        Inner(STEP, STEP, (0, 1, 5)),
        Inner(PARAMS, STEP, (-4, -1, 0, 2), per_tensor=True),
        Inner(THETA, GRADIENT, (-2, 0, 6), per_tensor=True),
        Inner(
            Row("params", Timeline(("params",)), "offset", 4),
            STEP,
            (-3, 0, 1),
        ),
        Inner(
            Row("params", Timeline(("params",)), "offset", 10),
            Row("params", Timeline(("params",)), "offset", 0),
            (0,),
        ),
    ]
)


@pytest.mark.parametrize("old", [1, 7, 19, 40, 59])
def test_every_product_of_a_grown_run_is_that_of_the_whole(old: int, tmp_path: Path) -> None:
    path, new = tmp_path / "run.h5", 60
    append(path, 0, new, "x")
    with trajfile.open(path) as run:
        header = run.header()
        needs = NEEDS if old > 10 else frozenset(n for n in NEEDS if n.left.reference is None)
        whole = Measuring(run, "cpu", 2**28).of(header, needs).measurements
        shorter = run.header(steps=slice(0, old))
        part = Measuring(run, "cpu", 2**28).of(shorter, needs)
        folder = Folder(tmp_path / "cache")
        folder.store(Origin("0" * 32, "s", 1, "h"), needs, part.measurements, "cpu")
        (entry,) = folder.entries("0" * 32)
        opened = Entry(entry.path)
        how = extension(opened, header, needs)
        opened.close()
        assert how is not None
        assert how.anew == frozenset()
        if old > 19:
            assert len(how.tail.steps["params"]) <= new - old + 21
        grown = Measuring(run, "cpu", 2**28)._passes(header, [(how.tail, how.grown)], how)
    for rows, band in whole.bands.items():
        found = grown.measurements.bands[rows]
        assert found.lags == band.lags
        np.testing.assert_allclose(found.total, band.total, rtol=1e-11, atol=1e-11)
        assert found.tensors.keys() == band.tensors.keys()
        for name, values in band.tensors.items():
            np.testing.assert_allclose(found.tensors[name], values, rtol=1e-11, atol=1e-11)


def rewritten(path: Path, **changed: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change arrays of an entry, each found by how its name ends."""
    with np.load(path) as entry:
        arrays = {name: entry[name] for name in entry.files}
    for end, change in changed.items():
        found = [name for name in arrays if name.endswith(end)]
        assert found, end
        for name in found:
            arrays[name] = change(arrays[name])
    with path.open("wb") as out:
        np.savez(out, **arrays)


@pytest.mark.parametrize(
    "changed",
    [
        {"balance": lambda values: values[:-1]},
        {"balance": lambda values: values[:, :-1]},
        {"means": lambda values: values[:-1]},
    ],
    ids=["fewer balances", "fewer steps", "fewer means"],
)
def test_an_entry_of_other_shapes_never_answers(file: Path, kept: Path, changed) -> None:
    append_layers(file)
    expected = numbers(trajfile.analyze(file, cache=kept))
    (path,) = kept.iterdir()
    rewritten(path, **changed)
    again = trajfile.analyze(file, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == expected


def append_layers(path: Path) -> None:
    with trajfile.Writer(path, mode="a", groups={"layers": ["fc1.weight", "fc2.weight"]}) as w:
        theta = {n: np.ones(s, np.float32) for n, s in SHAPES.items()}
        w.append(ROWS, params=theta)


@pytest.mark.parametrize("how", ["encrypted", "header", "compressed"])
def test_an_entry_that_cannot_be_parsed_never_answers(file: Path, kept: Path, how: str) -> None:
    expected = numbers(trajfile.analyze(file, cache=kept))
    (path,) = kept.iterdir()
    with zipfile.ZipFile(path) as entry:
        members = {name: entry.read(name) for name in entry.namelist()}
    packing = zipfile.ZIP_DEFLATED if how == "compressed" else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", packing) as entry:
        for name, content in members.items():
            # A bracket that nothing closes: NumPy lets a tokenize.TokenError through.
            entry.writestr(name, content.replace(b"), }", b"), (") if how == "header" else content)
    if how == "encrypted":  # says the directory: zipfile raises a RuntimeError
        content = path.read_bytes()
        path.write_bytes(re.sub(rb"(PK\x01\x02....)\x00", b"\\1\x01", content, flags=re.DOTALL))
    again = trajfile.analyze(file, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == expected


def test_what_goes_wrong_with_the_run_is_told_at_once(file: Path, kept: Path, monkeypatch) -> None:
    append(file, 20, ROWS)
    trajfile.analyze(file, cache=kept)
    append(file, ROWS, ROWS + 5)
    tries = []

    def fails(*_: object) -> None:
        tries.append(1)
        raise OSError("the disk is gone")

    monkeypatch.setattr(Measuring, "_passes", fails)
    with pytest.raises(OSError, match="the disk is gone"):
        trajfile.analyze(file, cache=kept)
    assert tries == [1]


def test_what_was_left_out_for_want_of_memory_is_measured_where_it_fits(
    tmp_path: Path, kept: Path
) -> None:
    file = tmp_path / "run.h5"
    with trajfile.Writer(file, "x", optimizer={"name": "SGD"}) as writer:
        for step in range(40):
            tensors = {f"t{n}": np.full(1, step + n + 1, np.float32) for n in range(80)}
            writer.append(step, params=tensors, gradients=tensors)

    def single(memory: int, metrics: list[str] | None) -> bool:
        with suppress(trajfile.ResourceError):
            return plan(file, metrics=metrics, memory=memory).per_tensor
        return metrics is None

    few = ["norms"]
    memory = next(
        m for m in range(100_000, 5_000_000, 50_000) if single(m, few) and not single(m, None)
    )
    trajfile.analyze(file, memory=memory, cache=kept)
    again = trajfile.analyze(file, memory=memory, metrics=few, cache=kept)
    assert again.run.cached == ""
    assert numbers(again) == numbers(trajfile.analyze(file, memory=memory, metrics=few))
    assert trajfile.analyze(file, memory=memory, metrics=few, cache=kept).run.cached == "all"
