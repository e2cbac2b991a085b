"""What can be recorded together, looked at before a training begins."""

from __future__ import annotations

from typing import Literal

from torch import nn

from trajfile.errors import UsageError
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.torch_gather import Gather
from trajfile.recorders.torch_names import inner_model
from trajfile.recorders.torch_samples import SampleLoss
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS

Stage = Literal["raw", "clipped", "scaled"]


def with_samples(
    schedule: Schedule, given: Schedule | str, sample_loss: SampleLoss | None
) -> Schedule:
    """The schedule, without samples where a preset asks for what cannot be drawn.

    Args:
        schedule: What is recorded when.
        given: What the caller passed for it: a preset may ask for more than there is.
        sample_loss: The loss of a fresh mini-batch, if there is one.

    Returns:
        The schedule to follow.

    Raises:
        UsageError: If one of schedule and loss asks for the other, which is not there.
    """
    asked = GRADIENT_SAMPLES in schedule.streams
    if asked and sample_loss is None:
        if isinstance(given, Schedule):
            raise UsageError(
                "the schedule asks for gradient_samples: pass sample_loss, a function that takes "
                "a number and returns the loss of a fresh mini-batch"
            )
        return schedule.without(GRADIENT_SAMPLES)
    if sample_loss is not None and not asked:
        raise UsageError(
            "sample_loss is given, but the schedule draws no gradient_samples: say when, for "
            "instance Schedule(..., gradient_samples='every 500')"
        )
    return schedule


def check_distributed(
    model: nn.Module, gather: Gather, schedule: Schedule, stage: Stage | None
) -> None:
    """Check what several processes that train together can record.

    Args:
        model: The model.
        gather: How this process takes part.
        schedule: What is recorded when.
        stage: What the gradients are said to have been through.

    Raises:
        UsageError: If something cannot be seen or done there.
    """
    wrapped = inner_model(model) is not model and isinstance(
        model, nn.parallel.DistributedDataParallel
    )
    if (wrapped or gather.sharded) and stage is None and GRADIENTS in schedule.streams:
        raise UsageError(
            "whether gradients are clipped cannot be seen in distributed training: say "
            "gradient_stage='raw' or gradient_stage='clipped'"
        )
    if not gather.together:
        return
    from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

    for module in inner_model(model).modules():
        if (
            isinstance(module, FullyShardedDataParallel)
            and module.sharding_strategy is not ShardingStrategy.NO_SHARD
        ):
            raise UsageError(
                "the model is sharded by FullyShardedDataParallel, which cuts parameters into "
                "pieces without shapes: shard it with torch.distributed.fsdp.fully_shard instead"
            )
        if (
            GRADIENT_SAMPLES in schedule.streams
            and isinstance(module, nn.SyncBatchNorm)
            and not gather.sharded
        ):
            raise UsageError(
                "gradient_samples are drawn by the first process alone, and SyncBatchNorm waits "
                "for the others: leave sample_loss out, or shard the model with fully_shard"
            )
