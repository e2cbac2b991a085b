"""What the commands print of a folder of checkpoints."""

from __future__ import annotations

import json
import os
import struct
import tracemalloc

import pytest
import torch

import trajfile
from tests.cli.conftest import run as run


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "ckpts"
    made.mkdir()
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 5, generator=generator)
    for step in range(0, 200, 10):
        weight = 0.9 * weight
        state = {"a.weight": weight, "b.weight": weight[:, :2].T.contiguous()}
        torch.save({"model": state, "step": step}, made / f"step_{step}.pt")
    return made


def test_info(run, folder):
    shown = run("info", folder)
    assert shown.code == 0
    assert "torch checkpoints, read in place, without checksums" in shown.out
    assert "20, " in shown.out
    assert "0–190" in shown.out


def test_info_of_a_pattern(run, folder):
    shown = run("info", folder / "step_1?.pt")
    assert shown.code == 0
    assert "params     1  10" in shown.out
    none = run("info", folder / "nothing*.pt")
    assert none.code == 3
    assert "no checkpoint matches the pattern [CORE-001]" in none.err


def test_analyze_says_metric_by_metric_what_is_missing(run, folder):
    shown = run("analyze", folder, "--device", "cpu")
    assert shown.code == 0
    text = " ".join(shown.out.split())
    assert "give your loss with --replay, or record a run" in text
    assert "checkpoints hold none; record a run with gradient_samples" in text
    assert "record a run with groups['scale_invariant']" in text
    assert "append" not in text
    report = trajfile.analyze(folder, device="cpu")
    assert report.metrics["norms"].status == "ok"
    assert report.metrics["geometry"].status == "ok"
    assert {m.status for m in report.metrics.values()} <= {"ok", "skipped", "insufficient"}


def test_a_metric_asked_for_by_name_says_what_it_needs(run, folder):
    shown = run("analyze", folder, "--metrics", "sharpness")
    assert shown.code == 2
    assert "gradients" in shown.err


def test_the_numbers_are_those_of_a_recorded_run(folder, tmp_path):
    with trajfile.Writer(tmp_path / "run.h5") as writer:
        for step in range(0, 200, 10):
            writer.append(step, params=torch.load(folder / f"step_{step}.pt")["model"])
    metrics = ["norms", "geometry", "alignment", "periodicity"]
    found = trajfile.analyze(folder, metrics=metrics, device="cpu").to_dict()["metrics"]
    expected = trajfile.analyze(tmp_path / "run.h5", metrics=metrics, device="cpu").to_dict()
    assert found == expected["metrics"]


def test_validate(run, folder):
    shown = run("validate", folder, "--deep")
    assert shown.code == 0
    assert "no checksums to rely on" in shown.out
    assert "(every value read)" in shown.out
    torch.save({"model": {"a.weight": torch.full((6, 5), torch.nan), "b.weight": torch.ones(2, 6)}},
               folder / "step_200.pt")  # fmt: skip
    shown = run("validate", folder, "--deep")
    assert "USE-006" in shown.out
    assert "first at step 200 in 'a.weight'" in shown.out
    data = (folder / "step_200.pt").read_bytes()
    (folder / "step_200.pt").write_bytes(data[:-30])
    shown = run("validate", folder)
    assert shown.code == 1
    assert "CKPT-004  error" in shown.out
    assert run("analyze", folder).code == 3


def test_a_folder_of_large_checkpoints_opens_without_reading_them(tmp_path):
    names = [f"layer{i}.weight" for i in range(50)]
    size = 4 * 2**20
    entries = {
        name: {"dtype": "F32", "shape": [size // 4], "data_offsets": [i * size, (i + 1) * size]}
        for i, name in enumerate(names)
    }
    head = json.dumps(entries).encode()
    for step in range(50):
        path = tmp_path / f"step_{step}.safetensors"
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(head)) + head)
            os.truncate(file.fileno(), 8 + len(head) + 50 * size)  # sparse: 200 MiB each
    tracemalloc.start()
    with trajfile.open(tmp_path) as traj:
        assert traj.steps("params").tolist() == list(range(50))
        assert traj.container.stored_bytes() > 50 * 200 * 2**20
        assert traj["params"]["layer3.weight"][7:9, :5].tolist() == [[0] * 5] * 2
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 64 * 2**20
