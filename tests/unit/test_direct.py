"""Tiles read piece by piece give what staged ones give, and damage is found and told as there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import trajfile
from tests.recorded import plan_for
from tests.twin import Dense, measure
from tests.unit.blocks import chunks_of
from tests.unit.test_engine import EVERYTHING, FEW, FROM_LAST, PG, agree, walk
from tests.unit.test_parts import bits
from trajfile.containers import (
    checksum,
    hdf5_chunk_table,
    hdf5_datasets,
    hdf5_lanes,
    open_container,
    store,
    stored,
    zarr_metadata,
)
from trajfile.convert import convert
from trajfile.engine import direct, frames, phases, running, shape, step
from trajfile.engine import plan as planning
from trajfile.engine.device import Machine
from trajfile.engine.needs import Inner, LayerLaw, LayerPair
from trajfile.engine.stream import conclude_pass, run_part, run_pass
from trajfile.errors import Damaged
from trajfile.stopwatch import running as running_watch

pytest.importorskip("numba")

NEEDS = [need for need in EVERYTHING if isinstance(need, Inner)]
NEEDS += [LayerPair("w1", "w2", PG, LayerLaw((0.9,) * 22, (0.1,) * 22)), LayerPair("w1", "w2", FEW)]
#: Those of runs that may be shorter than 44 steps.
SHORT = [n for n in NEEDS if isinstance(n, Inner) and FROM_LAST not in {n.left, n.right}]
SHAPES = {"a": (37, 45), "b": (12,), "s": (), "none": (0, 3), "w1": (30, 20), "w2": (15, 30)}
#: 3365 columns: three chunks, the last of which lacks one column.
LARGE = SHAPES | {"big": (7, 91)}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large in earnest, small: chunks of 1122 columns, pieces of some hundred."""
    if not checksum.prepare() or stored._kernels() is None:
        pytest.skip("this system has no such way of reading")
    assert hdf5_datasets.MAX_CHUNK_COLUMNS == zarr_metadata.MAX_CHUNK_COLUMNS  # what is refused
    monkeypatch.setattr(store, "MAX_CHUNK_COLUMNS", 1200)
    monkeypatch.setattr(hdf5_lanes, "_DIRECT_BYTES", 2**10)
    monkeypatch.setattr(shape, "JOINED_BYTES", 1)  # a strip for each chunk
    monkeypatch.setattr(frames, "UNIT", 16)
    monkeypatch.setattr(direct, "LEAST_BYTES", 16)
    monkeypatch.setattr(planning, "LANE_COLUMNS", 400)
    monkeypatch.setattr(frames, "FRAME_BYTES", 20_000)
    monkeypatch.setattr(phases, "PHASE_ROWS", 5)


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For each tile whether it was read piece by piece."""
    tiles: list[bool] = []
    pieces = running.Pass._pieces

    def noted(*args: object) -> object:
        found = pieces(*args)
        tiles.append(found is not None)
        return found

    monkeypatch.setattr(running.Pass, "_pieces", noted)
    return tiles


def a_run(dtype: object = "f4", rows: int = 43, shapes: dict = LARGE) -> Dense:
    generator = np.random.default_rng(1)
    steps = 2 * np.arange(rows)
    return Dense(
        {"params": steps, "gradients": steps[::2]},
        {
            "params": {n: walk(generator, rows, s, dtype) for n, s in shapes.items()},
            "gradients": {n: walk(generator, len(steps[::2]), s) for n, s in shapes.items()},
        },
    )


def record(
    dense: Dense, path: Path, late: str | None = None, since: int = 0, **options: object
) -> Path:
    """Record a run; one tensor only since a step."""
    with trajfile.Writer(path, **options) as writer:
        for step in dense.steps["params"].tolist():
            held = {
                name: {
                    tensor: values[row]
                    for tensor, values in dense.arrays[name].items()
                    if tensor != late or step >= since
                }
                for name, steps in dense.steps.items()
                for row in np.flatnonzero(steps == step).tolist()
            }
            writer.append(step, **held)
    return path


def passed(path: Path, needs: object = NEEDS, workers: int = 2, **options: object) -> object:
    container = open_container(path)
    try:
        scratch = 12 * 2**20
        plan = plan_for(container, needs, workers=workers, scratch=scratch, **options)
        plan = replace(plan, precision="float32")
        result = run_pass(plan, container, Machine(plan.profile))
        assert result.bytes_read == plan.bytes_to_read
        assert result.peak_bytes <= plan.peak_bytes <= plan.budget
        return result.measurements
    finally:
        container.close()


@pytest.mark.parametrize("dtype", ["f4", ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_products_are_those_of_the_twin(dtype: object, tmp_path: Path, used: list[bool]) -> None:
    dense = a_run(dtype)
    found = passed(record(dense, tmp_path / "run.h5"))
    assert used
    assert all(used)
    agree(found, measure(dense, NEEDS), 1e-5)


def test_bfloat16_alone(tmp_path: Path, used: list[bool]) -> None:
    dense = a_run(ml_dtypes.bfloat16)
    names = dense.arrays["gradients"]
    dense.arrays["gradients"] = {n: v.astype(ml_dtypes.bfloat16) for n, v in names.items()}
    found = passed(record(dense, tmp_path / "run.h5"))
    assert all(used)
    agree(found, measure(dense, NEEDS), 1e-5)


@pytest.mark.parametrize("form", ["staged", "zstd", "zarr"])
def test_other_ways_of_reading_give_the_same(
    form: str, tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    dense = a_run()
    path = record(dense, tmp_path / "run.h5")
    found = passed(path)
    assert all(used)
    used.clear()
    if form == "staged":
        monkeypatch.setattr(running, "direct", lambda *args: None)
    elif form == "zstd":
        path = record(dense, tmp_path / "packed.h5", compression="zstd")
    else:
        path = record(dense, tmp_path / "run.zarr")
    other = passed(path)
    assert not any(used)
    agree(found, other, 1e-5)


def test_every_bit_is_the_same_on_any_number_of_threads(tmp_path: Path, used: list[bool]) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    first, *others = [bits(passed(path, workers=workers)) for workers in (1, 2, 3, 8)]
    assert all(used)
    for other in others:
        assert other == first


def test_parts_of_a_pass_are_read_so_too(tmp_path: Path, used: list[bool]) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    container = open_container(path)
    plan = replace(plan_for(container, NEEDS, scratch=12 * 2**20), precision="float32")
    machine = Machine(plan.profile)
    assert len(plan.parts) > 1
    parts = [run_part(plan, strips, container, machine) for strips in plan.parts]
    assert any(used)
    made = conclude_pass(plan, parts, machine.device)
    alone = run_pass(plan, container, machine)
    agree(made.measurements, alone.measurements, 1e-5)
    container.close()


def test_selected_steps_and_tensors(
    tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(rows=60), tmp_path / "run.h5")
    needs = SHORT

    def some() -> object:
        return passed(path, needs, steps="0:100:12", params=["a", "b", "s", "none", "w*"])

    found = some()
    assert any(used)
    used.clear()
    monkeypatch.setattr(running, "direct", lambda *args: None)
    other = some()
    assert not any(used)
    agree(found, other, 1e-5)


def test_blocks_of_time_that_carry_rows(
    tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shape, "TILE_BYTES", 100_000)
    dense = a_run()
    found = passed(record(dense, tmp_path / "run.h5"))
    assert len(used) > 6  # three strips
    assert all(used)
    agree(found, measure(dense, NEEDS), 1e-5)


@pytest.mark.parametrize("late", ["a", "w2"])
def test_a_tensor_that_joins_later(
    late: str, tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some rows lack its columns, which are zero there, and lie in chunks of another dataset."""
    path = record(a_run(), tmp_path / "run.h5", late, since=20)
    needs = [need for need in NEEDS if isinstance(need, Inner)]
    found = passed(path, needs)
    assert any(used)
    monkeypatch.setattr(running, "direct", lambda *args: None)
    agree(found, passed(path, needs), 1e-5)


def test_a_flipped_bit_is_found_wherever_it_is_and_told_as_before(
    tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(rows=12), tmp_path / "run.h5")
    whole = path.read_bytes()
    needs = SHORT
    passed(path, needs)
    assert all(used)
    generator = np.random.default_rng(3)
    places = []
    for key in ("streams/params/float32", "streams/gradients/float32"):
        chunks = chunks_of(path, key)
        for number in (0, len(chunks) - 2, len(chunks) - 1):  # the last one is padded
            start, size = chunks[number]
            inside = int(generator.integers(0, size))
            places += [start + at for at in (0, inside, size - 5, size - 4, size - 1)]
    told = {}
    for _ in ("piece by piece", "staged"):
        for place in places:
            content = bytearray(whole)
            content[place] ^= 1 << place % 8
            path.write_bytes(content)
            with pytest.raises(Damaged) as caught:
                passed(path, needs)
            told.setdefault(place, set()).add((str(caught.value), caught.value.rule))
        monkeypatch.setattr(running, "direct", lambda *args: None)
    assert all(len(words) == 1 for words in told.values())
    assert len(told) == len(set(places))


def test_a_file_that_was_cut_is_refused_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    start, size = chunks_of(path, "streams/params/float32")[-1]
    announce = stored.Stored.announce

    def cut(of: stored.Stored) -> None:
        announce(of)
        os.truncate(path, start + size // 2)

    monkeypatch.setattr(stored.Stored, "announce", cut)
    with pytest.raises(Damaged, match="the file ends within a chunk"):
        passed(path)


def test_what_cannot_be_read_once_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A part of its products may be summed up already, so reading it again is no help."""
    path = record(a_run(), tmp_path / "run.h5")

    def refuse(*args: object) -> None:
        raise direct.UnreadError

    with monkeypatch.context() as once:
        once.setattr(step.Step, "_work_off", refuse)
        with pytest.raises(Damaged, match="could not be read, and then could"):
            passed(path)
    with monkeypatch.context() as once:
        once.setattr(stored.Stored, "holds", lambda *args: False)
        with pytest.raises(Damaged, match="changed meanwhile"):
            passed(path)


def test_a_missing_chunk_is_told_by_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    find = hdf5_chunk_table.stored_chunks
    monkeypatch.setattr(hdf5_chunk_table, "stored_chunks", lambda held: np.delete(find(held), 7, 0))
    with pytest.raises(Damaged, match="a committed chunk of row 2 is missing"):
        passed(path)


def test_sums_of_pieces_make_up_those_of_chunks(tmp_path: Path) -> None:
    """However a block is cut, and where its columns begin and end within chunks."""
    generator = np.random.default_rng(5)
    width, rows, chunks = 1000, 4, 3
    content = bytearray()
    places = np.empty((rows, chunks), np.int64)
    for row in range(rows):
        for chunk in range(chunks):
            data = generator.integers(0, 256, width, np.uint8)
            data[: 10 * row] = (0, 0xFF)[chunk % 2]
            if row == 3:
                data[:] = (0, 0xFF)[chunk % 2]  # sums that are zero, or a multiple of 65535
            content += bytes(int(generator.integers(0, 9)))
            places[row, chunk] = len(content)
            content += data.tobytes() + checksum.fletcher32(data).to_bytes(4, "little")
    path = tmp_path / "chunks"
    path.write_bytes(content)
    with path.open("rb") as file:
        for start, stop in ((0, 3000), (6, 3000), (0, 2800), (40, 2990)):
            block = stored.stored(file.fileno(), places, width, start, stop)
            assert block is not None
            columns = (stop - start) // 2  # of two bytes, from column 7 on
            pieces = stored.Pieces([stored.Placed(block, 5, 7, 7 + columns)])
            reads = np.array([(5, r, 64 + 3008 * r) for r in (2, 0, 3, 1)] + [(4, 0, 0)], np.int64)
            table, kernels = (pieces.table, pieces.places), stored._kernels()
            for step in (columns, 499, 32, 1):
                sums, memory = pieces.no_sums(), np.zeros(64 + rows * 3008, np.uint8)
                for a in range(7, 7 + columns, step):
                    b = min(a + step, 7 + columns)
                    for some in (reads[:2], reads[2:]):
                        assert kernels.fetch(*table, some, a, b, memory, 0)
                        kernels.add(*table[:1], some, a, b, memory.view(np.uint16), 0, *sums)
                    for row in range(rows):
                        of = b"".join(content[p : p + width] for p in places[row].tolist())
                        at = start + 2 * (a - 7)
                        found = memory[64 + row * 3008 :][: 2 * (b - a)].tobytes()
                        assert found == of[at : at + 2 * (b - a)]
                assert pieces.holds(sums)
                sums[generator.integers(2), generator.integers(rows * chunks)] += 1
                assert not pieces.holds(sums)
    assert stored.stored(0, places, width, 0, 1200) is None  # most of it for checksums alone


def test_without_a_compiler_or_elsewhere_tiles_are_staged(
    tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    monkeypatch.setattr(stored, "_kernels", lambda: None)
    agree(passed(path), measure(a_run(), NEEDS), 1e-5)
    assert not any(used)


def test_an_archive_is_staged(tmp_path: Path, used: list[bool]) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    convert(path, tmp_path / "kept.h5", layout="archive")
    agree(passed(tmp_path / "kept.h5"), measure(a_run(), NEEDS), 1e-5)
    assert not any(used)


def test_tiles_of_narrow_pieces_are_staged(
    tmp_path: Path, used: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    monkeypatch.setattr(direct, "LEAST_BYTES", 2**13)
    agree(passed(path), measure(a_run(), NEEDS), 1e-5)
    assert not any(used)


def test_reading_and_verifying_show_beside_products(tmp_path: Path, used: list[bool]) -> None:
    path = record(a_run(), tmp_path / "run.h5")
    with running_watch() as watch:
        passed(path)
    assert all(used)
    assert watch is not None
    spent = [kinds for name, kinds in watch.told().items() if "worker" in name]
    for kind in ("read", "verify", "products"):
        assert sum(kinds.get(kind, 0) for kinds in spent) > 0
