"""Record a training by the Trainer of Transformers: one more callback.

    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[Recorder("run.h5")])

The Trainer clips gradients before any callback sees them, at a norm of 1 unless
``max_grad_norm=0``; the file says so. The loss is the one that the model itself returns. With a
loop of one's own around Accelerate, `trajfile.recorders.torch.Recorder` takes what `prepare`
returned.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch

from trajfile.errors import UsageError
from trajfile.recorders.presets import Preset
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.torch import Recorder as TorchRecorder
from trajfile.recorders.torch_names import inner_model

try:
    from transformers import (
        TrainerCallback,
        TrainerControl,
        TrainerState,
        TrainingArguments,
    )
except ImportError as error:
    raise UsageError(
        "trajfile.recorders.transformers needs Transformers: pip install 'trajfile[transformers]'"
    ) from error


class Recorder(TrainerCallback):
    """Records what `trajfile.recorders.torch.Recorder` records, from the start of `train` on.

    Attributes:
        recorder: The recorder at work; None before training starts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schedule: Schedule | Preset | str = "standard",
        **options: Any,
    ):
        """Prepare to record.

        Args:
            path: Where; see `trajfile.Writer`.
            schedule: What to record when, or a preset: ``minimal``, ``standard``, ``full``.
            **options: As for `trajfile.recorders.torch.Recorder`. ``steps``, ``first_step``,
                ``batch_size`` and ``gradient_stage`` are the Trainer's own unless given.
        """
        self.recorder: TorchRecorder | None = None
        self._path = path
        self._schedule = schedule
        self._options = options
        self._handle: Any = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Attach to the optimizer.

        Args:
            args: The Trainer's arguments.
            state: How far it has got.
            control: Left alone.
            **kwargs: With the model and the optimizer among it.
        """
        model, optimizer = kwargs["model"], kwargs["optimizer"]
        batch = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        known = {
            "steps": state.max_steps if state.max_steps > 0 else None,
            "first_step": state.global_step,
            "batch_size": batch,
            "gradient_stage": "clipped" if (args.max_grad_norm or 0) > 0 else "raw",
        }
        self.recorder = TorchRecorder(
            model, optimizer, self._path, self._schedule, **known | self._options
        )
        self._handle = inner_model(model).register_forward_hook(self._forward, with_kwargs=True)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,
    ) -> None:
        """Close the file."""
        if self._handle is not None:
            self._handle.remove()
        if self.recorder is not None:
            self.recorder.close()

    def _forward(self, model: Any, _: Any, given: Mapping[str, Any], output: Any) -> None:
        """Hear the loss of a micro-batch.

        Where the Trainer passes the number of items in the whole batch, the losses of its
        micro-batches add up to the batch's; else their mean is.
        """
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if self.recorder is None or not model.training or not isinstance(loss, torch.Tensor):
            return
        self.recorder.observe(loss=loss, add=given.get("num_items_in_batch") is not None)
