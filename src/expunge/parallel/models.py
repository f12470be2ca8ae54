"""Models as users wrap them for several workers: what is under the wrapper, and which wrappers are not understood."""

from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from expunge.errors import ModelRefused
from expunge.parallel.workers import Workers

__all__ = ["unwrapped"]


def unwrapped(model: nn.Module, workers: Workers) -> nn.Module:
    """The model under `DistributedDataParallel`, whose own averaging is not used; any other model as it is.

    Args:
        model: as the caller has wrapped it.
        workers: that share the run.

    Raises:
        ModelRefused: the wrapper averages over other processes than share the run, or is not understood; a part of the
            model is wrapped and the rest is not.
    """
    if isinstance(model, DistributedDataParallel):
        group = model.process_group
        others = workers.size if group is None else int(group.size())
        if others != workers.size:
            raise ModelRefused(
                f"DistributedDataParallel averages over {others} processes, and {workers.size} share this run: wrap the model for the "
                "default process group, or give model.module"
            )
        model = model.module
    for name, module in model.named_modules():
        kind = type(module).__name__
        if isinstance(module, (DataParallel, DistributedDataParallel)) or kind in _STRANGE:
            where = f"'{name}'" if name else "the model"
            raise ModelRefused(
                f"{where} is wrapped in {kind}, which no run understands: give the plain model, wrap the whole of it in "
                "DistributedDataParallel, or use fully_shard"
            )
    return model


_STRANGE = ("FullyShardedDataParallel", "PipelineStage", "DeepSpeedEngine")
