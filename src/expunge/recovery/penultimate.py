"""The features of a network that classifies: what goes into its last linear layer."""

from typing import Any

from torch import Tensor, nn

from expunge.errors import ModelRefused
from expunge.training.scores import scores_of
from expunge.training.tensors import named_modules

__all__ = ["class_scores", "classifying_layer", "features_and_scores"]


def classifying_layer(model: nn.Module, name: str = "") -> nn.Module:
    """The layer of this name, or the last `nn.Linear` that the model registers.

    Raises:
        ModelRefused: there is none.
    """
    layers = dict(named_modules(model))
    if name:
        if name not in layers:
            raise ModelRefused(f"classifier={name!r} names no layer of the model")
        return layers[name]
    linear = [layer for layer in layers.values() if isinstance(layer, nn.Linear)]
    if not linear:
        raise ModelRefused("the model has no nn.Linear: name the layer that classifies as classifier='...'")
    return linear[-1]


def class_scores(model: nn.Module, batch: Any) -> Tensor:
    """The model's scores for a batch, (b, classes), of two classes or more; labels in the batch are not read.

    Raises:
        ModelRefused: the scores have another shape.
    """
    scores = scores_of(model, batch)
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise ModelRefused(
            f"scores of shape (rows, classes) with two classes or more are needed, not {tuple(scores.shape)}"
        )
    return scores


def features_and_scores(model: nn.Module, layer: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    """What goes into a layer, (b, width), and the model's scores, (b, classes), from one forward pass.

    Raises:
        ModelRefused: the layer is not called once with one vector a row, or the scores have another shape.
    """
    seen: list[Tensor] = []

    def keep(_layer: nn.Module, given: tuple[Any, ...]) -> None:
        seen.extend(given[:1])

    handle = layer.register_forward_pre_hook(keep)
    try:
        scores = class_scores(model, batch)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0].dim() != 2 or len(seen[0]) != len(scores):
        raise ModelRefused(
            f"the layer that classifies must be called once, with one vector a row, and was given {[tuple(t.shape) for t in seen]}"
        )
    return seen[0], scores
