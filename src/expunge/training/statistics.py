"""The running statistics of normalisation layers: averages over the training data, forgotten rows among them.

They are public (left as they are, in evaluation mode), or reset before the run and estimated again on the retained data
from the final weights. Statistics gathered between the noisy steps would release the weights between the steps.
"""

import contextlib
from collections.abc import Callable, Collection, Generator, Iterator, Sequence

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]
from torch.nn.modules.instancenorm import _InstanceNorm  # pyright: ignore[reportPrivateUsage]

from expunge.errors import ModelRefused
from expunge.training.tensors import named_modules, plain_name

__all__ = ["average_", "keeps_statistics", "norms_to_estimate", "reset_", "running_norms", "statistics_of"]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def norms_to_estimate(model: nn.Module, public: Collection[str]) -> list[_NormBase]:
    """BatchNorm and InstanceNorm layers whose running statistics are not declared public.

    Raises:
        ModelRefused: a layer's statistics are declared public in part.
    """
    found: dict[int, _NormBase] = {}
    for prefix, norm in _norms(model):
        names = _own(prefix, norm)
        declared = [name for name in names if name in public]
        if not declared:
            found[id(norm)] = norm
        if declared and len(declared) < len(names):
            rest = next(name for name in names if name not in public)
            raise ModelRefused(
                f"'{declared[0]}' is declared public and '{rest}' is not: declare all statistics or none"
            )
    return list(found.values())


def running_norms(model: nn.Module) -> list[_NormBase]:
    """All BatchNorm and InstanceNorm layers that keep running statistics."""
    return list({id(norm): norm for _, norm in _norms(model)}.values())


def statistics_of(model: nn.Module, norms: Collection[nn.Module]) -> tuple[str, ...]:
    """The names of the layers' running statistics."""
    chosen = {id(norm) for norm in norms}
    return tuple(name for prefix, norm in _norms(model) if id(norm) in chosen for name in _own(prefix, norm))


def reset_(norms: Sequence[_NormBase]) -> None:
    """Bring running statistics to those of no data: mean 0, variance 1, no batch."""
    for norm in norms:
        for name, value in zip(_STATISTICS, (0, 1, 0), strict=True):
            buffer = dict(norm.named_buffers(recurse=False)).get(name)
            if buffer is not None:
                buffer.fill_(value)


def average_(norms: Sequence[_NormBase], passes: Iterator[Callable[[], object]]) -> None:
    """Estimate running statistics as plain averages over forward passes, in place.

    BatchNorm averages the statistics of its batches, InstanceNorm the means over the batch of those of its instances.

    Args:
        norms: the layers; the rest of the model is left in its mode.
        passes: functions that take one batch each through the model.
    """
    before = [(norm, norm.momentum, norm.training) for norm in norms]
    with torch.no_grad(), contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_plain_average(norm))
        for forward in passes:
            forward()
    for norm, momentum, training in before:
        norm.momentum, norm.training = momentum, training


@contextlib.contextmanager
def _plain_average(norm: _NormBase) -> Generator[None]:
    reset_([norm])
    norm.train()
    norm.momentum = None  # torch's word for a plain average, which InstanceNorm reads as no update at all
    if not isinstance(norm, _InstanceNorm):
        yield
        return
    seen = 0

    def count(_module: nn.Module, _inputs: object) -> None:
        nonlocal seen
        seen += 1
        norm.momentum = 1 / seen

    handle = norm.register_forward_pre_hook(count)
    try:
        yield
    finally:
        handle.remove()


def keeps_statistics(model: nn.Module, public: Collection[str] = ()) -> list[_NormBase]:
    """The normalisation layers whose statistics recovery and retraining leave alone.

    Those that are declared public; those of a frozen part: a layer whose own parameters are all frozen, and of layers
    without parameters one in evaluation mode in a model that is in training mode.

    Args:
        model: in the modes that its owner gave it.
        public: names of parameters and buffers.
    """
    found: dict[int, _NormBase] = {}
    for prefix, norm in _norms(model):
        own = list(norm.parameters(recurse=False))
        frozen = not any(p.requires_grad for p in own) if own else model.training and not norm.training
        if frozen or any(name in public for name in _own(prefix, norm)):
            found[id(norm)] = norm
    return list(found.values())


def _norms(model: nn.Module) -> Iterator[tuple[str, _NormBase]]:
    """By every name it has."""
    for prefix, module in named_modules(model):
        if isinstance(module, _NormBase) and module.track_running_stats and _own(prefix, module):
            yield prefix, module


def _own(prefix: str, norm: _NormBase) -> list[str]:
    names = [name for name, _ in norm.named_buffers(recurse=False) if name in _STATISTICS]
    return [plain_name(f"{prefix}.{name}" if prefix else name) for name in names]
