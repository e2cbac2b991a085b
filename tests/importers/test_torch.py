"""Files of torch.save, however the training script nested them."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch

import trajfile
from tests.importers.conftest import network
from tests.importers.held import check_stream
from trajfile.errors import Damaged, NotATrajectory


def save(folder, training, make, name="step_{}.pt"):
    folder.mkdir(exist_ok=True)
    for step, saved in training.items():
        torch.save(make(step, saved), folder / name.format(step))
    return folder


def test_state_dicts(tmp_path, training, params):
    folder = save(tmp_path / "ckpts", training, lambda step, saved: saved.model)
    with trajfile.open(folder) as traj:
        assert traj.streams == ("params",)
        check_stream(traj, "params", params)
        assert traj.container.kind == "torch checkpoints"
        left = traj.manifest.metadata["tensors_left_out"]
        assert sorted(name for names in left.values() for name in names) == [
            "1.num_batches_tracked", "1.running_mean", "1.running_var",
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("model_key", "optimizer_key"),
    [
        ("model_state_dict", "optimizer_state_dict"),
        ("state_dict", "optimizer"),
        ("model", "opt"),
        ("net", "optim"),
    ],
)
def test_nested_training_checkpoints(tmp_path, training, params, model_key, optimizer_key):
    def nested(step, saved):
        # One group in the order of the model, as most scripts have it.
        state = saved.optimizer
        order = [p for group in state["param_groups"] for p in group["params"]]
        names = [n for n in params[0] if "weight" in n] + [n for n in params[0] if "bias" in n]
        by_name = dict(zip(names, order, strict=True))
        group = {**state["param_groups"][0], "params": list(range(len(order)))}
        renumbered = {i: state["state"].get(by_name[n]) for i, n in enumerate(params[0])}
        return {
            "epoch": 3,
            "args": {"lr": 0.1},
            model_key: saved.model,
            optimizer_key: {
                "state": {k: v for k, v in renumbered.items() if v},
                "param_groups": [group],
            },
            "scheduler": {"last_epoch": step, "_last_lr": [0.1]},
            "loss": torch.tensor(0.5),
        }

    folder = save(tmp_path / "ckpts", training, nested)
    with trajfile.open(folder) as traj:
        check_stream(traj, "params", params)
        assert set(traj.streams) == {"params", "optimizer/exp_avg", "optimizer/exp_avg_sq"}
        assert traj.steps("optimizer/exp_avg").tolist() == [5, 10, 100]
        for slot in ("exp_avg", "exp_avg_sq"):
            expected = {
                step: {
                    name: nested(step, training[step])[optimizer_key]["state"][i][slot]
                    for i, name in enumerate(params[0])
                }
                for step in (5, 10, 100)
            }
            check_stream(traj, f"optimizer/{slot}", expected)
        assert traj.manifest.optimizer["name"] == "AdamW"
        assert traj.manifest.optimizer["betas"] == [0.8, 0.9]
        steps, rates = traj.scalars["learning_rate"]
        assert steps.tolist() == [0, 5, 10, 100]
        assert set(rates) == {1e-2}


def test_an_optimizer_that_saves_names_may_have_any_order(tmp_path, training, params):
    names = [[n for n in params[0] if end in n] for end in ("weight", "bias")]

    def named(step, saved):
        groups = [
            {**group, "param_names": given}
            for group, given in zip(saved.optimizer["param_groups"], names, strict=True)
        ]
        state = {"state": saved.optimizer["state"], "param_groups": groups}
        return {"model": saved.model, "optimizer": state}

    folder = save(tmp_path / "ckpts", training, named)
    with trajfile.open(folder) as traj:
        order = [name for given in names for name in given]
        expected = {
            step: {n: training[step].optimizer["state"][i]["exp_avg"] for i, n in enumerate(order)}
            for step in (5, 10, 100)
        }
        check_stream(traj, "optimizer/exp_avg", expected)


def test_numbers_that_fit_no_order_are_left_out_and_said(tmp_path, training, params):
    folder = save(
        tmp_path / "ckpts",
        training,
        lambda step, saved: {"model": saved.model, "optimizer": saved.optimizer},
    )
    with trajfile.open(folder) as traj:
        assert traj.streams == ("params",)
        check_stream(traj, "params", params)
        assert any("numbers" in reason for reason in traj.manifest.metadata["tensors_left_out"])


def test_a_whole_module_is_read_without_its_class(tmp_path, training, params):
    folder = tmp_path / "ckpts"
    folder.mkdir()
    for step, saved in training.items():
        model = network()
        model.load_state_dict(saved.model)
        torch.save(model, folder / f"model_{step}.pt")
    with trajfile.open(folder) as traj:
        check_stream(traj, "params", params)


def test_the_format_before_1_6(tmp_path, training, params):
    folder = tmp_path / "ckpts"
    folder.mkdir()
    for step, saved in training.items():
        torch.save(
            {"state_dict": saved.model},
            folder / f"model_{step}.pth.tar",
            _use_new_zipfile_serialization=False,
        )
    with trajfile.open(folder) as traj:
        check_stream(traj, "params", params)


def test_views_tied_tensors_and_every_dtype(tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    state = {
        "transposed": base.t(),
        "slice": base[1:3, 2:5],
        "expanded": torch.ones(1, 3).expand(5, 3),
        "permuted": torch.arange(60.0).reshape(3, 4, 5).permute(2, 0, 1),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 3),
        "half": torch.randn(3).half(),
        "bf16": torch.randn(7, 2).bfloat16(),
        "f8": torch.randn(5).to(torch.float8_e4m3fn),
        "f8b": torch.randn(5).to(torch.float8_e5m2),
        "double": torch.randn(2, 2).double(),
        "parameter": torch.nn.Parameter(torch.randn(2)),
    }
    (tmp_path / "ckpts").mkdir()
    tied = {"z.tied": state["parameter"], "truth": torch.tensor([True]), "long": torch.arange(3)}
    torch.save({**state, **tied}, tmp_path / "ckpts/model_7.pt")
    with trajfile.open(tmp_path / "ckpts") as traj:
        check_stream(traj, "params", {7: state})
        assert traj.manifest.metadata["tensors_left_out"] == {
            "not of a floating dtype": ["truth", "long"],
            "tied to another tensor": ["z.tied"],
        }
        # Any range of columns is the same part of the whole.
        for lane, width in traj.manifest.by_name["params"].lanes.items():
            whole = np.empty(
                (1, width),
                traj["params"][
                    next(t.name for t in traj.tensors("params").values() if t.dtype == lane)
                ].dtype,
            )
            traj.container.read("params", lane, slice(0, 1), slice(0, width), whole)
            for start in range(0, width, 3):
                for stop in range(start, width + 1, 5):
                    part = np.empty((1, stop - start), whole.dtype)
                    traj.container.read("params", lane, slice(0, 1), slice(start, stop), part)
                    assert part.tobytes() == whole[:, start:stop].tobytes()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_code_in_a_pickle_is_never_run(tmp_path):
    (tmp_path / "ckpts").mkdir()
    proof = tmp_path / "proof"
    torch.save(
        {"model": {"w": torch.ones(3)}, "hyper": Bomb(str(proof))}, tmp_path / "ckpts/m_1.pt"
    )
    with trajfile.open(tmp_path / "ckpts") as traj:
        assert traj["params"]["w"][0].tolist() == [1, 1, 1]
    found = trajfile.validate(tmp_path / "ckpts")
    assert not proof.exists()
    assert [f.message for f in found if f.id == "CKPT-104"] == [
        "a pickle mentions io.open; nothing of it was run"
    ]


def test_two_networks_side_by_side(tmp_path):
    (tmp_path / "ckpts").mkdir()
    torch.save(
        {"generator": {"w": torch.ones(3)}, "critic": {"w": torch.zeros(2)}, "it": 3},
        tmp_path / "ckpts/gan-12.pt",
    )
    with trajfile.open(tmp_path / "ckpts") as traj:
        assert list(traj["params"]) == ["generator.w", "critic.w"]


def test_names_that_collide_are_refused(tmp_path):
    torch.save({"a": {"b": torch.ones(1)}, "a.b": torch.ones(2)}, tmp_path / "m_1.pt")
    with pytest.raises(Damaged, match=r"both called 'a\.b'") as refused:
        trajfile.open(tmp_path)
    assert refused.value.rule == "CKPT-006"


@pytest.mark.parametrize("cut", [10, 100, 1000, -1])
def test_a_truncated_file_is_named(tmp_path, training, cut):
    folder = save(tmp_path / "ckpts", training, lambda step, saved: saved.model)
    data = (folder / "step_100.pt").read_bytes()
    (folder / "step_100.pt").write_bytes(data[:cut])
    with pytest.raises(Damaged, match=r"step_100\.pt is not whole") as refused:
        trajfile.open(folder)
    assert refused.value.rule == "CKPT-004"


def test_other_zip_archives_and_pickles_are_told_apart(tmp_path):
    with zipfile.ZipFile(tmp_path / "m_1.pt", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(NotATrajectory, match=r"not one of torch\.save"):
        trajfile.open(tmp_path)
    (tmp_path / "m_1.pt").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    with pytest.raises(NotATrajectory, match=r"not a file of torch\.save"):
        trajfile.open(tmp_path)
    with zipfile.ZipFile(tmp_path / "m_1.pt", "w") as archive:
        archive.writestr("m/data.pkl", "")
        archive.writestr("m/constants.pkl", "")
    with pytest.raises(NotATrajectory, match="TorchScript"):
        trajfile.open(tmp_path)
