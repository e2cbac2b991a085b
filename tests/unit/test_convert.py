"""Copies of trajectories: they say the same, bit for bit, and refuse what they cannot."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

import trajfile
from tests.contract.runs import EVERY_DTYPE, Expected, every_dtype_run, read
from tests.unit.every_kind import record
from tests.unit.runs import theta
from trajfile.containers import create, open_container, pieces
from trajfile.containers.digest import digest
from trajfile.dtypes import bits_of


def digest_of(path: Path) -> str:
    container = open_container(path)
    try:
        return digest(container)
    finally:
        container.close()


WHOLE, CUT = 16 * 2**20, 24


@pytest.fixture(params=[WHOLE, CUT], ids=["whole", "cut"])
def piece_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of many rows; and so small that rows are copied one by one."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", request.param)


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize(
    ("piece_bytes", "compression"),
    [
        *((WHOLE, compression) for compression in (None, "gzip", "zstd")),
        (CUT, "zstd"),
        pytest.param(CUT, None, marks=pytest.mark.slow),
        pytest.param(CUT, "gzip", marks=pytest.mark.slow),
    ],
    indirect=["piece_bytes"],
)
@pytest.mark.parametrize(("before", "after"), [(".h5", ".zarr"), (".zarr", ".h5")])
def test_a_copy_says_the_same(
    tmp_path: Path, before: str, after: str, compression: str | None
) -> None:
    source, out = tmp_path / f"run{before}", tmp_path / f"copy{after}"
    expected = record(source)
    seen: list[tuple[int, int]] = []
    done = trajfile.convert(
        source, out, compression=compression, progress=lambda *now: seen.append(now)
    )
    assert done.digest == digest_of(source) == digest_of(out)
    assert (done.path, done.resumed_bytes, done.commits) == (out, 0, 10)
    made, copy = open_container(source), open_container(out)
    assert copy.uuid == made.uuid == done.uuid
    assert done.stored_bytes == copy.stored_bytes()
    np.testing.assert_array_equal(copy.commits(), made.commits())  # the times too
    expected.manifest = copy.manifest()  # but for the program, which the digest leaves out
    expected.check(copy)
    made.close()
    copy.close()
    assert trajfile.validate(out, deep=True) == trajfile.validate(source, deep=True)
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert {total for _, total in seen} == {2 * done.raw_bytes}
    assert {path.name for path in tmp_path.iterdir()} == {source.name, out.name}


def test_a_copy_of_a_copy_is_the_original(tmp_path: Path) -> None:
    record(tmp_path / "run.h5")
    trajfile.convert(tmp_path / "run.h5", tmp_path / "there.zarr", compression="zstd")
    trajfile.convert(tmp_path / "there.zarr", tmp_path / "back.h5")
    trajfile.convert(tmp_path / "run.h5", tmp_path / "straight.h5")
    assert digest_of(tmp_path / "back.h5") == digest_of(tmp_path / "run.h5")
    again = (tmp_path / "straight.h5").read_bytes()
    assert (tmp_path / "back.h5").read_bytes() == again


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_a_copy_is_appended_to_like_the_original(tmp_path: Path, suffix: str) -> None:
    commits = every_dtype_run()
    source = create(tmp_path / "run.h5", EVERY_DTYPE)
    for commit in commits[:4]:  # the tensors that join late are still to come
        source.append(commit)
    source.close()
    trajfile.convert(tmp_path / "run.h5", tmp_path / f"copy{suffix}")
    copy = open_container(tmp_path / f"copy{suffix}", writable=True)
    for commit in commits[4:]:
        copy.append(commit)
    copy.close()
    record(tmp_path / "whole.zarr")
    assert digest_of(tmp_path / f"copy{suffix}") == digest_of(tmp_path / "whole.zarr")


def test_what_holds_nothing_is_copied_too(tmp_path: Path) -> None:
    create(tmp_path / "empty.h5", EVERY_DTYPE).close()
    done = trajfile.convert(tmp_path / "empty.h5", tmp_path / "copy.zarr")
    assert (done.commits, done.raw_bytes) == (0, 0)
    copy = open_container(tmp_path / "copy.zarr")
    Expected.of(copy.manifest(), []).check(copy)
    copy.close()
    with trajfile.Writer(tmp_path / "scalars.zarr") as writer:
        writer.append(3, scalars={"loss": float("nan")})
    trajfile.convert(tmp_path / "scalars.zarr", tmp_path / "copy.h5")
    with trajfile.open(tmp_path / "copy.h5") as run:
        assert run.scalars["loss"][0].tolist() == [3]


@pytest.mark.usefixtures("piece_bytes")
@pytest.mark.parametrize("after", [".h5", ".zarr"])
@pytest.mark.parametrize(
    ("steps", "params"),
    [("20:80", None), ("::20", None), (None, ["p.*16", "w", "late"]), ("0:50", ["late", "w"])],
)
def test_a_slice_holds_the_selected_rows_and_tensors(
    tmp_path: Path, steps: str | None, params: list[str] | None, after: str
) -> None:
    record(tmp_path / "run.h5")
    out = tmp_path / f"slice{after}"
    done = trajfile.convert(tmp_path / "run.h5", out, steps=steps, params=params)
    kept = {None: range(100), "20:80": range(20, 80), "::20": range(0, 100, 20), "0:50": range(50)}
    with trajfile.open(tmp_path / "run.h5") as whole, trajfile.open(out) as part:
        assert part.uuid == done.uuid != whole.uuid
        names = ["params", "gradients", "gradient_samples", "optimizer/exp_avg"]
        assert list(part.streams) == (names if params is None or "p.*16" in params else names[1:])
        for stream in part.streams:
            chosen = np.isin(whole.steps(stream), kept[steps])
            assert part.steps(stream).tolist() == whole.steps(stream)[chosen].tolist()
            for name, rows in part[stream].items():
                known = whole[stream][name]
                at = np.isin(known.steps, kept[steps])
                assert rows.steps.tolist() == known.steps[at].tolist()
                np.testing.assert_array_equal(bits_of(rows[:]), bits_of(known[at]), strict=True)
            lost = set(whole[stream]) - set(part[stream])
            assert not lost or params is not None
        for name, (at, values) in part.scalars.items():
            known_at, known_values = whole.scalars[name]
            chosen = np.isin(known_at, kept[steps])
            assert at.tolist() == known_at[chosen].tolist()
            assert bits_of(values).tolist() == bits_of(known_values[chosen]).tolist()
        times = np.isin(whole.container.commits()[:, 1], kept[steps])
        known_times = whole.container.commits()[times, 1:]
        np.testing.assert_array_equal(part.container.commits()[:, 1:], known_times)
        note = {"uuids": [whole.uuid]}
        note |= {} if steps is None else {"steps": steps if steps[0] != ":" else "0::20"}
        note |= {} if params is None else {"params": params}
        assert part.manifest.metadata == {**whole.manifest.metadata, "converted_from": [note]}
    broken = {f.id for f in trajfile.validate(out, deep=True) if f.severity == "error"}
    assert broken <= {"STR-009"}  # as in the source
    again = trajfile.convert(tmp_path / "run.h5", tmp_path / "again.h5", steps=steps, params=params)
    assert (again.uuid, again.digest) == (done.uuid, done.digest)


def test_an_analysis_of_a_slice_is_that_of_the_selection(tmp_path: Path) -> None:
    sample = Path(__file__).parents[2] / "sample_data/quickstart.zarr"
    selection = {"steps": "100:500", "params": ["*.weight"]}
    metrics = ["norms", "imbalance", "geometry"]
    trajfile.convert(sample, tmp_path / "slice.h5", **selection)
    wanted = trajfile.analyze(sample, metrics, device="cpu", **selection).to_dict()
    found = trajfile.analyze(tmp_path / "slice.h5", metrics, device="cpu").to_dict()
    assert found["metrics"] == wanted["metrics"]


@pytest.mark.parametrize(
    ("steps", "carried"),
    [
        ("6:20", {"learning_rate": {6: 0.2, 13: 0.05}, "learning_rate/1": {6: 3.0}}),
        ("4:20", {"learning_rate": {4: 0.2, 13: 0.05}, "learning_rate/1": {4: 3.0}}),
        ("::7", {"learning_rate": {0: 0.1, 7: 0.2, 14: 0.05}, "learning_rate/1": {7: 3.0}}),
        ("14:16", {"learning_rate": {14: 0.05}, "learning_rate/1": {14: 3.0}}),
    ],
)
def test_a_learning_rate_recorded_before_a_slice_is_in_force_in_it(
    tmp_path: Path, steps: str, carried: dict[str, dict[int, float]]
) -> None:
    rates = {0: {"learning_rate": 0.1}, 4: {"learning_rate": 0.2}, 13: {"learning_rate": 0.05}}
    rates[3] = {"learning_rate/1": 3.0}
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        for step in range(20):
            loss = {"loss": float(step)} if step % 5 == 0 else {}
            writer.append(step, params=theta(step), scalars={**loss, **rates.get(step, {})})
    out = tmp_path / "slice.zarr"
    trajfile.convert(tmp_path / "run.h5", out, steps=steps)
    with trajfile.open(tmp_path / "run.h5") as whole, trajfile.open(out) as part:
        for name, expected in carried.items():
            found = part.scalars[name]
            assert dict(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
        kept = part.steps("params")
        in_whole = whole.header().learning_rate_at(kept)
        np.testing.assert_array_equal(part.header().learning_rate_at(kept), in_whole, strict=True)
        at, losses = part.scalars["loss"]
        assert at.tolist() == [k for k in kept.tolist() if k % 5 == 0] == losses.tolist()
        new = {
            name: sum(step not in rates or name not in rates[step] for step in expected)
            for name, expected in carried.items()
        }
        said = part.manifest.metadata["converted_from"][0].get("carried", {})
        assert said == {name: count for name, count in new.items() if count}
    assert not [f for f in trajfile.validate(out, deep=True) if f.severity == "error"]


def test_what_metrics_say_of_a_slice_with_a_learning_rate_before_it(tmp_path: Path) -> None:
    with trajfile.Writer(tmp_path / "run.h5", groups={"scale_invariant": ["w"]}) as writer:
        for step in range(20):
            scalars = {"learning_rate": 0.25} if step == 0 else {}
            weight = np.cos(np.arange(6) + step / 7)
            writer.append(step, params={"w": weight}, scalars=scalars)
    trajfile.convert(tmp_path / "run.h5", tmp_path / "slice.h5", steps="5:")
    wanted = trajfile.analyze(tmp_path / "run.h5", ["elr"], device="cpu", steps="5:")
    found = trajfile.analyze(tmp_path / "slice.h5", ["elr"], device="cpu")
    assert found.metrics["elr"].summary["elr_first"] is not None
    assert found.metrics["elr"].summary == wanted.metrics["elr"].summary
    assert found.metrics["elr"].series == wanted.metrics["elr"].series


def recorded(path: Path, steps: range, *, every: int = 1, **stated: object) -> Path:
    with trajfile.Writer(path, **stated) as writer:
        for step in steps:
            params = theta(step) if step % every == 0 else None
            writer.append(step, params=params, scalars={"loss": float(step)})
    return path


@pytest.mark.parametrize("after", [".h5", ".zarr"])
def test_parts_become_the_run_that_they_are_of(tmp_path: Path, after: str) -> None:
    stated = {"optimizer": {"name": "SGD", "momentum": 0.9}, "metadata": {"seed": 3}}
    recorded(tmp_path / "whole.h5", range(30), every=3, **stated)
    parts = [
        recorded(tmp_path / "b.zarr", range(12, 30), every=3, **stated),
        recorded(tmp_path / "a.h5", range(12), every=3, metadata={"seed": 3}),
    ]
    out = tmp_path / f"joined{after}"
    trajfile.convert(parts, out)
    with trajfile.open(out) as joined, trajfile.open(tmp_path / "whole.h5") as whole:
        uuids = joined.manifest.metadata["converted_from"][0]["uuids"]
        assert len(uuids) == 2
        assert joined.manifest.optimizer == whole.manifest.optimizer
        assert joined.manifest.metadata["seed"] == 3
        for name, rows in joined["params"].items():
            np.testing.assert_array_equal(rows[:], whole["params"][name][:])
            assert rows.steps.tolist() == list(range(0, 30, 3))
        assert joined.scalars["loss"][1].tolist() == [float(step) for step in range(30)]
    assert not [f for f in trajfile.validate(out, deep=True) if f.severity == "error"]


def test_tensors_streams_and_scalars_join_with_a_part(tmp_path: Path) -> None:
    w, v = np.arange(3.0), np.arange(4, dtype=np.float32)
    with trajfile.Writer(tmp_path / "a.h5") as writer:
        writer.append(0, params={"w": w, "v": v}, scalars={"loss": 1.0})
    with trajfile.Writer(tmp_path / "b.h5") as writer:  # other columns first, and more
        for step in (5, 6):
            later = {"z": w + step} if step == 6 else {}
            writer.append(
                step,
                params={"new": w + 1, "v": v + 1, "w": w + step, **later},
                gradients={"w": w},
                scalars={"rate": 0.1, "loss": 0.5},
            )
    trajfile.convert([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "out.zarr")
    with trajfile.open(tmp_path / "out.zarr") as run:
        params = run["params"]
        assert {name: t.spec.first_row for name, t in params.items()} == {
            "w": 0, "v": 0, "new": 1, "z": 2,
        }  # fmt: skip
        assert params["w"][:].tolist() == [w.tolist(), (w + 5).tolist(), (w + 6).tolist()]
        assert params["v"][:].tolist() == [v.tolist(), (v + 1).tolist(), (v + 1).tolist()]
        assert params["new"][:].tolist() == [(w + 1).tolist()] * 2
        assert params["z"][:].tolist() == [(w + 6).tolist()]
        assert run["gradients"]["w"].steps.tolist() == [5, 6]
        assert run.scalars["rate"][0].tolist() == [5, 6]
        container = run.container
        assert not read(container, "params", "float64")[0, 3:].any()  # before they joined
    assert trajfile.validate(tmp_path / "out.zarr", deep=True)[0].id.startswith("USE")


@pytest.mark.parametrize(
    ("later", "message"),
    [
        ({"w": np.ones(3)}, "lacks 'v' altogether"),
        ({"w": np.ones(3), "v": np.ones(4)}, "'v' of params is float64 of shape .4,., before it"),
    ],
)
def test_what_is_no_later_part_is_refused(tmp_path: Path, later: dict, message: str) -> None:
    first = {"w": np.ones(3), "v": np.ones(4, np.float32)}
    for name, step, params in (("a.h5", 0, first), ("b.h5", 5, later)):
        with trajfile.Writer(tmp_path / name) as writer:
            writer.append(step, params=params)
    with pytest.raises(trajfile.UsageError, match=f"b.h5 is no later part of that run.*{message}"):
        trajfile.convert([tmp_path / "a.h5", tmp_path / "b.h5"], tmp_path / "out.h5")
    assert not (tmp_path / "out.h5.partial").exists()


def test_parts_that_overlap_or_contradict_are_refused(tmp_path: Path) -> None:
    a = recorded(tmp_path / "a.h5", range(10), optimizer={"name": "SGD"})
    b = recorded(tmp_path / "b.h5", range(9, 12), optimizer={"name": "SGD"})
    c = recorded(tmp_path / "c.h5", range(20, 22), optimizer={"name": "Adam"})
    overlap = r"b.h5 starts at step 9, .*a.h5 goes on to step 9.*--steps :9"
    with pytest.raises(trajfile.UsageError, match=overlap):
        trajfile.convert([b, a], tmp_path / "out.h5")
    with pytest.raises(trajfile.UsageError, match=r"c.h5 is no later part.*'SGD'.*'Adam'"):
        trajfile.convert([a, c], tmp_path / "out.h5")
    with pytest.raises(trajfile.UsageError, match="must not overlap"):
        trajfile.convert([a, a], tmp_path / "out.h5")


def test_a_row_larger_than_memory_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).standard_normal((3, 8_000_000)).astype(np.float32)
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        for step, row in enumerate(values):
            writer.append(step, params={"w": row})
    monkeypatch.setattr(pieces, "PIECE_BYTES", 2**20)
    # Once before, for code that is compiled or loaded by then takes memory of its own.
    trajfile.convert(tmp_path / "run.h5", tmp_path / "copy.h5")
    tracemalloc.start()
    trajfile.convert(tmp_path / "run.h5", tmp_path / "copy.h5", overwrite=True)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20  # a row has 32 MB


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("run.h5", {}, "run.h5 is what is to be converted"),
        ("run.h5", {"overwrite": True}, "run.h5 is what is to be converted"),
        ("there.h5", {}, "exists already: pass --overwrite"),
        ("there.h5", {"overwrite": True}, "will not be replaced, because it does not read"),
        ("no/out.h5", {}, "is not a folder: create it first"),
        ("out.npz", {}, "'.npz', which names no container"),
        ("out.h5", {"compression": "lz4"}, "compression 'lz4' is unknown"),
        ("out.h5", {"steps": "200:"}, "select nothing: .*run.h5 holds steps 0 to 90"),
        ("out.h5", {"params": "v"}, "no tensor matches 'v'"),
        ("out.h5", {"source": []}, "nothing to convert"),
        ("mine.h5", {}, "mine.h5.partial is where .* holds something else"),
    ],
)
def test_refusals_leave_everything_as_it_was(
    tmp_path: Path, out: str, options: dict, message: str
) -> None:
    record(tmp_path / "run.h5")
    (tmp_path / "there.h5").write_bytes(b"a file of somebody")
    (tmp_path / "mine.h5.partial").mkdir()
    (tmp_path / "mine.h5.partial/thesis.txt").write_text("text")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    options = {"source": tmp_path / "run.h5", "out": tmp_path / out, **options}
    with pytest.raises(trajfile.UsageError, match=message):
        trajfile.convert(**options)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("old", [".h5", ".zarr"])
def test_a_trajectory_is_replaced_only_by_a_whole_one(tmp_path: Path, old: str) -> None:
    out = recorded(tmp_path / f"out{old}", range(3))
    record(tmp_path / "run.h5")
    seen = digest_of(out)
    with pytest.raises(ZeroDivisionError):
        trajfile.convert(tmp_path / "run.h5", out, overwrite=True, progress=lambda *_: 1 / 0)
    assert digest_of(out) == seen
    trajfile.convert(tmp_path / "run.h5", out, overwrite=True)
    assert digest_of(out) == digest_of(tmp_path / "run.h5")
    assert {path.name for path in tmp_path.iterdir()} == {"run.h5", out.name}


def test_a_folder_of_checkpoints_becomes_a_trajectory(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    folder.mkdir()
    states = {step: {"w": np.full((2, 3), step, np.float32)} for step in (0, 100, 250)}
    for step, state in states.items():
        safetensors.numpy.save_file(state, folder / f"step_{step}.safetensors")
    trajfile.convert(folder, tmp_path / "run.h5")
    with trajfile.open(tmp_path / "run.h5") as run:
        assert run.steps("params").tolist() == list(states)
        for row, state in zip(run["params"]["w"], states.values(), strict=True):
            np.testing.assert_array_equal(row, state["w"])
