"""Checkpoints of torch.distributed.checkpoint, from one process and from two."""

from __future__ import annotations

import pickle
import shutil
import socket

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.multiprocessing as mp
from torch.distributed.checkpoint.state_dict import get_state_dict

import trajfile
from tests.importers.conftest import network
from tests.importers.held import check_stream
from trajfile.errors import Damaged, Unsafe

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A model and its optimizer after 0, 2 and 10 updates, as scripts save them."""
    folder = tmp_path_factory.mktemp("dcp")
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    params, slots = {}, {}
    for step in range(11):
        if step in {2, 10}:
            held, kept = get_state_dict(model, optimizer)
            dcp.save({"model": held, "optim": kept}, checkpoint_id=folder / f"step-{step}")
            dcp.save(
                {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "step": step},
                checkpoint_id=folder / f"plain/{step}",
            )
            params[step] = {n: p.detach().clone() for n, p in model.named_parameters()}
            slots[step] = {
                n: optimizer.state[p]["exp_avg_sq"].clone() for n, p in model.named_parameters()
            }
        loss = model(torch.randn(8, 6)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return folder, params, slots


@pytest.mark.parametrize("kind", ["", "plain"])
def test_model_and_optimizer(saved, kind):
    folder, params, slots = saved
    with trajfile.open(folder / kind) as traj:
        assert traj.container.kind == "torch_distributed checkpoints"
        check_stream(traj, "params", params)
        check_stream(traj, "optimizer/exp_avg_sq", slots)
        assert set(traj.scalars["learning_rate"][1]) == {1e-2}


def shard(rank, folder, port):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor

    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    whole = whole_tensors()
    placed = {
        name: distribute_tensor(value, mesh, [Shard(axis)])
        for (name, value), axis in zip(whole.items(), (0, 1, 0), strict=True)
    }
    dcp.save({"model": placed}, checkpoint_id=folder)
    torch.distributed.destroy_process_group()


def whole_tensors():
    torch.manual_seed(3)
    return {
        "rows": torch.randn(7, 3),
        "columns": torch.randn(4, 5, 2),
        "bias": torch.randn(5).bfloat16(),
    }


def check_whole(folder):
    with trajfile.open(folder) as traj:
        check_stream(traj, "params", {5: whole_tensors()})
        width = traj.manifest.by_name["params"].lanes["float32"]
        whole = np.empty((1, width), "f4")
        traj.container.read("params", "float32", slice(0, 1), slice(0, width), whole)
        for start in range(0, width, 4):
            for stop in range(start, width + 1, 7):
                part = np.empty((1, stop - start), "f4")
                traj.container.read("params", "float32", slice(0, 1), slice(start, stop), part)
                np.testing.assert_array_equal(part, whole[:, start:stop])


def test_pieces_are_put_together(tmp_path):
    """Two halves saved one after the other, their tables joined into one."""
    whole, cuts = whole_tensors(), {"rows": (0, 4), "columns": (1, 3), "bias": (0, 2)}
    joined = None
    for half in (0, 1):
        part = {
            name: torch.tensor_split(value, [cuts[name][1]], cuts[name][0])[half].contiguous()
            for name, value in whole.items()
        }
        dcp.save(part, checkpoint_id=tmp_path / f"half{half}")
        table = pickle.loads((tmp_path / f"half{half}/.metadata").read_bytes())
        (tmp_path / "run/step_5").mkdir(parents=True, exist_ok=True)
        (tmp_path / f"half{half}/__0_0.distcp").rename(tmp_path / f"run/step_5/__{half}_0.distcp")
        for name, (axis, cut) in cuts.items():
            kind = table.state_dict_metadata[name]
            corner = torch.Size([half * cut if n == axis else 0 for n in range(whole[name].ndim)])
            kind.size, kind.chunks[0].offsets = whole[name].shape, corner
            (index,) = [i for i in table.storage_data if i.fqn == name]
            info = table.storage_data.pop(index)
            info.relative_path = f"__{half}_0.distcp"
            table.storage_data[type(index)(name, corner)] = info
        if joined is not None:
            for name, kind in joined.state_dict_metadata.items():
                kind.chunks += table.state_dict_metadata[name].chunks
            joined.storage_data |= table.storage_data
        joined = joined or table
    (tmp_path / "run/step_5/.metadata").write_bytes(pickle.dumps(joined))
    check_whole(tmp_path / "run")


@pytest.mark.slow
def test_pieces_of_two_processes_are_put_together(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(shard, (str(tmp_path / "step_5"), port), nprocs=2)
    assert len(list((tmp_path / "step_5").glob("*.distcp"))) == 2
    check_whole(tmp_path)


@pytest.fixture
def copy(saved, tmp_path):
    shutil.copytree(saved[0] / "step-2", tmp_path / "ckpts/step-2")
    return tmp_path / "ckpts"


def rewrite(folder, change):
    table = folder / "step-2/.metadata"
    metadata = pickle.loads(table.read_bytes())
    change(metadata)
    table.write_bytes(pickle.dumps(metadata))


def test_paths_that_lead_elsewhere_are_refused(copy):
    for name in ("../../secret", "/etc/passwd"):

        def change(metadata, name=name):
            for info in metadata.storage_data.values():
                object.__setattr__(info, "relative_path", name)

        rewrite(copy, change)
        with pytest.raises(Unsafe) as refused:
            trajfile.open(copy)
        assert refused.value.rule == "CKPT-007"


def test_missing_and_short_files_are_named(copy):
    (piece,) = (copy / "step-2").glob("*.distcp")
    data = piece.read_bytes()
    piece.write_bytes(data[: len(data) // 2])
    with pytest.raises(Damaged, match="not whole") as refused:
        trajfile.open(copy)
    assert refused.value.rule == "CKPT-004"
    piece.unlink()
    with pytest.raises(Damaged, match=f"the file {piece.name} is missing"):
        trajfile.open(copy)


def test_a_table_that_lies_is_found_out(copy):
    def change(metadata):
        for kind in metadata.state_dict_metadata.values():
            if hasattr(kind, "size") and len(kind.size) == 2:
                kind.size = torch.Size([10**6, 10**6])

    rewrite(copy, change)
    with pytest.raises(Damaged, match="do not make it whole"):
        trajfile.open(copy)


class Bomb:
    def __reduce__(self):
        return print, ("BOOM",)


def test_a_table_is_never_run(copy, capfd):
    rewrite(copy, lambda metadata: setattr(metadata, "storage_meta", Bomb()))
    trajfile.open(copy).close()
    (copy / "step-2/.metadata").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(Damaged, match="no table of tensors"):
        trajfile.open(copy)
    assert "BOOM" not in capfd.readouterr().out
