import re

import ml_dtypes
import numpy as np
import pytest

import trajfile


def record(path, tensors, steps=3, **about):
    with trajfile.Writer(path, **about) as writer:
        for step in range(steps):
            writer.append(step, params=tensors, scalars={"loss": 1.0 / (step + 1)})
    return path


def test_few_tensors_are_all_listed_with_their_exact_sizes(run, tmp_path):
    tensors = {
        "encoder.weight": np.zeros((128, 33), "f4"),
        "encoder.half": np.zeros((2, 3, 4), ml_dtypes.bfloat16),
        "temperature": np.zeros((), "f8"),
    }
    out = run("info", record(tmp_path / "run.h5", tensors)).out
    assert re.search(r"^  encoder.weight +128 × 33 +float32 +4224 +16.5 KiB$", out, re.M)
    assert re.search(r"^  encoder.half +2 × 3 × 4 +bfloat16 +24 +48 B$", out, re.M)
    assert re.search(r"^  temperature +scalar +float64 +1 +8 B$", out, re.M)
    assert re.search(r"^  params +3 +0–2 +every step +.*16.6 KiB$", out, re.M)
    assert "4224 float32, 24 bfloat16, 1 float64" in out
    assert re.search(r"^  loss +3 +0–2 +every step +1 → 0.333 +0.333 … 1$", out, re.M)


def test_many_tensors_are_counted_unless_all_are_asked_for(run, tmp_path):
    path = record(tmp_path / "run.h5", {f"layer{k:02}": np.zeros(2, "f4") for k in range(25)})
    out = run("info", path).out
    assert "layer19" in out
    assert "layer20" not in out
    assert re.search(r"^  and 5 more \(--all\) +10 +40 B$", out, re.M)
    everything = run("info", path, "--all").out
    assert "layer24" in everything
    assert "more (--all)" not in everything


def test_what_is_known_of_optimizer_gradients_and_groups(run, tmp_path):
    path = record(
        tmp_path / "run.h5",
        {"a.weight": np.zeros((2, 2), "f4"), "b.weight": np.zeros((2, 2), "f4")},
        optimizer={"name": "AdamW", "betas": [0.9, 0.999], "weight_decay": 0.01},
        gradient={"stage": "clipped", "source": "mini_batch", "batch_size": 64},
        groups={"layers": ["a.weight", "b.weight"]},
        metadata={"seed": 7, "tags": ["x", "y"], "long": "w" * 1000},
    )
    out = run("info", path).out
    assert "AdamW · betas [0.9, 0.999] · weight decay 0.01" in out
    assert "clipped mini-batch gradients, batch size 64" in out
    assert re.search(r"^  layers +a.weight, b.weight$", out, re.M)
    assert re.search(r"^  seed +7$", out, re.M)
    assert '["x", "y"]' in out
    assert out.count("w" * 60) < 10  # the rest of the long value is left out
    assert "…" in out


def test_streams_of_other_tensors_have_their_own_table(run, tmp_path):
    path = tmp_path / "run.h5"
    theta = {"a": np.zeros(3, "f4"), "b": np.zeros(2, "f4")}
    with trajfile.Writer(path) as writer:
        for step in range(3):
            writer.append(step, params=theta, gradients={"a": theta["a"]}, updates=theta)
    out = run("info", path).out
    assert out.count("\nTensors") == 2
    assert "\nTensors of gradients\n" in out


def test_values_that_are_not_finite_are_counted(run, tmp_path):
    path = tmp_path / "run.h5"
    with trajfile.Writer(path) as writer:
        for step, loss in enumerate([1.0, float("nan"), 0.5, float("inf")]):
            writer.append(step, scalars={"loss": loss})
    assert "0.5 … 1 (2 values not finite)" in run("info", path).out


@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_fits_the_width(run, tmp_path, monkeypatch, width):
    names = ["module." * 30 + f"w{k}" for k in range(3)]
    path = record(tmp_path / "run.h5", {name: np.zeros((7, 11), "f4") for name in names})
    monkeypatch.setenv("COLUMNS", width)
    out = run("info", path).out
    assert all(len(line) <= int(width) for line in out.splitlines())
    assert len(re.findall(r"….*w[012] ", out)) == 3


def test_same_screen_for_both_containers(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")  # room for the path, which is taken out below
    tensors = {"w": np.arange(6, dtype="f4").reshape(2, 3)}
    screens = []
    for name in ("run.h5", "run.zarr"):
        out = run("info", record(tmp_path / name, tensors, metadata={"seed": 1})).out
        assert name.rpartition(".")[2].replace("h5", "hdf5") in out
        varying = re.compile(r"^(/.*|  container.*|  uuid.*|  on disk.*|  commits.*)$", re.M)
        screens.append(varying.sub("", out))
    assert screens[0] == screens[1]
