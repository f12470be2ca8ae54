"""What is remembered, in memory only, of the trained weights: so that none are released, and none are a loss's teacher.

The theorems let the gradient be any function of the iterate and the retained data. A function of the trained weights is
another one in the world where the forgotten data never were: against its last steps nothing is proven.
"""

import weakref
from collections.abc import Collection, Mapping

import torch
from torch import nn

from expunge.errors import ModelRefused
from expunge.fingerprint import tensors_held
from expunge.record import digest_tensors, weights_tensors
from expunge.training.tensors import digest_bytes, named_parameters
from expunge.training.weights import FlatWeights

__all__ = ["STARTS", "Starts", "start_digests"]

_TELLING = 16  # coordinates; that so many noised ones equal the trained ones bit for bit does not happen
_CAST = 1 << 22  # coordinates of which the digests in other types are kept, small tensors first
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def start_digests(weights: FlatWeights) -> dict[str, frozenset[str]]:
    """Digests of the trained weights, the whole under "": for `issue` to refuse them as released ones; never written.

    Tensors that two models may well have in common (short, or of one value) count in the whole only. Of small tensors the
    digests in other types are there too: a trained model in half precision is no other model.
    """
    telling = {
        name: p.detach() for name, p in named_parameters(weights.model)
        if name in weights.names and p.numel() >= _TELLING and bool((p != p.reshape(-1)[0]).any())
    }  # fmt: skip
    tensors = weights_tensors(weights.model)
    found = {t.name: {t.digest.hex()} for t in tensors if t.name in telling}
    left = _CAST
    for name, p in sorted(telling.items(), key=lambda item: item[1].numel()):
        left -= p.numel()
        if left < 0:
            break
        lower = [p.to(kind) for kind in _FLOATS]
        found[name] |= {digest_bytes(t) for t in (*lower, *(t.float() for t in lower))}
    return {name: frozenset(digests) for name, digests in found.items()} | {"": frozenset({digest_tensors(tensors)})}


class Starts:
    """The digests of trained weights, kept in memory for as long as the models that came from them."""

    def __init__(self) -> None:
        self._starts: weakref.WeakKeyDictionary[nn.Module, Mapping[str, Collection[str]]] = weakref.WeakKeyDictionary()

    def remember(self, model: nn.Module, start: Mapping[str, Collection[str]]) -> None:
        """Note what a model came from: digests by name, as in `RunRecord.start`."""
        self._starts[model] = start

    def start_of(self, model: nn.Module) -> Mapping[str, Collection[str]]:
        """What a model came from, as far as it is known here."""
        return self._starts.get(model, {})

    def refuse(self, loss: object, model: nn.Module) -> None:
        """Refuse a loss from which the weights are reached that a model came from.

        Args:
            loss: the caller's function, searched with closures, globals and attributes.
            model: that the loss will be given; its own parameters are no teacher.

        Raises:
            ModelRefused: the message names the parameter.
        """
        names = {digest: name for name, digests in self.start_of(model).items() if name for digest in digests}
        if not names:
            return
        own = {id(parameter) for _, parameter in named_parameters(model)}
        for tensor in tensors_held(loss):
            plain = tensor.is_floating_point() and not tensor.is_meta and tensor.numel() >= _TELLING
            if id(tensor) in own or not plain or tensor.is_sparse:
                continue
            name = names.get(digest_bytes(tensor))
            if name is not None:
                raise ModelRefused(
                    f"the loss holds the trained weights ('{name}'), as a teacher or by a name outside of it: its gradient would "
                    "depend on the forgotten data in a way that no clip and no noise covers. Compute it from the model and the "
                    "batch that it is given; a teacher must never have seen the forgotten data"
                )


STARTS = Starts()
"""Of all models that this process has unlearned."""
