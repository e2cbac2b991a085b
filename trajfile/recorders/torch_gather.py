"""Which process writes, and how sharded tensors come together there.

With DistributedDataParallel every process holds everything, and the first one writes. With FSDP2
parameters, gradients and state are DTensors: for each step that is due the processes gather them
tensor by tensor, so that none holds more than one whole tensor beside its shards; the writing
process copies each to its host memory at once, which makes one row there, and the queue another.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

from trajfile.recorders.schedule import STREAMS

try:
    from torch.distributed.tensor import DTensor
except ImportError:  # a PyTorch built without distributed
    DTensor = None  # type: ignore[assignment, misc]


class Gather:
    """How one process takes part.

    Attributes:
        writes: Whether this process has the file.
        together: Whether there are processes that train together.
        sharded: Whether tensors are spread over them, so that all must gather.
    """

    def __init__(self, parameters: Iterable[torch.Tensor]):
        spread = DTensor is not None and any(isinstance(p, DTensor) for p in parameters)
        self.together = dist.is_available() and dist.is_initialized()
        self.sharded = spread and self.together
        self.writes = not self.together or dist.get_rank() == 0

    def whole(self, tensor: torch.Tensor) -> torch.Tensor | None:
        """A tensor without shards.

        Args:
            tensor: Any tensor; a DTensor is gathered, which all processes must do together.

        Returns:
            The whole tensor, in host memory if it was gathered; None where nothing is written.
        """
        if self.sharded and isinstance(tensor, DTensor):
            sharded: Any = tensor.detach()
            full: torch.Tensor = sharded.full_tensor()
            if not self.writes:
                return None
            return full.cpu() if full.device.type != "cpu" else full.clone()
        if not self.writes:
            return None
        return tensor.to_dense() if tensor.is_sparse else tensor

    def agree(self, due: frozenset[str], *, ask: bool) -> frozenset[str]:
        """What all processes record at this step: what the writing one says.

        Args:
            due: What this process thinks.
            ask: Whether there is anything to agree on, which all processes must think alike: not
                where no stream is scheduled, and no loss, which differs between processes, decides.

        Returns:
            The writer's answer, which is nothing once its recording has stopped.
        """
        if not self.sharded or not ask:
            return due
        bits = sum(1 << index for index, stream in enumerate(STREAMS) if stream in due)
        told = torch.tensor([bits], dtype=torch.int64, device=_device())
        dist.broadcast(told, src=0)
        return frozenset(s for i, s in enumerate(STREAMS) if int(told.item()) >> i & 1)

    def all_well(self, well: bool) -> bool:
        """Whether all processes say so, where tensors are sharded; otherwise what this one says."""
        if not self.sharded:
            return well
        told = torch.tensor([int(well)], dtype=torch.int64, device=_device())
        dist.all_reduce(told, dist.ReduceOp.MIN)
        return bool(told.item())


def _device() -> str:
    return "cuda" if dist.get_backend() == "nccl" else "cpu"
