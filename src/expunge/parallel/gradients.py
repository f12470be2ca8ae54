"""Gradients of several workers that each hold all of the weights, added up in place."""

from collections.abc import Sequence

import torch
from torch import nn

from expunge.parallel.workers import Workers

__all__ = ["add_gradients_"]


def add_gradients_(parameters: Sequence[nn.Parameter], workers: Workers) -> None:
    """Set every gradient to the sum of the workers', added in float32 at least; None where none of them has one.

    Args:
        parameters: in the same order on every worker.
        workers: that share the run.
    """
    have = workers.add_(torch.tensor([float(p.grad is not None) for p in parameters]))
    reached = [p for p, count in zip(parameters, have.tolist(), strict=True) if count]
    for parameter in reached:
        grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach().to_dense()
        wide = grad if grad.dtype in (torch.float32, torch.float64) else grad.float()
        parameter.grad = workers.add_(wide.contiguous()).to(parameter.dtype)
