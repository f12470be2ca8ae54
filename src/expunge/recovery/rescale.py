"""Bring each layer back to the scale at which networks are initialised."""

from collections.abc import Collection, Mapping
from math import prod, sqrt

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase  # pyright: ignore[reportPrivateUsage]

from expunge.parallel.sharding import is_sharded, whole
from expunge.training.peft_layers import refuse_rescale

__all__ = ["NORMS", "rescale_"]


NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def rescale_(model: nn.Module, *, public: Collection[nn.Parameter] = ()) -> nn.Module:
    """Scale each layer in place to He initialisation: root mean square sqrt(2 / fan-in) for its weight matrix.

    Noise enlarges every layer alike, deep networks then saturate; directions are kept, scales are not. A layer's bias
    is scaled with its weight; the affine part of a normalisation layer is set to the identity. A function of the
    certified weights alone, hence post-processing.

    Args:
        model: from `unlearn`.
        public: parameters that carry no noise: left alone, as frozen ones are.

    Raises:
        ModelRefused: the model has adapters.
    """
    refuse_rescale(model)
    spared = {id(p) for p in (*public, *(p for p in model.parameters() if not p.requires_grad))}
    for module in model.modules():
        own = {name: p for name, p in module.named_parameters(recurse=False) if id(p) not in spared and p.numel()}
        if isinstance(module, NORMS):
            _set_identity(own)
            continue
        matrices = [p for p in own.values() if p.dim() >= 2]
        if not matrices:
            continue
        factors = [_factor(p) for p in matrices]
        for p, factor in zip(matrices, factors, strict=True):
            p.mul_(factor)
        for p in own.values():
            if p.dim() < 2:
                p.mul_(sum(factors) / len(factors))
    return model


def _set_identity(own: Mapping[str, nn.Parameter]) -> None:
    for name, value in {"weight": 1.0, "bias": 0.0}.items():
        if name in own:
            own[name].fill_(value)


def _factor(p: nn.Parameter) -> float:
    squares = p.double().square()
    rms = sqrt(float(whole(squares.sum())) / p.numel()) if is_sharded(p) else float(squares.mean().sqrt())
    fan_in = prod(p.shape[1:])
    return sqrt(2 / fan_in) / rms if rms > 0 and fan_in else 1.0
