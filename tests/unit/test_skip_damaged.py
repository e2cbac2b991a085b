"""Damage to rows: named by validate, refused by analyze, and left out where asked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import trajfile
from tests.conformance.damage import chunk_offset, flip
from trajfile.analyze import plan
from trajfile.errors import Damaged

STEPS = range(0, 120, 10)


def recorded(path: Path, steps=STEPS) -> Path:
    """Two chunks a row, of which the second holds the end of ``w`` and all of ``b``."""
    rng = np.random.default_rng(3)
    rows = {step: rng.standard_normal(300_010).astype(np.float32) for step in STEPS}
    with trajfile.Writer(path, optimizer={"name": "SGD"}) as writer:
        for step in steps:
            params = {"w": rows[step][:300_000], "b": rows[step][300_000:]}
            samples = {"b": np.stack([rows[step][-10:]] * 3)}
            writer.append(
                step, params=params, gradient_samples=samples, scalars={"learning_rate": 0.1}
            )
    return path


def spoil(path: Path, stream: str, row: int, chunk: int, chunks: int = 2) -> None:
    if path.is_dir():
        offset = 40 if chunk == 0 else 700_000
        flip(path / f"streams/{stream}/float32/c.{row}.0", offset)
    else:
        flip(path, chunk_offset(path, f"streams/{stream}/float32", row * chunks + chunk) + 40)


@pytest.fixture(params=[".h5", ".zarr"])
def run(request, tmp_path: Path) -> Path:
    path = recorded(tmp_path / f"run{request.param}")
    for row in (3, 4, 5):
        spoil(path, "params", row, 1)
    spoil(path, "params", 8, 0)
    spoil(path, "gradient_samples", 7, 0, chunks=1)
    return path


def test_validate_names_rows_steps_columns_and_tensors(run: Path) -> None:
    findings = [f for f in trajfile.validate(run, deep=True) if f.severity == "error"]
    told = [
        (f.evidence["stream"], f.evidence["rows"], f.evidence["steps"], f.evidence["columns"])
        for f in findings
    ]
    assert told == [
        ("params", [8, 8], [80, 80], [0, 150_004]),
        ("params", [3, 5], [30, 50], [150_005, 300_009]),
        ("gradient_samples", [7, 7], [20, 20], [0, 9]),
    ]
    assert [f.evidence["tensors"] for f in findings] == [["w"], ["w", "b"], ["b"]]
    assert {f.id for f in findings} == {"SUM-003"}
    assert findings[1].message.startswith(
        "rows 3–5 (steps 30–50), columns 150005–300009 ('w', 'b'): a chunk fails its checksum"
    )


def test_massive_damage_is_told_in_few_findings(tmp_path: Path) -> None:
    path = tmp_path / "run.zarr"
    with trajfile.Writer(path) as writer:
        for step in range(60):
            writer.append(step, params={"w": np.full(20, step, np.float32)})
    for row in (*range(0, 40, 2), *range(45, 60)):
        spoil(path, "params", row, 0, chunks=1)
    findings = [f for f in trajfile.validate(path, deep=True) if f.severity == "error"]
    assert len(findings) == 11
    assert findings[-1].message == (
        "params: 11 more places are damaged, in 25 rows from row 20 to row 59"
    )


def test_analyze_refuses_and_says_what_can_be_done(run: Path) -> None:
    with pytest.raises(Damaged) as caught:
        trajfile.analyze(run, metrics=["norms"], device="cpu")
    message = str(caught.value)
    assert "params is damaged at step 80 (row 8, columns 0–150004 of float32, 'w')" in message
    assert "`--skip-damaged`" in message
    assert "`trajfile repair`" in message
    assert caught.value.rule == "SUM-003"


def test_skipping_gives_the_numbers_of_a_run_without_these_rows(run: Path, tmp_path: Path) -> None:
    kept = [step for step in STEPS if step not in {30, 40, 50, 80}]
    whole = recorded(tmp_path / f"kept{run.suffix}", kept)
    metrics = ["norms", "geometry"]
    report = trajfile.analyze(run, metrics=metrics, device="cpu", skip_damaged=True)
    expected = trajfile.analyze(whole, metrics=metrics, device="cpu")
    assert report.metrics == expected.metrics
    assert report.source.streams["params"].rows == 8
    params, samples = (f for f in report.findings if f.id.startswith("damage."))
    assert (params.severity, params.evidence["step_ranges"]) == ("warn", [[30, 50], [80, 80]])
    assert params.message == (
        "4 of 12 recorded steps of params are damaged and left out (steps 30–50, 80; 'w', 'b')."
    )
    assert samples.message == (
        "1 of 12 recorded steps of gradient_samples is damaged and left out (step 20; 'b')."
    )
    assert trajfile.Report.from_dict(report.to_dict()).findings == report.findings


def test_only_what_is_selected_is_looked_at(run: Path) -> None:
    report = trajfile.analyze(run, metrics=["norms"], device="cpu", params="b", skip_damaged=True)
    (params, _) = (f for f in report.findings if f.id.startswith("damage."))
    assert params.evidence["step_ranges"] == [[30, 50]]
    report = trajfile.analyze(run, metrics=["norms"], device="cpu", steps="90:", skip_damaged=True)
    assert not [f for f in report.findings if f.id.startswith("damage.")]


def test_the_plan_says_so(run: Path) -> None:
    planned = plan(run, metrics=["norms"], skip_damaged=True)
    assert planned.header.left_out["params"].startswith("4 of 12 recorded steps of params")
    assert len(planned.header.steps["params"]) == 8


def test_a_whole_run_is_the_same_either_way(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run.h5")
    told = [
        trajfile.analyze(path, metrics=["norms"], device="cpu", skip_damaged=skip)
        for skip in (False, True)
    ]
    assert told[0].metrics == told[1].metrics
    assert told[0].findings == told[1].findings
