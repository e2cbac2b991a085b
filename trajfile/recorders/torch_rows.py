"""What the rows of a PyTorch training are made of: its tensors at this moment, stream by stream."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import torch
from torch import nn

from trajfile.recorders.schedule import OPTIMIZER, Schedule
from trajfile.recorders.session import RecordingWarning
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import Names, Outline, check_same, names_of, outline_of
from trajfile.recorders.torch_samples import SampleLoss, draw_samples
from trajfile.recorders.torch_scaling import Scaling
from trajfile.recorders.torch_state import slots_like, slots_of
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")


class Rows:
    """Takes tensors from a model and its optimizer, those that a schedule chooses.

    Where they are sharded, all processes must ask alike; where nothing is written, all is empty.
    What is returned may be the training's own memory.

    Args:
        model: The model.
        optimizer: The optimizer that moves it.
        schedule: Chooses tensors.
        gather: Brings shards together.
        scaling: Knows the scale that is to be taken out of the gradients.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Schedule,
        gather: Gather,
        scaling: Scaling,
    ):
        self._model, self._optimizer, self._schedule = model, optimizer, schedule
        self._gather, self._scaling = gather, scaling
        self._recorded: dict[str, Outline] = {}
        self._had_gradient: set[str] = set()
        self._slots: set[str] | None = None
        self._late: set[str] = set()

    def names(self) -> Names:
        """The model's parameters, checked to be those that were recorded before."""
        names = names_of(self._model)
        check_same(self._recorded, names.tensors)
        return names

    def params(self, names: Names) -> Tensors:
        """The parameters."""
        chosen = self._chosen(PARAMS, names.tensors)
        self._recorded |= {name: outline_of(parameter) for name, parameter in chosen.items()}
        return self._whole(PARAMS, names.tensors)

    def gradients(self, names: Names) -> Tensors:
        """The gradients, without the scale that a fused optimizer is about to take out."""
        inverse = self._scaling.inverse()
        found: Tensors = {}
        for name, parameter in self._chosen(GRADIENTS, names.tensors).items():
            if parameter.grad is None:
                # Zero is what this step has of it; a tensor that never had one joins later.
                if name in self._had_gradient and self._gather.writes:
                    found[name] = torch.zeros(parameter.shape, dtype=parameter.dtype)
                continue
            gradient = self._gather.whole(parameter.grad)
            if gradient is not None:
                found[name] = (
                    gradient if inverse is None else gradient * inverse.to(gradient.device)
                )
        return found

    def note_gradients(self, names: Iterable[str]) -> None:
        """Note which tensors have had a gradient in the file, and have one from now on."""
        self._had_gradient |= set(names)

    def samples(self, names: Names, loss: SampleLoss) -> Tensors:
        """Gradients of several mini-batches."""
        chosen = self._chosen(GRADIENT_SAMPLES, names.tensors)
        return draw_samples(self._model, chosen, loss, self._schedule.samples, self._gather)

    def slots(self, names: Names) -> dict[str, Tensors]:
        """What the optimizer keeps, of what it kept when the streams were declared."""
        slots = self._all_slots(names)
        if self._slots is not None and (late := slots.keys() - self._slots):
            warnings.warn(
                f"the optimizer has kept {', '.join(sorted(late))} only since after its first "
                "update; streams are fixed by then, so this is not recorded",
                RecordingWarning,
                stacklevel=6,
            )
            self._slots |= late
            self._late = late
        return {slot: held for slot, held in slots.items() if slot not in self._late}

    def moving(self, names: Names) -> Tensors:
        """The parameters that the optimizer is to move, copied."""
        return copies(self._whole(UPDATES, self._moved(names)))

    def updates(self, before: Mapping[str, Any], names: Names) -> Tensors:
        """U_k = (θ_k - θ_{k+1})/η_k, with the learning rate of each tensor's own group."""
        rates = {
            id(p): float(group.get("lr", 1.0))
            for group in self._optimizer.param_groups
            for p in group["params"]
        }
        after = self._whole(UPDATES, self._moved(names))
        return {
            name: (before[name] - now) / rate
            if (rate := rates[id(names.tensors[name])])
            else torch.zeros_like(now)  # at learning rate 0 nothing moves, whatever U_k
            for name, now in after.items()
        }

    def likes(self, names: Names) -> dict[str, Tensors]:
        """What each stream will hold, after the first update: tensors of such shapes and dtypes."""
        params = self._whole(PARAMS, names.tensors)
        moved = {name: params[name] for name in self._moved(names) if name in params}
        with_gradient = {
            name: tensor
            for name, tensor in moved.items()
            if names.tensors[name].grad is not None or name in self._had_gradient
        }
        streams = {
            PARAMS: params,
            GRADIENTS: with_gradient,
            UPDATES: moved,
            GRADIENT_SAMPLES: moved,
        }
        like = {stream: self._chosen(stream, tensors) for stream, tensors in streams.items()}
        self.note_gradients(like[GRADIENTS])
        if OPTIMIZER in self._schedule.streams:
            slots = self._all_slots(names)
            self._slots = set(slots)
            among = self._chosen(OPTIMIZER, moved)
            like |= slots_like(slots, among) if self._gather.writes else {}
        return like

    def _all_slots(self, names: Names) -> dict[str, Tensors]:
        return slots_of(self._optimizer, self._chosen(OPTIMIZER, names.tensors), self._gather)

    def _chosen(self, stream: str, tensors: Mapping[str, T]) -> dict[str, T]:
        return {n: t for n, t in tensors.items() if self._schedule.chooses(stream, n)}

    def _whole(self, stream: str, tensors: Mapping[str, torch.Tensor]) -> Tensors:
        chosen = self._chosen(stream, tensors)
        whole = {name: self._gather.whole(tensor) for name, tensor in chosen.items()}
        return {name: tensor for name, tensor in whole.items() if tensor is not None}

    def _moved(self, names: Names) -> dict[str, nn.Parameter]:
        held = {id(p) for group in self._optimizer.param_groups for p in group["params"]}
        return {name: p for name, p in names.tensors.items() if id(p) in held}


def copies(tensors: Mapping[str, Any]) -> Tensors:
    """Tensors of their own memory."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
