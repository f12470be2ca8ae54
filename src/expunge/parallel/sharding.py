"""Parameters in shards (`fully_shard`, DTensor): which coordinates of the one vector of all weights this worker holds.

The global vector is every covered parameter, flattened, one after the other, as on one worker. A parameter is cut along its
first axis, so that a worker's shard of it is one slice of the global vector; a worker's part is these slices, laid together.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from expunge.errors import ModelRefused, RunError
from expunge.parallel.workers import Workers

__all__ = [
    "Part",
    "Partition",
    "Span",
    "is_sharded",
    "like",
    "local",
    "partition_of",
    "refuse_layouts",
    "reshard",
    "sharded",
    "take_",
    "whole",
]


@dataclass(frozen=True)
class Span:
    """Coordinates that lie together here and in the global vector: here from `here`, there from `there`."""

    here: int
    there: int
    size: int


@dataclass(frozen=True, eq=False)
class Partition:
    """Which coordinates of a vector of `total` this worker holds."""

    workers: Workers
    total: int
    spans: tuple[Span, ...]

    @property
    def size(self) -> int:
        """Coordinates here."""
        return sum(span.size for span in self.spans)

    def taken(self, full: Tensor) -> Tensor:
        """This worker's part of a whole vector, shape (size,)."""
        parts = [full[span.there : span.there + span.size] for span in self.spans]
        return torch.cat(parts) if parts else full[:0]

    def gathered(self, part: Tensor) -> Tensor | None:
        """The whole vector, shape (total,), on rank 0's CPU; None elsewhere. Every worker calls it."""
        mine = part.detach().as_subclass(torch.Tensor).cpu()
        if not self.workers.several:
            return mine.clone()
        each = self.workers.to_first((self.spans, mine))
        if each is None:
            return None
        full = torch.empty(self.total, dtype=mine.dtype)
        for spans, values in each:
            for span in spans:
                full[span.there : span.there + span.size] = values[span.here : span.here + span.size]
        return full


class Part(Tensor):
    """A worker's part of a vector that all workers hold together; its norm is that of the whole.

    What is computed of it is a `Part` without a partition, whose norm nobody asks for: that is refused, not computed of one
    worker's coordinates alone.
    """

    _held: Partition | None

    @classmethod
    def of(cls, values: Tensor, partition: Partition) -> "Part":
        """Values, shape (partition.size,), as a part; they share memory."""
        part = values.as_subclass(cls)
        part._held = partition
        return part

    @property
    def partition(self) -> Partition:
        """Where it lies in the whole.

        Raises:
            RunError: it is a piece of a part.
        """
        held = self.__dict__.get("_held")
        if held is None:
            raise RunError(
                "a piece of weights in shards has no norm or noise of its own: these steps are not made for parameters in shards"
            )
        return held


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a DTensor."""
    kinds = cast("Any", sys.modules.get("torch.distributed.tensor"))  # whoever made one has loaded it
    return kinds is not None and isinstance(tensor, kinds.DTensor)


def sharded(model: nn.Module) -> bool:
    """Whether a model has parameters in shards, those that are gathered at the moment among them."""
    return any(True for _ in _groups(model)) or any(is_sharded(p) for p in model.parameters())


def whole(tensor: Tensor) -> Tensor:
    """A tensor itself, or the whole of one in shards: then every worker calls it."""
    return cast("Any", tensor.detach()).full_tensor() if is_sharded(tensor) else tensor


def local(tensor: Tensor) -> Tensor:
    """A tensor itself, or this worker's shard, which shares its memory."""
    return cast("Any", tensor.detach()).to_local() if is_sharded(tensor) else tensor


def take_(tensor: Tensor, full: Tensor) -> Tensor:
    """Set a tensor to a whole one, or this worker's shard of it, in place."""
    with torch.no_grad():
        if not is_sharded(tensor):
            return tensor.copy_(full)
        shard = local(tensor)
        first = _offset(tensor)
        shard.copy_(full[first : first + len(shard)])
    return tensor


def like(parameter: Tensor, full: Tensor) -> Tensor:
    """A whole tensor, cut as a parameter of its shape is."""
    return take_(torch.empty_like(parameter, dtype=full.dtype), full) if is_sharded(parameter) else full


def reshard(model: nn.Module) -> None:
    """Free what `fully_shard` has gathered, so that every parameter is this worker's shard again."""
    for module in _groups(model):
        module.reshard()


def partition_of(parameters: Sequence[tuple[str, nn.Parameter]], workers: Workers) -> Partition:
    """Which coordinates of the parameters this worker holds.

    Args:
        parameters: names and covered parameters, in the order of the global vector.
        workers: that share the run.

    Raises:
        ModelRefused: a parameter is not in shards while another is, or is cut otherwise than `fully_shard(model)` cuts it
            on a mesh of all workers (tensor parallelism, replicated shards).
    """
    spans: list[Span] = []
    here = there = 0
    for name, parameter in parameters:
        first = _first_row(name, parameter, workers)
        row = prod(parameter.shape[1:])
        size = local(parameter).numel()
        if size:
            spans.append(Span(here, there + first * row, size))
        here, there = here + size, there + parameter.numel()
    return Partition(workers, there, tuple(spans))


def refuse_layouts(model: nn.Module, workers: Workers) -> None:
    """Refuse parameters that are laid out otherwise than `fully_shard(model)` does on a mesh of all workers.

    Raises:
        ModelRefused: the message names the parameter and its layout.
    """
    groups = {id(module) for module in _groups(model)}
    owned = [f"{name}." if name else "" for name, module in model.named_modules() if id(module) in groups]
    for name, parameter in model.named_parameters():
        if not is_sharded(parameter):
            continue
        if not any(name.startswith(prefix) for prefix in owned):
            raise ModelRefused(
                f"parameter '{name}' is a DTensor that fully_shard did not make (tensor parallelism, distribute_tensor), which no run "
                "understands: call fully_shard on the whole model"
            )
        _first_row(name, parameter, workers)


def _first_row(name: str, parameter: nn.Parameter, workers: Workers) -> int:
    """The first row of a parameter that this worker holds."""
    if not is_sharded(parameter):
        raise ModelRefused(f"parameter '{name}' is not in shards, and others are: call fully_shard on the whole model")
    spec = cast("Any", parameter)
    mesh, placements = spec.device_mesh, spec.placements
    cut = len(placements) == 1 and placements[0].is_shard(0) and type(placements[0]).__name__ == "Shard"
    if not cut or mesh.ndim != 1 or mesh.size() != workers.size:
        raise ModelRefused(
            f"parameter '{name}' is laid out as {placements} on a mesh of {tuple(mesh.shape)}, and {workers.size} workers share this "
            "run: only fully_shard on a mesh of all workers, one axis, is understood; no tensor parallelism, no replicas of shards"
        )
    return _offset(parameter)


def _offset(tensor: Tensor) -> int:
    """The first row that this worker holds of a tensor that is cut along its first axis."""
    from torch.distributed.tensor._utils import compute_local_shape_and_global_offset as laid_out

    spec = cast("Any", tensor)
    shape, offset = laid_out(spec.shape, spec.device_mesh, spec.placements)
    if tuple(shape) != tuple(local(tensor).shape):
        raise RunError(f"a shard has shape {tuple(local(tensor).shape)}, not {tuple(shape)}")
    return int(offset[0])


def _groups(model: nn.Module) -> Iterator[Any]:
    """The modules that `fully_shard` was called on."""
    fsdp = cast("Any", sys.modules.get("torch.distributed.fsdp"))
    kind = None if fsdp is None else getattr(fsdp, "FSDPModule", None)
    return (module for module in model.modules() if kind is not None and isinstance(module, kind))
