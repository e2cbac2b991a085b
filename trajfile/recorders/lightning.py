"""Record a Lightning training: one more callback.

    trainer = lightning.Trainer(callbacks=[Recorder("run.h5", batch_size=64)])

Gradients are taken before Lightning clips them and after it has unscaled them, so they are raw, and
the file says whether clipped ones were applied. The loss is the one that `training_step` returns.
"""

from __future__ import annotations

import os
from typing import Any

import torch

from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.torch import Recorder as TorchRecorder

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities.model_helpers import is_overridden
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.lightning needs Lightning: pip install 'trajfile[lightning]'"
    ) from error


class Recorder(Callback):
    """Records what `trajfile.recorders.torch.Recorder` records, from the start of `fit` to its end.

    Attributes:
        recorder: The recorder at work; None before training starts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schedule: Schedule | Preset | str = "standard",
        *,
        optimizer: int = 0,
        **options: Any,
    ):
        """Prepare to record.

        Args:
            path: Where; see `trajfile.Writer`.
            schedule: What to record when, or a preset: ``minimal``, ``standard``, ``full``.
            optimizer: Which of several optimizers; one callback records one.
            **options: As for `trajfile.recorders.torch.Recorder`: ``batch_size``,
                ``dataset_size``, ``sample_loss``, ``groups``, ``mode``, ... ``steps`` and
                ``first_step`` are the trainer's own unless given.
        """
        super().__init__()
        self.recorder: TorchRecorder | None = None
        self._path = path
        self._schedule = schedule
        self._index = optimizer
        self._options = options
        self._clipped = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach to the optimizer.

        Args:
            trainer: The trainer.
            pl_module: The module.

        Raises:
            UsageError: If there is no such optimizer, or an option is wrong.
        """
        optimizers = trainer.optimizers
        if not 0 <= self._index < len(optimizers):
            raise UsageError(
                f"the module has {len(optimizers)} optimizers, and number {self._index} is to be "
                "recorded; count from 0"
            )
        self._clipped = bool(trainer.gradient_clip_val) or is_overridden(
            "configure_gradient_clipping", pl_module
        )
        limit = trainer.estimated_stepping_batches
        known: dict[str, Any] = {
            "steps": int(limit) if 0 < limit < float("inf") else None,
            "first_step": trainer.global_step // len(optimizers),
            "scaler": getattr(trainer.precision_plugin, "scaler", None),
            "gradient_stage": "raw",
        }
        self.recorder = TorchRecorder(
            pl_module, optimizers[self._index], self._path, self._schedule, **known | self._options
        )
        if self._clipped:
            self.recorder.state("gradient", applied="clipped")

    def on_before_backward(
        self, trainer: Trainer, pl_module: LightningModule, loss: torch.Tensor
    ) -> None:
        """Hear the loss, which Lightning has divided by the micro-batches and scaled by now."""
        if self.recorder is None or not self.recorder.recording:
            return
        value = loss.detach()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if scaler is not None and scaler.is_enabled():
            value = value / scaler.get_scale()
        if pl_module.automatic_optimization:
            value = value * trainer.accumulate_grad_batches
        self.recorder.observe(loss=value)

    def on_before_optimizer_step(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        optimizer: torch.optim.Optimizer,
    ) -> None:
        """Take the gradients if they are about to be clipped."""
        if self.recorder is not None and self._clipped and self.recorder.listens_to(optimizer):
            self.recorder.take_gradients()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the file."""
        self._close()

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        exception: BaseException,
    ) -> None:
        """Close the file; what was recorded stays."""
        self._close()

    def _close(self) -> None:
        if self.recorder is not None:
            self.recorder.close()
