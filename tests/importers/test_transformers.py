"""What Transformers' trainer leaves behind, held against what it did."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch

import trajfile
from tests.frameworks import framework
from tests.importers.held import check_stream
from trajfile.errors import Damaged, Unsafe

pytestmark = pytest.mark.filterwarnings("ignore")


def watcher(transformers):
    """A callback that keeps what the trainer has in its hands at each step."""

    def copied(model):
        return {name: value.detach().clone() for name, value in model.named_parameters()}

    class Watch(transformers.TrainerCallback):
        def __init__(self):
            self.params, self.rates, self.slots = {}, {}, {}

        def on_step_begin(self, args, state, control, *, model, optimizer, **_):
            self.params[state.global_step] = copied(model)
            self.rates[state.global_step] = optimizer.param_groups[0]["lr"]

        def on_train_end(self, args, state, control, *, model, **_):
            self.params[state.global_step] = copied(model)

        def on_save(self, args, state, control, *, model, optimizer, **_):
            names = {p: n for n, p in model.named_parameters()}
            kept = getattr(optimizer, "optimizer", optimizer).state
            self.slots[state.global_step] = {
                names[p]: held["exp_avg"].clone() for p, held in kept.items()
            }

    return Watch()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tiny language model after 6 updates, a checkpoint at every second."""
    transformers = framework("transformers")
    framework("accelerate")
    folder = tmp_path_factory.mktemp("transformers") / "out"
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(
            vocab_size=13, n_positions=8, n_embd=8, n_layer=2, n_head=2, attn_pdrop=0,
            resid_pdrop=0, embd_pdrop=0, bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in torch.randint(13, (24, 8))]
    watch = watcher(transformers)
    trainer = transformers.Trainer(
        model=model,
        args=transformers.TrainingArguments(
            str(folder), max_steps=6, save_steps=2, logging_steps=1, eval_strategy="steps",
            eval_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True,
            disable_tqdm=True, weight_decay=0.1, learning_rate=1e-2,
        ),
        train_dataset=data,
        eval_dataset=data[:4],
        callbacks=[watch],
    )  # fmt: skip
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    trainer.save_model()
    return folder, watch


def test_the_layout_is_read_as_it_is(trained):
    folder, watch = trained
    assert (folder / "checkpoint-2/optimizer.pt").is_file()
    with trajfile.open(folder) as traj:
        assert traj.container.kind == "transformers checkpoints"
        check_stream(traj, "params", {step: watch.params[step] for step in (2, 4, 6)})
        assert "model.safetensors" in str(traj.manifest.metadata["files_left_out"])


def test_the_optimizer_is_named(trained):
    folder, watch = trained
    with trajfile.open(folder) as traj:
        check_stream(traj, "optimizer/exp_avg", watch.slots)
        assert traj.manifest.optimizer["name"] == "AdamW"


def test_logged_scalars_go_to_the_steps_they_are_of(trained):
    folder, watch = trained
    state = json.loads((folder / "checkpoint-6/trainer_state.json").read_text())
    with trajfile.open(folder) as traj:
        steps, rates = traj.scalars["learning_rate"]
        assert dict(zip(steps.tolist(), rates, strict=True)) == watch.rates | {6: 0.0}
        steps, losses = traj.scalars["loss"]
        assert steps.tolist() == [0, 1, 2, 3, 4, 5]
        assert losses[0] == state["log_history"][0]["loss"]
        assert traj.scalars["grad_norm"][0].tolist() == [0, 1, 2, 3, 4, 5]
        assert traj.scalars["eval_loss"][0].tolist() == [2, 4, 6]


def test_one_checkpoint_opens_by_itself(trained):
    folder, watch = trained
    with trajfile.open(folder / "checkpoint-4") as traj:
        check_stream(traj, "params", {4: watch.params[4]})


def test_sharded_and_hostile_indexes(trained, tmp_path):
    folder, watch = trained
    model = framework("transformers").GPT2LMHeadModel.from_pretrained(folder / "checkpoint-6")
    made = tmp_path / "out/checkpoint-6"
    model.save_pretrained(made, max_shard_size="3KB")
    index = made / "model.safetensors.index.json"
    stated = json.loads(index.read_text())
    assert len(set(stated["weight_map"].values())) > 1
    with trajfile.open(tmp_path / "out") as traj:
        check_stream(traj, "params", {6: watch.params[6]})
    shard = next(iter(stated["weight_map"].values()))
    outside = tmp_path / "elsewhere.safetensors"
    shutil.copyfile(made / shard, outside)
    for name in ("../../elsewhere.safetensors", str(outside), "sub/../" + shard, ""):
        changed = {k: name if v == shard else v for k, v in stated["weight_map"].items()}
        index.write_text(json.dumps({"weight_map": changed}))
        with pytest.raises(Unsafe) as refused:
            trajfile.open(tmp_path / "out")
        assert refused.value.rule == "CKPT-007"
    index.write_text(json.dumps(stated))
    (made / shard).unlink()
    with pytest.raises(Damaged, match=f"the shard {shard} is missing"):
        trajfile.open(tmp_path / "out")
    (made / shard).symlink_to(outside)
    with pytest.raises(Unsafe, match="link out of the folder"):
        trajfile.open(tmp_path / "out")
    (made / shard).unlink()
    index.write_text("{")
    with pytest.raises(Damaged, match="not an index of shards"):
        trajfile.open(tmp_path / "out")


def test_shards_of_torch_save(trained, tmp_path):
    _, watch = trained
    made = tmp_path / "out/checkpoint-6"
    made.mkdir(parents=True)
    names = list(watch.params[6])
    placed = {name: f"pytorch_model-{1 + i % 2:05}-of-00002.bin" for i, name in enumerate(names)}
    for shard in set(placed.values()):
        torch.save({n: watch.params[6][n] for n in names if placed[n] == shard}, made / shard)
    (made / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": placed}))
    with trajfile.open(tmp_path / "out") as traj:
        check_stream(traj, "params", {6: watch.params[6]})


def test_a_half_written_state_and_temporary_folders(trained, tmp_path):
    folder, _ = trained
    made = tmp_path / "out"
    shutil.copytree(folder, made)
    (made / "checkpoint-6").rename(made / "tmp-checkpoint-6")
    with trajfile.open(made) as traj:
        assert traj.steps("params").tolist() == [2, 4]
        assert traj.manifest.metadata["files_left_out"]["unfinished"] == ["tmp-checkpoint-6"]
    (made / "checkpoint-4/trainer_state.json").write_text('{"global_step": 4,')
    with pytest.raises(Damaged, match=r"checkpoint-4/trainer_state\.json is not whole"):
        trajfile.open(made)


def test_an_absurd_configuration_builds_nothing(trained, tmp_path):
    folder, _ = trained
    made = tmp_path / "out"
    shutil.copytree(folder, made)
    for config in made.glob("checkpoint-*/config.json"):
        stated = json.loads(config.read_text())
        config.write_text(json.dumps({**stated, "n_layer": 10**9}))
    with trajfile.open(made) as traj:
        assert traj.streams == ("params",)
        assert np.isfinite(traj["params"]["transformer.wte.weight"][:]).all()
