"""The options that several unlearners share: one default and one line on each. Needs no torch."""

from dataclasses import field, fields
from types import MappingProxyType
from typing import Any

__all__ = ["OPTIONS", "option", "options_of", "shared"]

OPTIONS: MappingProxyType[str, tuple[Any, str]] = MappingProxyType(
    {
        "init_clip": (0.5, "Radius of the start (fixed without looking at the model)."),
        "grad_clip": (1.0, "Radius of each minibatch gradient."),
        "model_clip": (0.5, "Radius of the weights after each step."),
        "learning_rate": (0.01, "Learning rate of the noisy steps."),
        "weight_decay": (20.0, "Decay towards the centre in the noisy steps."),
        "steps": (50, "Number of noisy steps."),
        "epochs": (5.0, "Recovery (or retraining): epochs."),
        "recovery_lr": (0.1, "Recovery (or retraining): peak learning rate."),
        "optimizer": ("sgd", "Recovery (or retraining): sgd or adamw."),
        "batch_size": (128, "Examples a batch."),
        "rescale": (True, "Recovery: first rescale layers."),
    }
)


def option(default: Any, words: str) -> Any:
    """A field of an unlearner that is an option of the command line too, with a line of help."""
    return field(default=default, metadata={"help": words})


def shared(name: str) -> Any:
    """One of `OPTIONS`, as a field; the unlearners that have it mean the same by it."""
    return option(*OPTIONS[name])


def options_of(unlearner: Any) -> dict[str, Any]:
    """Names and defaults of an unlearner's options, or of its class's."""
    return {f.name: f.default for f in fields(unlearner) if "help" in f.metadata}
