"""Repairing runs that were damaged in every way: what is proven is kept bit for bit, no more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.conformance.bit_rot import record, record_killed
from tests.conformance.damage import chunk_offset, flip
from trajfile.clean_copy import NOTE
from trajfile.containers import open_container
from trajfile.dtypes import numpy_dtype
from trajfile.errors import Damaged, NotATrajectory, ResourceError, UsageError
from trajfile.repair import repair
from trajfile.repaired import RepairReport
from trajfile.schema import ABSENT_BITS

FORMS = [("run.h5", None), ("run.h5", "gzip"), ("run.zarr", None), ("run.zarr", "zstd")]


def rows_of(path: Path) -> dict[tuple[str, str, int, int], bytes]:
    """Every tensor's bits by stream, name, step and how many rows of that step came before."""
    container = open_container(path)
    found: dict[tuple[str, str, int, int], bytes] = {}
    try:
        for spec in container.manifest().streams:
            steps, _ = container.keys(spec.name)
            for tensor in spec.tensors:
                if tensor.first_row >= len(steps):
                    continue
                for row in range(tensor.first_row, len(steps)):
                    out = np.empty((1, tensor.size), numpy_dtype(tensor.dtype))
                    place = slice(row, row + 1)
                    container.read(spec.name, tensor.dtype, place, tensor.columns, out)
                    sample = int((steps[:row] == steps[row]).sum())
                    found[spec.name, tensor.name, int(steps[row]), sample] = out.tobytes()
        steps, values = container.scalars()
        for column, name in enumerate(container.manifest().scalars):
            for step, value in zip(steps, values[:, column], strict=True):
                if value.view(np.uint64) != ABSENT_BITS:
                    found["scalars", name, int(step), 0] = value.tobytes()
    finally:
        container.close()
    return found


def table_file(path: Path, key: str) -> tuple[Path, int]:
    """Where the first chunk of a table begins."""
    if path.is_dir():
        return sorted((path / key).glob("c.0*"))[0], 0
    return path, chunk_offset(path, key, 0)


def lose(path: Path, key: str, offset: int, length: int) -> None:
    """Overwrite bytes of a table's first chunk."""
    file, start = table_file(path, key)
    data = bytearray(file.read_bytes())
    data[start + offset : start + offset + length] = b"\xa5" * length
    file.write_bytes(data)


def check(report: RepairReport, whole: dict, *, lossy: bool) -> dict:
    """The new file is valid, and holds nothing that was not recorded; what it lacks."""
    assert not [f for f in trajfile.validate(report.out, deep=True) if f.severity == "error"]
    saved = rows_of(Path(report.out))
    assert saved.items() <= whole.items()
    assert report.lossy is lossy
    with trajfile.open(report.out) as run:
        assert run.uuid == report.uuid
        assert run.manifest.metadata[NOTE][-1]["lossy"] is lossy
        assert run.manifest.metadata["model"] == "small"
    return {key: whole[key] for key in whole.keys() - saved.keys()}


@pytest.fixture(params=FORMS, ids=lambda form: f"{form[0]}-{form[1]}")
def run(request, tmp_path: Path) -> Path:
    return record(tmp_path / request.param[0], request.param[1])


@pytest.fixture
def whole(run: Path) -> dict:
    return rows_of(run)


def bytes_of(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    return {str(file): file.read_bytes() for file in files}


def test_a_whole_run_is_copied(run: Path, whole: dict) -> None:
    before = bytes_of(run)
    report = trajfile.repair(run)
    assert bytes_of(run) == before
    assert report.out == str(run.with_name(f"run.repaired{run.suffix}"))
    assert check(report, whole, lossy=False) == {}
    assert (report.mended, report.lost, report.backup) == ((), (), None)
    first, second = open_container(run), open_container(report.out)
    assert (first.commits() == second.commits()).all()  # times too
    first.close()
    second.close()
    with pytest.raises(UsageError, match="exists already"):
        trajfile.repair(run)


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_to_the_other_container(run: Path, whole: dict, suffix: str) -> None:
    report = trajfile.repair(run, run.with_name(f"other{suffix}"))
    assert check(report, whole, lossy=False) == {}


def test_damaged_chunks(run: Path, whole: dict) -> None:
    if run.is_dir():
        flip(run / "streams/params/float32/c.2.0", 5)
        (run / "streams/gradient_samples/float32/c.3.0").unlink()
    else:
        flip(run, chunk_offset(run, "streams/params/float32", 2) + 5)
        flip(run, chunk_offset(run, "streams/gradient_samples/float32", 3) + 5)
    report = trajfile.repair(run)
    lost = check(report, whole, lossy=True)
    assert {(stream, step) for stream, _, step, _ in lost} == {
        ("params", 4),
        ("gradient_samples", 2),
    }
    params, samples, scalars = report.streams
    assert (params.committed, params.saved, samples.saved, scalars.saved) == (4, 3, 7, 4)
    (gone,) = params.lost
    assert (gone.rows, gone.steps) == ((2, 2), (4, 4))
    with trajfile.open(report.out) as clean:
        assert clean.manifest.metadata[NOTE][0]["lost"][0]["steps"] == [4, 4]
        assert len(clean["params"]["b"]) == 1  # joined at the lost row


def test_a_byte_of_each_table_is_mended(run: Path, whole: dict) -> None:
    for key, offset in [
        ("manifest", 30),
        ("commits", 8 * 12 + 17),
        ("scalars/step", 8),
        ("scalars/value", 3),
        ("streams/params/step", 9),
        ("streams/gradient_samples/sample", 4),
    ]:
        file, start = table_file(run, key)
        flip(file, start + offset)
    report = trajfile.repair(run)
    assert check(report, whole, lossy=False) == {}
    assert len(report.mended) >= 4


def test_keys_are_had_again_from_the_commit_records(run: Path, whole: dict) -> None:
    lose(run, "streams/params/step", 0, 32)
    lose(run, "streams/gradient_samples/sample", 0, 32)
    report = trajfile.repair(run)
    assert check(report, whole, lossy=False) == {}
    assert "the keys of 4 rows of params, from the commit records" in report.mended


def test_scalars_that_are_not_proven_are_lost_alone(run: Path, whole: dict) -> None:
    lose(run, "scalars/value", 0, 8)
    report = trajfile.repair(run)
    lost = check(report, whole, lossy=True)
    assert {(stream, step) for stream, _, step, _ in lost} == {("scalars", 0)}


def test_a_lost_record_in_the_middle_costs_only_its_time(run: Path, whole: dict) -> None:
    lose(run, "commits", 8 * 12, 8 * 12)
    report = trajfile.repair(run)
    assert check(report, whole, lossy=False) == {}
    assert report.mended == (
        "commit record 1 is damaged; what it committed is proven by the next one, but the time "
        "is lost",
    )


def test_lost_records_at_the_end_cost_their_steps(run: Path, whole: dict) -> None:
    lose(run, "commits", 2 * 8 * 12, 2 * 8 * 12)
    report = trajfile.repair(run)
    lost = check(report, whole, lossy=True)
    assert {step for *_, step, _ in lost} == {4, 6}
    assert report.lost == ("2 commits after step 2, whose records are damaged",)


def test_a_byte_beyond_the_last_record_is_no_record(run: Path, whole: dict) -> None:
    file, start = table_file(run, "commits")
    flip(file, start + 49 * 8 * 12 + 8 * 11)
    report = trajfile.repair(run)
    assert check(report, whole, lossy=False) == {}
    assert report.mended == ()


def test_the_last_revision_of_the_manifest_is_lost(run: Path, whole: dict) -> None:
    container = open_container(run)
    length = len(container._store.load("manifest", container._record.manifest_bytes))
    container.close()
    lose(run, "manifest", length - 60, 20)
    report = trajfile.repair(run)
    lost = check(report, whole, lossy=True)
    assert {name for _, name, _, _ in lost} == {"b", "accuracy"}
    assert report.lost == ("the revision of the manifest of step 4, and what joined there",)


@pytest.mark.parametrize("key", ["commits", "manifest"])
def test_without_these_nothing_can_be_saved(run: Path, key: str) -> None:
    if run.is_dir():
        shutil.rmtree(run / key)
    else:
        lose(run, key, 0, 4000)
    with pytest.raises(Damaged) as caught:
        trajfile.repair(run)
    assert str(run) in str(caught.value)
    assert [file.name for file in run.parent.iterdir()] == [run.name]


@pytest.mark.parametrize("name", ["run.h5", "run.zarr"])
def test_what_a_kill_left(tmp_path: Path, name: str) -> None:
    run = record_killed(tmp_path / name)
    whole = rows_of(run)
    if run.is_dir():
        (run / "streams/params/float32/c.4.0.partial").write_bytes(b"half")
    report = trajfile.repair(run, tmp_path / f"out-{name}")
    assert check(report, whole, lossy=False) == {}


@pytest.mark.parametrize("share", [0.5, 0.8, 0.9, 0.97])
def test_a_truncated_file(tmp_path: Path, share: float) -> None:
    run = tmp_path / "run.h5"
    rng = np.random.default_rng(1)
    with trajfile.Writer(run, metadata={"model": "small"}) as writer:
        for step in range(40):
            writer.append(step, params={"w": rng.standard_normal(5000)}, scalars={"loss": 1.0})
    whole = rows_of(run)
    os.truncate(run, int(run.stat().st_size * share))
    with pytest.raises(Damaged, match="trajfile repair"):
        trajfile.open(run)
    report = trajfile.repair(run)
    lost = check(report, whole, lossy=True)
    assert len(lost) < (1 - share) * len(whole) + 6


def test_a_damaged_superblock(tmp_path: Path) -> None:
    for offset in (0, 3, 9, 11, 20, 30, 38, 45):
        run = record(tmp_path / f"run{offset}.h5")
        whole = rows_of(run)
        flip(run, offset)
        report = trajfile.repair(run)
        assert check(report, whole, lossy=False) == {}
        assert report.mended[0] == "the superblock"


@pytest.mark.parametrize("compression", [None, "gzip", "zstd"])
def test_lost_documents_of_zarr(tmp_path: Path, compression: str | None) -> None:
    run = record(tmp_path / "run.zarr", compression)
    whole = rows_of(run)
    with trajfile.open(run) as opened:
        uuid = opened.uuid
    for number, document in enumerate(sorted(run.rglob("zarr.json"))):
        document.write_bytes(b"{") if number % 2 else document.unlink()
    report = trajfile.repair(run)
    assert check(report, whole, lossy=False) == {}
    assert report.uuid == uuid
    assert "uuid and format version, from the manifest" in report.mended


def test_another_uuid_is_put_right(tmp_path: Path) -> None:
    run = record(tmp_path / "run.zarr")
    with trajfile.open(run) as opened:
        uuid = opened.uuid
    document = run / "zarr.json"
    other = "0" if uuid[0] != "0" else "1"
    document.write_text(document.read_text().replace(uuid, other + uuid[1:]))
    with pytest.raises(Damaged, match=uuid):
        trajfile.open(run)
    assert trajfile.repair(run).uuid == uuid


def test_in_place_keeps_the_damaged_run(run: Path, whole: dict) -> None:
    lose(run, "scalars/value", 0, 8)
    before = {Path(name).name: data for name, data in bytes_of(run).items()}
    report = trajfile.repair(run, in_place=True)
    assert (report.out, report.backup) == (str(run), str(run.with_name(f"run.damaged{run.suffix}")))
    check(report, whole, lossy=True)
    kept = {Path(name).name: data for name, data in bytes_of(Path(str(report.backup))).items()}
    if run.is_file():
        assert list(kept.values()) == list(before.values())
    assert len(kept) == len(before)
    with pytest.raises(UsageError, match="move it away"):
        trajfile.repair(run, in_place=True)


def test_twice_repaired_says_both(run: Path) -> None:
    once = trajfile.repair(run)
    twice = trajfile.repair(once.out)
    with trajfile.open(twice.out) as clean:
        assert len(clean.manifest.metadata[NOTE]) == 2


def test_usage(run: Path, tmp_path: Path) -> None:
    with pytest.raises(NotATrajectory, match="no such file"):
        trajfile.repair(tmp_path / "none.h5")
    with pytest.raises(UsageError, match="suffix"):
        trajfile.repair(run, tmp_path / "out.npz")
    with pytest.raises(UsageError, match="in_place"):
        trajfile.repair(run, tmp_path / "out.h5", in_place=True)
    (tmp_path / "text.h5").write_text("hello, this is no trajectory, and long enough to be one....")
    with pytest.raises(NotATrajectory, match="not an HDF5 file"):
        trajfile.repair(tmp_path / "text.h5")
    with trajfile.Writer(run, "a") as writer:
        writer.append(99, params={})
        with pytest.raises(ResourceError, match="is being written"):
            repair(run)


def test_the_report_is_plain_json(run: Path) -> None:
    lose(run, "scalars/value", 0, 8)
    told = trajfile.repair(run).to_dict()
    assert told["lossy"] is True
    assert told["streams"][-1]["lost"][0]["rows"] == [0, 0]
