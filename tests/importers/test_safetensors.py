"""Safetensors, in one file and sharded."""

from __future__ import annotations

import json
import struct

import numpy as np
import pytest
import torch

import trajfile
from tests.importers.held import check_stream
from trajfile.errors import Damaged, FormatError, NotATrajectory, Unsafe

safetensors = pytest.importorskip("safetensors.torch")


@pytest.fixture
def folder(tmp_path, training):
    made = tmp_path / "ckpts"
    made.mkdir()
    for step, saved in training.items():
        safetensors.save_file(saved.model, made / f"model-{step:05}.safetensors")
    return made


def test_a_folder_of_files(folder, params):
    with trajfile.open(folder) as traj:
        assert traj.container.kind == "safetensors checkpoints"
        check_stream(traj, "params", params)


def test_the_step_may_stand_in_the_metadata(tmp_path):
    for step in (4, 30):
        safetensors.save_file(
            {"w": torch.full((2,), float(step))},
            tmp_path / f"{'ab'[step > 9]}.safetensors",
            {"step": str(step)},
        )
    with trajfile.open(tmp_path) as traj:
        check_stream(traj, "params", {k: {"w": np.full(2, k, "f4")} for k in (4, 30)})


def test_every_dtype(tmp_path):
    dtypes = ["float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
    state = {name: torch.randn(3, 5).to(getattr(torch, name)) for name in dtypes}
    safetensors.save_file(
        {**state, "i": torch.ones(2, dtype=torch.int8)}, tmp_path / "m_1.safetensors"
    )
    with trajfile.open(tmp_path) as traj:
        check_stream(traj, "params", {1: state})


def header(entries, data=b"", *, length=None):
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, start, stop, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, stop]}


BAD = {
    "empty": (b"", "do not hold a safetensors header"),
    "header past the end": (header({}, length=1000), "header ends at byte 1008"),
    "absurd length": (b"\xff" * 8, "not a safetensors file"),
    "no JSON": (header(b"{nonsense"), "header is not valid"),
    "deep JSON": (header(b"[" * 100_000), "header is not valid"),
    "cut data": (header({"w": entry([4], 0, 16)}, b"\0" * 8), "tensors end at byte"),
    "more data": (header({"w": entry([4], 0, 16)}, b"\0" * 20), "tensors end at byte"),
    "wrong size": (header({"w": entry([5], 0, 16)}, b"\0" * 16), "has shape"),
    "negative": (header({"w": entry([-4, -1], 0, 16)}, b"\0" * 16), "has shape"),
    "overlap": (
        header({"w": entry([4], 0, 16), "v": entry([4], 8, 24)}, b"\0" * 24),
        "expected to begin at 16",
    ),
    "hole": (header({"w": entry([1], 4, 8)}, b"\0" * 8), "expected to begin at 0"),
    "huge shape": (header({"w": entry([2**40, 2**40], 0, 16)}, b"\0" * 16), "has shape"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_headers_are_refused_with_the_file_named(tmp_path, case):
    data, message = BAD[case]
    (tmp_path / "m_1.safetensors").write_bytes(data)
    with pytest.raises(FormatError, match=message) as refused:
        trajfile.open(tmp_path)
    assert "m_1.safetensors" in str(refused.value)
    assert refused.value.rule.startswith("CKPT-")


def test_only_integers_are_no_checkpoint(tmp_path):
    safetensors.save_file({"i": torch.ones(2, dtype=torch.int8)}, tmp_path / "m_1.safetensors")
    with pytest.raises(NotATrajectory, match="no tensor of a floating dtype"):
        trajfile.open(tmp_path)


def test_links_and_pipes_are_refused(tmp_path, folder):
    (folder / "model-7.safetensors").symlink_to(tmp_path / "elsewhere.safetensors")
    with pytest.raises(Unsafe, match="link out of the folder") as refused:
        trajfile.open(folder)
    assert refused.value.rule == "CKPT-007"
    (folder / "model-7.safetensors").unlink()
    import os

    os.mkfifo(folder / "model-7.safetensors")
    with pytest.raises(Unsafe, match="not a regular file") as refused:
        trajfile.open(folder)
    assert refused.value.rule == "CKPT-008"


def test_a_link_to_another_checkpoint_of_the_folder_is_left_out(folder, params):
    (folder / "latest.safetensors").symlink_to("model-00100.safetensors")
    with trajfile.open(folder) as traj:
        check_stream(traj, "params", params)
        assert traj.manifest.metadata["files_left_out"] == {
            "links to others": ["latest.safetensors"]
        }


def test_a_file_that_changes_while_it_is_open_is_noticed(folder):
    with trajfile.open(folder) as traj:
        path = folder / "model-00005.safetensors"
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(Damaged, match=r"model-00005\.safetensors has changed"):
            traj["params"]["0.weight"][:]
