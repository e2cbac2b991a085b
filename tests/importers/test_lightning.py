"""Lightning's .ckpt files, as its own callback leaves them."""

from __future__ import annotations

import pytest
import torch

import trajfile
from tests.frameworks import framework
from tests.importers.held import check_stream

pytestmark = pytest.mark.filterwarnings("ignore")


def module(lightning):
    """A model that remembers what it held whenever it was saved."""

    class Model(lightning.LightningModule):
        def __init__(self, width=4):
            super().__init__()
            self.save_hyperparameters()
            self.net = torch.nn.Sequential(torch.nn.Linear(6, width), torch.nn.Linear(width, 1))
            self.params, self.slots = {}, {}

        def training_step(self, batch):
            return self.net(batch).square().mean()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

        def on_save_checkpoint(self, checkpoint):
            step, optimizer = self.global_step, self.optimizers().optimizer
            self.params[step] = {n: p.detach().clone() for n, p in self.named_parameters()}
            self.slots[step] = {
                n: optimizer.state[p]["momentum_buffer"].clone() for n, p in self.named_parameters()
            }

    return Model()


def test_checkpoints_of_a_training(tmp_path):
    lightning = framework("lightning")
    torch.manual_seed(0)
    model = module(lightning)
    saver = lightning.pytorch.callbacks.ModelCheckpoint(
        tmp_path / "ckpts", every_n_train_steps=3, save_top_k=-1, save_last=True
    )
    trainer = lightning.Trainer(
        max_steps=9, callbacks=[saver], accelerator="cpu", logger=False, enable_model_summary=False,
        enable_progress_bar=False, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(model, torch.utils.data.DataLoader(torch.randn(40, 6), batch_size=4))
    assert sorted(p.name for p in (tmp_path / "ckpts").iterdir())[-1] == "last.ckpt"
    with trajfile.open(tmp_path / "ckpts") as traj:
        assert traj.container.kind == "lightning checkpoints"
        assert traj.steps("params").tolist() == [3, 6, 9]
        check_stream(traj, "params", model.params)
        check_stream(traj, "optimizer/momentum_buffer", model.slots)
        assert traj.manifest.optimizer["name"] == "SGD"
        assert traj.manifest.optimizer["momentum"] == 0.9
        assert traj.scalars["learning_rate"][1].tolist() == [0.05] * 3
