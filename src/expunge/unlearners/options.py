"""The options of all unlearners: a name means one thing, with one default, wherever it is taken. Needs no torch.

The command line is made of this list, an unlearner's fields are made by `option`, and a test holds the two together.
"""

from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

__all__ = ["HEURISTICS", "NAMES", "OPTIONS", "Options", "option", "options_of"]


class _Option(NamedTuple):
    kind: Any
    default: Any
    help: str


OPTIONS: MappingProxyType[str, _Option] = MappingProxyType(
    {
        "init_clip": _Option(float, 0.5, "Radius of the start (fixed without looking at the model)."),
        "grad_clip": _Option(float, 1.0, "Radius of each minibatch gradient."),
        "model_clip": _Option(float, 0.5, "Radius of the weights after each step."),
        "learning_rate": _Option(float, 0.01, "Learning rate of the noisy steps."),
        "last_rate": _Option(float, 0.1, "Learning rate of the last noisy step, as a share of the first."),
        "weight_decay": _Option(float, 20.0, "Decay towards the centre in the noisy steps."),
        "steps": _Option(int, 50, "Number of noisy steps (blockwise: for each layer)."),
        "blind": _Option(bool, True, "Hide layers that had no noise yet from the gradient."),
        "epochs": _Option(
            float, 5, "Recovery (or retraining, by default as many as task.training_epochs says): epochs."
        ),
        "recovery_lr": _Option(float, 0.1, "Recovery (or retraining): peak learning rate."),
        "optimizer": _Option(str, "sgd", "Recovery (or retraining): sgd or adamw."),
        "batch_size": _Option(int, 128, "Examples a batch."),
        "rescale": _Option(bool, True, "Recovery: first rescale layers."),
        "ridge": _Option(float, 1.0, "Exact head: ridge."),
        "grid": _Option(
            float, 2.0**-12, "Exact head: public step to which features are rounded, so that sums are whole numbers."
        ),
        "loss": _Option(str, "logistic", "Convex head: logistic, squared or smooth_hinge."),
        "regularization": _Option(float, 1e-4, "Convex head: lambda of its objective."),
        "residual": _Option(float, 1e-9, "Convex head: the largest norm of the gradient where it stops."),
        "head": _Option(Path | None, None, "Heads: the folder of the last call, to forget from."),
        "trace": _Option(Path | None, None, "Replay: the folder of a traced training, of one model or of shards."),
        "sample_clip": _Option(float, 1.0, "Private training: radius for the gradient of each example."),
        "sampling_rate": _Option(float, 0.05, "Private training: chance of every example to be in a batch."),
        "private_steps": _Option(int, 500, "Private training: steps."),
        "private_lr": _Option(float, 0.5, "Private training: learning rate."),
        "momentum": _Option(float, 0.0, "Private training: momentum."),
        "expected_batch": _Option(
            float, 50.0, "Private training: a public round number, near sampling_rate times the rows."
        ),
        "group_size": _Option(int, 1, "Private training: the most rows that a request may hold."),
    }
)

NAMES = (
    "gradient_clipping", "scheduled_gradient_clipping", "blockwise_gradient_clipping", "model_clipping",
    "output_perturbation", "retrain", "grid_ridge", "measured_residual", "replay", "dp_training",
)  # fmt: skip
"""Of `expunge.unlearners.table.UNLEARNERS`, for whoever has no torch."""


HEURISTICS = (
    "fine_tune", "gradient_ascent", "neggrad_plus", "scrub", "selective_dampening", "salun", "jit",
    "gradient_difference", "negative_preference", "information", "prune",
)  # fmt: skip
"""Of `expunge.unlearners.heuristics`, HEURISTICS and BEHAVIOURAL, likewise."""


def option(name: str, *, told: bool = False) -> Any:
    """One of `OPTIONS`, as a field of an unlearner; `told`: it is None until somebody says, as the task may say it."""
    kind, default, words = OPTIONS[name]
    return field(default=None if told else default, metadata={"help": words, "kind": kind})


def options_of(unlearner: Any) -> dict[str, Any]:
    """Names and defaults of an unlearner's options, or of its class's."""
    return {f.name: f.default for f in fields(unlearner) if "help" in f.metadata}


Options: Any = make_dataclass(
    "Options", [(name, own.kind, option(name)) for name, own in OPTIONS.items()], frozen=True, kw_only=True
)
"""All options at once, as a command line takes them."""
