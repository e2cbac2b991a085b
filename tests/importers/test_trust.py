"""Code that checkpoints name: never run unless the user says so, and then said out loud."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
import warnings
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp

import trajfile
from tests.cli.conftest import run as run
from tests.importers.held import bits, check_stream
from trajfile.audit import Settings, load_rulebook
from trajfile.audit.examine import examine
from trajfile.audit.outcome import settings_key
from trajfile.errors import Damaged, NotATrajectory, UsageError

LOUD = "--trust: running the code that {} names; only do this with files you made yourself\n"


class Bomb:
    """Leaves a proof that it was run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def rebuilt(data, scale):
    print("rebuilding")
    return Scaled(data.as_subclass(torch.Tensor), scale)


class Scaled(torch.Tensor):
    """A tensor of integers times a scale, which pickles as a call of the user's own code."""

    @staticmethod
    def __new__(cls, data, scale):
        held = (data.float() * scale).as_subclass(cls)
        held.data_and_scale = data, scale
        return held

    def __reduce_ex__(self, protocol):
        return rebuilt, self.data_and_scale


class State:
    """A training's state, pickled as an object of a class of the user's."""

    def __init__(self, model, step):
        self.model, self.global_step, self.name = model, step, "mine"


def integers(step):
    generator = torch.Generator().manual_seed(step)
    return torch.randint(-128, 128, (5, 4), dtype=torch.int8, generator=generator)


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of which one tensor needs code."""
    made = tmp_path / "ckpts"
    made.mkdir()
    for step in (1, 2, 10):
        model = {"q.weight": Scaled(integers(step), 0.5 * step), "b": torch.full((3,), float(step))}
        torch.save({"model": model}, made / f"step_{step}.pt")
    return made


def expected(step):
    return {"q.weight": integers(step).float() * (0.5 * step), "b": torch.full((3,), float(step))}


def test_without_trust_the_code_is_not_run_and_what_is_left_out_names_the_option(
    tmp_path, folder, run, capsys
):
    with trajfile.open(folder) as traj:
        assert list(traj["params"]) == ["b"]
        assert traj.manifest.metadata["tensors_left_out"] == {
            "built by code that is run only with --trust": ["q.weight"]
        }
    assert "rebuilding" not in "".join(capsys.readouterr())
    assert "--trust" in run("info", folder).out
    only = tmp_path / "only_3.pt"
    torch.save({"q.weight": Scaled(integers(3), 0.5)}, only)
    with pytest.raises(NotATrajectory, match="if you made it yourself, pass --trust") as refused:
        trajfile.open(only)
    assert refused.value.rule == "CKPT-011"


def test_with_trust_the_tensors_are_there_and_each_file_is_named(folder, capsys):
    with trajfile.open(folder, trust=True) as traj:
        said = capsys.readouterr()
        check_stream(traj, "params", {step: expected(step) for step in (1, 2, 10)})
        scratch = Path(traj.container._files.scratch._folder.name)
        assert scratch.is_dir()
    assert not scratch.exists()
    for step in (1, 2, 10):
        assert LOUD.format(folder / f"step_{step}.pt") in said.err
    assert said.err.count("rebuilding") == 3  # once a file; and not on stdout
    assert said.out == ""


def test_trust_runs_nothing_of_files_that_are_read_whole_without(tmp_path, capsys):
    proof = tmp_path / "proof"
    torch.save({"model": {"w": torch.ones(3)}, "hyper": Bomb(proof)}, tmp_path / "m_1.pt")
    with trajfile.open(tmp_path / "m_1.pt", trust=True) as traj:
        assert traj["params"]["w"][0].tolist() == [1, 1, 1]
    assert not proof.exists()
    assert capsys.readouterr().err == ""


def test_a_malicious_pickle_is_run_only_with_trust(tmp_path, run):
    proof, file = tmp_path / "proof", tmp_path / "m_1.pt"
    torch.save({"w": Bomb(proof)}, file)
    for command in (["info"], ["validate"], ["analyze"], ["convert", "-o", tmp_path / "x.h5"]):
        shown = run(command[0], file, *command[1:])
        assert shown.code in {1, 3}
        assert "--trust" in shown.out + shown.err
        assert not proof.exists()
    shown = run("info", file, "--trust")
    assert proof.exists()  # it was meant: this is what the option is
    assert shown.code == 3
    assert shown.err.startswith(LOUD.format(file))


def test_every_command_takes_it(folder, tmp_path, run):
    shown = run("info", folder, "--trust")
    assert shown.code == 0
    assert "q.weight" in shown.out
    loud = LOUD.format(folder / "step_10.pt")
    assert loud in shown.err
    shown = run("validate", folder, "--trust", "--deep")
    assert shown.code == 0
    assert "code was run that these name, as --trust says: step_1.pt" in shown.out
    assert "q.weight" not in shown.out
    shown = run("analyze", folder, "--trust", "--metrics", "norms", "--json", "-")
    assert shown.code == 0
    assert json.loads(shown.out)["source"]["parameters"] == 23
    assert loud in shown.err
    copy = tmp_path / "run.h5"
    assert run("convert", folder, "-o", copy, "--trust").code == 0
    with trajfile.open(copy) as traj:
        check_stream(traj, "params", {step: expected(step) for step in (1, 2, 10)})
    out = tmp_path / "q.npz"
    assert run("export", folder, "--tensor", "q.weight", "-o", out, "--trust").code == 0
    with np.load(out) as held:
        assert (held["q.weight"][2] == expected(10)["q.weight"].numpy()).all()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of which no checkpoint can be read as data."""
    runs = tmp_path_factory.mktemp("runs")
    for step in (1, 2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            saved = {"ema": State({"w": torch.full((3,), float(step))}, step)}
            dcp.save(saved, checkpoint_id=runs / f"sharded/step_{step}")
        (runs / "whole").mkdir(exist_ok=True)
        torch.save({"q": Scaled(integers(step), 0.5)}, runs / f"whole/step_{step}.pt")
    return runs


def test_an_audit_runs_code_only_with_trust(runs, capfd):
    settings = Settings(load_rulebook(None))
    trusting = msgspec.structs.replace(settings, trust=True)
    assert settings_key(settings) != settings_key(trusting)  # so --resume examines anew
    for path in map(str, runs.iterdir()):
        outcome = examine(path, settings)
        assert outcome.status == "unreadable"
        assert "pass --trust" in outcome.violations[0].message
        said = "".join(capfd.readouterr())
        assert "rebuilding" not in said
        assert "running" not in said
        assert examine(path, trusting).status == "ok"
        assert "running the code" in capfd.readouterr().err


@pytest.mark.slow
def test_processes_of_an_audit_say_what_they_run(runs, tmp_path, monkeypatch, run, capfd):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    shown = run("audit", runs, "--trust", "--format", "json")
    assert shown.err.startswith("--trust: workers run the code that checkpoints name; only do this")
    examined = {Path(each["path"]).name: each for each in json.loads(shown.out)["inputs"]}
    assert {name: each["status"] for name, each in examined.items()} == {
        "sharded": "ok",
        "whole": "ok",
    }
    said = capfd.readouterr().err  # of the process that examines
    for file in ("sharded/step_1/__0_0.distcp", "whole/step_2.pt"):
        assert LOUD.format(runs / file) in said


@pytest.mark.parametrize("command", ["info", "validate", "analyze"])
def test_it_does_not_go_with_untrusted(folder, run, command):
    shown = run(command, folder, "--trust", "--untrusted")
    assert shown.code == 2
    assert "give one of them" in shown.err
    assert "running" not in shown.err
    with pytest.raises(UsageError):
        trajfile.open(folder, trust=True, untrusted=True)


@pytest.mark.filterwarnings("ignore:.*deprecated")  # PyTorch of what its users' files still hold
def test_layouts_that_are_not_read_as_data(tmp_path, training, params):
    """The legacy format with code in it, a program of TorchScript, an object, NumPy arrays."""
    model = training[5].model
    made = {
        "legacy_5.pth": lambda path: torch.save(
            State({"w": torch.ones(3).bfloat16()}, 5), path, _use_new_zipfile_serialization=False
        ),
        "script_5.pt": lambda path: traced().save(path),
        "object_5.pt": lambda path: torch.save(State(model, 5), path),
        "arrays_5.pt": lambda path: torch.save({"w": np.arange(6.0).reshape(2, 3)}, path),
        "quantized_5.pt": lambda path: torch.save(
            {"w": torch.quantize_per_tensor(torch.ones(4), 0.5, 0, torch.qint8)}, path
        ),
        "sparse_5.pt": lambda path: torch.save({"w": torch.eye(3).to_sparse()}, path),
    }
    read = {}
    for name, save in made.items():
        save(tmp_path / name)
        with pytest.raises(NotATrajectory, match="--trust"):
            trajfile.open(tmp_path / name)
        with trajfile.open(tmp_path / name, trust=True) as traj:
            assert traj.steps("params").tolist() == [5]
            read[name] = {tensor: traj["params"][tensor][0] for tensor in traj["params"]}
    assert (bits(read["legacy_5.pth"]["w"]) == bits(torch.ones(3).bfloat16())).all()
    assert read["script_5.pt"].keys() == {"weight", "bias"}
    assert (read["script_5.pt"]["weight"] == traced().weight.detach().numpy()).all()
    assert read["object_5.pt"].keys() == params[5].keys()
    for name, value in params[5].items():
        assert (bits(read["object_5.pt"][name]) == bits(value)).all()
    assert read["arrays_5.pt"]["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert read["quantized_5.pt"]["w"].tolist() == [1, 1, 1, 1]
    assert read["sparse_5.pt"]["w"].tolist() == torch.eye(3).tolist()


def identity(value):
    return value


class Wrapped:
    """A table that only the user's code can unwrap."""

    def __init__(self, table):
        self.table = table

    def __reduce__(self):
        return identity, (self.table,)


quantized = pytest.mark.filterwarnings("ignore:.*deprecated")  # so PyTorch says


@pytest.fixture(scope="module")
def distributed(tmp_path_factory):
    """Distributed checkpoints that hold, beside tensors, an object of a class of the user's."""
    folder = tmp_path_factory.mktemp("distributed")
    for step in (1, 2):
        eighths = torch.quantize_per_tensor(torch.eye(3) * step, 0.125, 0, torch.qint8)
        model = {"b": torch.full((3,), float(step)), "s": eighths}
        ema = State({"w": torch.full((2, 2), 2.0 * step)}, step)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its own, that there is one process
            dcp.save({"model": model, "ema": ema}, checkpoint_id=folder / f"step_{step}")
    return folder


@quantized
def test_pieces_of_distributed_checkpoints_are_run_only_with_trust(distributed, capsys, run):
    with trajfile.open(distributed) as traj:
        plain = {step: {"b": torch.full((3,), float(step))} for step in (1, 2)}
        check_stream(traj, "params", plain)
        assert traj.manifest.metadata["tensors_left_out"] == {
            "built by code that is run only with --trust": ["s"]
        }
    assert "running" not in capsys.readouterr().err
    with trajfile.open(distributed, trust=True) as traj:
        expected = {
            step: {"b": torch.full((3,), float(step)), "s": torch.eye(3) * step} for step in (1, 2)
        }
        check_stream(traj, "params", expected)
    said = capsys.readouterr()
    for step in (1, 2):
        assert said.err.count(LOUD.format(distributed / f"step_{step}/__0_0.distcp")) == 1
    assert said.out == ""
    shown = run("validate", distributed, "--trust")
    assert shown.code == 0
    assert "code was run that these name, as --trust says: step_1, step_2" in shown.out


def test_an_object_in_a_distributed_checkpoint(tmp_path, run):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        saved = {"ema": State({"w": torch.ones(2, 2)}, 5), "step": 3}
        dcp.save(saved, checkpoint_id=tmp_path / "run/step_5")
    shown = run("info", tmp_path / "run")
    assert shown.code == 3
    assert "pass --trust" in " ".join(shown.err.split())
    with trajfile.open(tmp_path / "run", trust=True) as traj:
        check_stream(traj, "params", {5: {"ema.model.w": torch.ones(2, 2)}})


@quantized
def test_the_table_of_a_distributed_checkpoint_is_run_only_with_trust(
    distributed, tmp_path, capsys
):
    folder, proof = tmp_path / "run", tmp_path / "proof"
    shutil.copytree(distributed, folder)
    for step in (1, 2):
        table = folder / f"step_{step}/.metadata"
        table.write_bytes(pickle.dumps(Wrapped(pickle.loads(table.read_bytes()))))
    with pytest.raises(Damaged, match=r"no table of tensors .* pass --trust"):
        trajfile.open(folder)
    with trajfile.open(folder, trust=True) as traj:
        assert sorted(traj["params"]) == ["b", "s"]
        assert traj.steps("params").tolist() == [1, 2]
    assert LOUD.format(folder / "step_2/.metadata") in capsys.readouterr().err
    table.write_bytes(pickle.dumps(Bomb(proof)))
    with pytest.raises(Damaged):
        trajfile.open(folder)
    assert not proof.exists()
    with pytest.raises(Damaged, match="no table of tensors") as refused:
        trajfile.open(folder, trust=True)
    assert proof.exists()  # it was meant
    assert "--trust" not in str(refused.value)


def traced():
    torch.manual_seed(3)
    return torch.jit.trace(torch.nn.Linear(3, 2), torch.ones(1, 3))


def test_shards_and_an_optimizer_beside_them(tmp_path, capsys):
    folder = tmp_path / "checkpoint-7"
    folder.mkdir()
    torch.save({"q": Scaled(integers(7), 0.5)}, folder / "a.bin")
    torch.save({"b": torch.ones(3)}, folder / "b.bin")
    index = {"metadata": {}, "weight_map": {"q": "a.bin", "b": "b.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    held = {0: {"exp_avg": torch.full((5, 4), 2.0)}, 1: {"exp_avg": torch.full((3,), 3.0)}}
    optimizer = {"state": held, "param_groups": [{"lr": 0.1, "params": [0, 1]}]}
    torch.save(optimizer, folder / "optimizer.pt")
    with trajfile.open(folder) as traj:
        assert list(traj["params"]) == ["b"]
        assert "with --trust" in str(traj.manifest.metadata["tensors_left_out"])
    with trajfile.open(folder, trust=True) as traj:
        check_stream(traj, "params", {7: {"q": integers(7).float() * 0.5, "b": torch.ones(3)}})
        expected = {"q": held[0]["exp_avg"], "b": held[1]["exp_avg"]}
        check_stream(traj, "optimizer/exp_avg", {7: expected})
    said = capsys.readouterr().err
    assert LOUD.format(folder / "a.bin") in said
    assert said.count("running the code") == 1  # the others are read whole without


def test_tied_tensors_and_views_stay_what_they_are(tmp_path):
    base = torch.arange(12.0).reshape(3, 4)
    saved = {"a": base, "tied": base, "t": base.t(), "q": Scaled(integers(1), 1.0), "n": None}
    torch.save(saved, tmp_path / "m_1.pt")
    with trajfile.open(tmp_path / "m_1.pt", trust=True) as traj:
        check_stream(traj, "params", {1: {"a": base, "t": base.t(), "q": integers(1).float()}})
        assert traj.manifest.metadata["tensors_left_out"] == {"tied to another tensor": ["tied"]}


def test_code_that_is_not_there_is_one_sentence(tmp_path, run):
    module = tmp_path / "vanishing.py"
    module.write_text("class Gone:\n    pass\n")
    sys.path.insert(0, str(tmp_path))
    try:
        import vanishing

        torch.save({"w": vanishing.Gone()}, tmp_path / "m_1.pt")
    finally:
        sys.path.remove(str(tmp_path))
        del sys.modules["vanishing"]
    module.unlink()
    shown = run("info", tmp_path / "m_1.pt", "--trust")
    assert shown.code == 3
    text = " ".join(shown.err.split())
    assert "cannot be loaded with --trust either: ModuleNotFoundError" in text
    assert "vanishing" in text
    assert "Traceback" not in text


def test_modules_in_the_folder_of_the_command_are_found(tmp_path, monkeypatch):
    (tmp_path / "beside.py").write_text(
        "import torch\ndef make(n):\n    return torch.full((n,), 7.0)\n"
        "class Maker:\n    def __reduce__(self):\n        return make, (3,)\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    import beside

    torch.save({"w": beside.Maker()}, "m_1.pt")
    monkeypatch.undo()
    monkeypatch.delitem(sys.modules, "beside")
    monkeypatch.chdir(tmp_path)
    with trajfile.open("m_1.pt", trust=True) as traj:
        assert traj["params"]["w"][0].tolist() == [7, 7, 7]
    assert str(tmp_path) not in sys.path


def test_what_was_built_tells_runs_apart(folder):
    with trajfile.open(folder) as plain, trajfile.open(folder, trust=True) as built:
        assert plain.uuid != built.uuid
        with trajfile.open(folder, trust=True) as again:
            assert again.uuid == built.uuid


def test_pickles_of_other_programs_stay_refused(tmp_path):
    (tmp_path / "m_1.pt").write_bytes(pickle.dumps({"a": [1, 2]}))
    with pytest.raises(NotATrajectory, match="--trust"):
        trajfile.open(tmp_path)
    with pytest.raises(Damaged, match="cannot be loaded with --trust either"):
        trajfile.open(tmp_path, trust=True)
