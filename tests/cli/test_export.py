"""`trajfile export`: one screen, one file."""

from __future__ import annotations

import numpy as np
import pytest

import trajfile

SCREEN = """\
{out}: 2 tensors of params, {size}
  fc1.weight  30 rows × 8 × 5  float32  steps 0–58
  fc2.bias    30 rows × 3      float32  steps 0–58
"""


def test_the_screen_and_the_file(run, tiny, tmp_path):
    out = tmp_path / "out.npz"
    ended = run("export", tiny, "--tensor", "fc1*", "--tensor", "fc2.bias", "--steps", "::2",
                "-o", out)  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    unwrapped = " ".join(ended.out.split())
    assert unwrapped == " ".join(SCREEN.format(out=out, size="6.0 KiB").split())
    with trajfile.open(tiny) as trajectory, np.load(out) as found:
        np.testing.assert_array_equal(found["fc1.weight"], trajectory["params"]["fc1.weight"][::2])


def test_what_must_be_known_is_said(run, tmp_path):
    import ml_dtypes

    with trajfile.Writer(tmp_path / "run.h5") as writer:
        writer.append(0, params={"w": np.ones(3, ml_dtypes.bfloat16)})
    ended = run("export", tmp_path / "run.h5", "--tensor", "w", "-o", tmp_path / "w.npz")
    assert "NumPy has no bfloat16, so w holds the bits: view(ml_dtypes.bfloat16)" in ended.out


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--tensor", "fc3.weight", "-o", "x.csv"], 2, "near it: fc2.weight"),
        (["--tensor", "fc1.weight", "-o", "x.mat"], 2, "use .npz, .safetensors or .csv"),
        (["--tensor", "fc1.weight"], 2, "-o"),
        (["-o", "x.csv"], 2, "--tensor"),
        (["--tensor", "fc1.weight", "--stream", "grads", "-o", "x.csv"], 2, "no stream 'grads'"),
    ],
)
def test_refusals(run, tiny, tmp_path, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    ended = run("export", tiny, *argv)
    assert ended.code == code
    assert words in ended.err
    assert ended.out == ""
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told(run, tiny, tmp_path, monkeypatch):
    import errno

    from trajfile.extract import Extract

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Extract, "parts", full)
    ended = run("export", tiny, "--tensor", "fc1.weight", "-o", tmp_path / "x.npz")
    assert ended.code == 4
    assert "the disk is full while writing" in ended.err
    assert list(tmp_path.iterdir()) == []
