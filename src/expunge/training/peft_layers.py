"""Layers of PEFT in a model, known by where their classes come from: nothing of PEFT is imported here."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from expunge.errors import ModelRefused
from expunge.training.tensors import named_modules

__all__ = ["adapter_layers", "refuse_idle_adapters", "refuse_rescale", "refuse_zero_centre"]


def adapter_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """Name and module of every layer that PEFT put in a layer's place."""
    for name, module in named_modules(model):
        if any(
            kind.__name__ == "BaseTunerLayer" and kind.__module__.startswith("peft.") for kind in type(module).__mro__
        ):
            yield name, module


def refuse_idle_adapters(model: nn.Module) -> None:
    """Refuse an adapter that takes no part, and one that was merged.

    The one keeps what it was trained on, and neither gradient nor noise reaches it; the other lies in the base's weights, which
    are then no longer public.

    Raises:
        ModelRefused: the message names the adapter and the remedy.
    """
    for name, layer in adapter_layers(model):
        active = () if layer.disable_adapters else tuple(layer.active_adapters)
        held = {key for part in layer.adapter_layer_names for key in getattr(layer, part, {})}
        if idle := sorted(held.difference(active)):
            raise ModelRefused(
                f"adapter {idle[0]!r} is inactive in '{name}': it holds what it was trained on, and no noise reaches it. Delete it "
                f"(model.delete_adapter({idle[0]!r})), or make it active (model.set_adapter({idle[0]!r}))"
            )
        if layer.merged:
            raise ModelRefused(
                f"adapter {layer.merged_adapters[0]!r} is merged into '{name}', whose weights are no longer those of the public base: "
                "call model.unmerge_adapter() first"
            )


def refuse_rescale(model: nn.Module) -> None:
    """Raise `ModelRefused` where a model to be rescaled has adapters: their factor B begins at zero, not at the scale of a layer."""
    for name, _ in adapter_layers(model):
        raise ModelRefused(
            f"'{name}' is an adapter, and rescale would bring its factors to the scale at which whole layers are initialised, which "
            "an adapter never has: give rescale=False (--no-rescale)"
        )


def refuse_zero_centre(model: nn.Module) -> None:
    """Raise `ModelRefused` where a model to be put at zero has adapters: with A = B = 0 the gradients of both are 0 for ever."""
    for name, _ in adapter_layers(model):
        raise ModelRefused(
            f"'{name}' is an adapter: where both of its factors are zero all its gradients are, and a null start would stay there. Give "
            "center=, the state of the adapter as it was initialised (A random, B zero) before it saw any data"
        )
