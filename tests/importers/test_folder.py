"""Which entries of a folder are checkpoints, in which order and at which steps."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

import trajfile
from trajfile.errors import Damaged, NotATrajectory, UsageError
from trajfile.importers.files import Files, known
from trajfile.importers.steps import step_in_name


def save(path, value=1.0, **more):
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {"w": torch.full((3,), value), "v": torch.ones(2, 2)}
    torch.save({"model": state, **more} if more else state, path)


@pytest.mark.parametrize(
    ("name", "step", "how"),
    [
        ("step_100", 100, "step"),
        ("checkpoint-500", 500, "number"),
        ("epoch=3-step=400", 400, "step"),
        ("epoch_7", 7, "epoch"),
        ("epoch=3-val_loss=0.25", 3, "epoch"),
        ("ckpt.0012", 12, "number"),
        ("model-v2-300", 300, "number"),
        ("iter_0000100", 100, "step"),
        ("global_step1000", 1000, "step"),
        ("1000_steps", 1000, "step"),
        ("resnet50_best", 50, "number"),
        ("best", None, "none"),
        ("model-00001-of-00002", None, "none"),
    ],
)
def test_steps_in_names(name, step, how):
    assert step_in_name(name) == (step, how)


def test_natural_order_and_gaps(tmp_path):
    for step in (10, 9, 100, 1000):
        save(tmp_path / f"step_{step}.pt", float(step))
    traj = trajfile.open(tmp_path)
    assert traj.steps("params").tolist() == [9, 10, 100, 1000]
    assert traj["params"]["w"][:, 0].tolist() == [9, 10, 100, 1000]


def test_the_step_inside_counts_where_the_name_says_none(tmp_path):
    save(tmp_path / "a.pt", 1.0, step=20)
    save(tmp_path / "b.pt", 2.0, step=3)
    assert trajfile.open(tmp_path)["params"]["w"][:, 0].tolist() == [2, 1]


def test_best_and_last_beside_numbered_ones(tmp_path):
    save(tmp_path / "step_1.pt", 1.0, global_step=1)
    save(tmp_path / "step_2.pt", 2.0, global_step=2)
    save(tmp_path / "last.pt", 2.0, global_step=2)
    save(tmp_path / "best.pt")
    save(tmp_path / "optimizer.pt")
    (tmp_path / "step_3.pt.tmp").write_bytes(b"half")
    (tmp_path / "log.txt").write_text("hello")
    traj = trajfile.open(tmp_path)
    assert traj.steps("params").tolist() == [1, 2]
    assert traj.manifest.metadata["files_left_out"] == {
        "unfinished": ["step_3.pt.tmp"],
        "same step as another": ["last.pt"],
        "without a step": ["best.pt"],
    }
    remarks = [f.message for f in trajfile.validate(tmp_path) if f.id == "CKPT-102"]
    assert "not read (unfinished): step_3.pt.tmp" in remarks


def test_optimizers_saved_beside_their_models_are_left_out(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    weight.grad = torch.ones(3)
    optimizer.step()
    for step in (1, 2):
        save(tmp_path / f"model_{step}.pt", float(step))
        torch.save(optimizer.state_dict(), tmp_path / f"optim_{step}.pt")
    traj = trajfile.open(tmp_path)
    assert traj["params"]["w"][:, 0].tolist() == [1, 2]
    assert traj.manifest.metadata["files_left_out"] == {
        "without parameters": ["optim_1.pt", "optim_2.pt"]
    }


def test_epochs_stand_for_steps_where_nothing_else_is_known(tmp_path):
    save(tmp_path / "epoch_1.pt")
    save(tmp_path / "epoch_2.pt")
    traj = trajfile.open(tmp_path)
    assert traj.steps("params").tolist() == [1, 2]
    assert traj.manifest.metadata["steps_count"] == "epochs"
    save(tmp_path / "step_300.pt")
    with pytest.raises(Damaged, match=r"steps \(step_300\.pt\) and others in epochs") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-001"


def test_a_single_checkpoint_opens(tmp_path):
    save(tmp_path / "model.pt", 4.0)
    for path in (tmp_path, tmp_path / "model.pt"):
        traj = trajfile.open(path)
        assert traj.steps("params").tolist() == [0]
        assert traj["params"]["w"].at(0).tolist() == [4, 4, 4]


def test_no_steps_at_all_is_an_error(tmp_path):
    save(tmp_path / "a.pt")
    save(tmp_path / "b.pt")
    with pytest.raises(Damaged, match="none of which says its step") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-001"


def test_two_of_one_step_are_an_error(tmp_path):
    save(tmp_path / "a_5.pt")
    save(tmp_path / "b_5.pt")
    with pytest.raises(Damaged, match=r"a_5\.pt and b_5\.pt .* both of step 5") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-002"


def test_mixed_kinds_are_an_error(tmp_path):
    pytest.importorskip("safetensors")
    from safetensors.torch import save_file

    save(tmp_path / "step_1.pt")
    save(tmp_path / "step_2.pt")
    save_file({"w": torch.ones(3)}, tmp_path / "step_3.safetensors")
    with pytest.raises(Damaged, match="2 of PyTorch, 1 of safetensors") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-003"


DIFFERENT = {
    "shape": ({"w": torch.ones(4), "v": torch.ones(2, 2)}, "'w' as 4 float32, expected 3 float32"),
    "dtype": (
        {"w": torch.ones(3).half(), "v": torch.ones(2, 2)},
        "'w' as 3 float16, expected 3 float32",
    ),
    "missing": ({"w": torch.ones(3)}, "lacks the tensor 'v'"),
    "more": ({"w": torch.ones(3), "v": torch.ones(2, 2), "u": torch.ones(1)}, "tensor 'u', which"),
}


@pytest.mark.parametrize("case", DIFFERENT)
@pytest.mark.parametrize("step", [1, 3])
def test_the_file_whose_tensors_differ_is_named(tmp_path, case, step):
    state, message = DIFFERENT[case]
    for k in (1, 2, 3):
        save(tmp_path / f"step_{k}.pt")
    torch.save(state, tmp_path / f"step_{step}.pt")
    with pytest.raises(Damaged, match=message) as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-005"
    assert f"step_{step}.pt" in str(refused.value).split(message)[0]


def test_a_folder_without_any_is_no_trajectory(tmp_path):
    with pytest.raises(NotATrajectory, match="not a Zarr v3 group"):
        trajfile.open(tmp_path)


def test_a_copy_has_the_same_uuid_and_other_weights_another(tmp_path):
    for k in (1, 2):
        save(tmp_path / "a" / f"step_{k}.pt", float(k))
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    first, copied = trajfile.open(tmp_path / "a"), trajfile.open(tmp_path / "b")
    assert first.uuid == copied.uuid
    save(tmp_path / "b" / "step_2.pt", 5.0)
    assert trajfile.open(tmp_path / "b").uuid != first.uuid


def test_checkpoints_are_never_written(tmp_path):
    save(tmp_path / "step_1.pt")
    with pytest.raises(UsageError, match="suffix"):
        trajfile.Writer(tmp_path / "step_1.pt", mode="a")


def test_few_files_stay_open_and_threads_may_read(tmp_path):
    rows = 40
    for k in range(rows):
        save(tmp_path / f"step_{k}.pt", float(k))
    traj = trajfile.open(tmp_path)
    failures = []

    def work():
        for _ in range(5):
            if traj["params"]["w"][:, 0].tolist() != list(range(rows)):
                failures.append("wrong values")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    traj.close()
    with pytest.raises(UsageError, match="closed"):
        traj["params"]["w"][0]


def test_open_files_are_bounded(tmp_path):
    listed = []
    for k in range(10):
        (tmp_path / f"{k}").write_bytes(bytes([k]) * 8)
        listed.append(known(tmp_path / f"{k}", tmp_path))
    files = Files(most=3)
    for _ in range(2):
        for k, file in enumerate(listed):
            out = np.empty(8, np.uint8)
            files.read(file, 0, out)
            assert out.tolist() == [k] * 8
            assert sum(map(len, files._idle.values())) <= 3
    files.close()


def test_info_imports_no_torch(tmp_path):
    save(tmp_path / "step_1.pt", 1.0, optimizer={"state": {}, "param_groups": []})
    code = (
        "import sys, trajfile; t = trajfile.open(sys.argv[1]); t['params']['w'][0]; "
        "trajfile.validate(sys.argv[1], deep=True); "
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False).returncode == 0
