"""NumPy's .npz, plain and compressed."""

from __future__ import annotations

import struct
import zipfile

import ml_dtypes
import numpy as np
import pytest

import trajfile
from tests.importers.held import check_stream
from trajfile.errors import FormatError, Unsafe

RNG = np.random.default_rng(0)
STATE = {
    "w": RNG.normal(size=(5, 7)).astype("f4"),
    "fortran": np.asfortranarray(RNG.normal(size=(3, 4, 2))),
    "half": RNG.normal(size=9).astype("f2"),
    "scalar": np.float32(3),
    "empty": np.empty((0, 3), "f4"),
    "nested/name": RNG.normal(size=2),
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_arrays_are_bit_for_bit(tmp_path, save):
    state = dict(STATE)
    if save is np.savez_compressed:
        del state["fortran"]
    for step in (3, 20):
        save(tmp_path / f"p_{step}.npz", step=np.int64(step), ints=np.arange(3), **state)
    with trajfile.open(tmp_path) as traj:
        assert traj.container.kind == "npz checkpoints"
        check_stream(traj, "params", {step: state for step in (3, 20)})
        width = traj.manifest.by_name["params"].lanes["float32"]
        whole = np.empty((2, width), "f4")
        traj.container.read("params", "float32", slice(0, 2), slice(0, width), whole)
        for start in range(0, width, 5):
            part = np.empty((1, width - start), "f4")
            traj.container.read("params", "float32", slice(1, 2), slice(start, width), part)
            np.testing.assert_array_equal(part[0], whole[1, start:])


def test_the_step_may_stand_inside(tmp_path):
    for name, step in (("a", 30), ("b", 4)):
        np.savez(tmp_path / f"{name}.npz", w=np.full(2, step, "f4"), step=step)
    assert trajfile.open(tmp_path).steps("params").tolist() == [4, 30]


def test_objects_and_other_dtypes_are_left_out(tmp_path):
    np.savez(
        tmp_path / "p_1.npz",
        w=np.ones(3, "f4"),
        objects=np.array([{"a": 1}], object),
        complex=np.ones(2, "c8"),
        big=np.ones(2, ">f4"),
        bf16=np.ones(2, ml_dtypes.bfloat16),
    )
    with trajfile.open(tmp_path) as traj:
        assert list(traj["params"]) == ["w"]


def bomb(path, *, stated):
    """A record whose directory states one size and whose bytes inflate to another."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        shape = (stated,)
        head = repr({"descr": "<f4", "fortran_order": False, "shape": shape}).encode()
        head += b" " * (63 - (len(head) + 10) % 64) + b"\n"
        archive.writestr(
            "w.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + b"\0" * 100_000
        )


def test_what_a_header_claims_is_held_against_the_bytes(tmp_path):
    bomb(tmp_path / "p_1.npz", stated=2**40)
    with pytest.raises(FormatError, match="has shape") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-004"


def test_a_size_beyond_what_deflate_can_do_is_refused(tmp_path):
    bomb(tmp_path / "p_1.npz", stated=25_000)
    data = bytearray((tmp_path / "p_1.npz").read_bytes())
    at = data.rfind(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 2**31)
    (tmp_path / "p_1.npz").write_bytes(data)
    with pytest.raises(Unsafe, match="inflates to 2147483648 bytes") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-009"


@pytest.mark.parametrize("cut", [0, 3, 50, -1])
def test_a_truncated_file_is_named(tmp_path, cut):
    np.savez(tmp_path / "p_1.npz", w=np.ones(30, "f4"))
    data = (tmp_path / "p_1.npz").read_bytes()
    (tmp_path / "p_1.npz").write_bytes(data[:cut])
    with pytest.raises(FormatError, match=r"p_1\.npz is not whole"):
        trajfile.open(tmp_path)


@pytest.mark.parametrize("noise", [True, False])
def test_a_broken_compressed_array_is_named(tmp_path, noise):
    values = RNG.normal(size=300_000) if noise else np.arange(300_000.0)
    np.savez_compressed(tmp_path / "p_1.npz", w=values)
    data = bytearray((tmp_path / "p_1.npz").read_bytes())
    middle = len(data) * 3 // 4
    data[middle : middle + 4000] = b"\xff" * 4000
    (tmp_path / "p_1.npz").write_bytes(data)
    with (
        trajfile.open(tmp_path) as traj,
        pytest.raises(FormatError, match=r"a compressed array (is damaged|does not match)") as seen,
    ):
        traj["params"]["w"][:]
    assert seen.value.rule == "CKPT-004"
