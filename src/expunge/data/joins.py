"""Two sets of examples as one."""

import torch

from expunge.data.examples import Examples

__all__ = ["joined"]


def joined(first: Examples, second: Examples | None) -> Examples:
    """Both, with their ids."""
    if second is None:
        return first
    pairs = zip(first.tensors, second.tensors, strict=True)
    return Examples(*(torch.cat(pair) for pair in pairs), ids=[*first.ids, *second.ids])
