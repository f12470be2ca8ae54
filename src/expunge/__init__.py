"""Certified machine unlearning for PyTorch.

Accounting, certificates, verification and reports need no torch; the names that do load it on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from expunge import errors
from expunge._version import __version__
from expunge.accounting import (
    BlockwiseGradientClipping,
    Budget,
    DPTraining,
    GradientClipping,
    Guarantee,
    Kind,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Remaining,
    Retrain,
    ScheduledGradientClipping,
    best_schedule,
    best_steps,
    calibrate,
    compose,
    delta_at,
    fewest_steps,
    frontier,
    group_epsilon_delta,
    group_mu,
    guarantee,
    interval,
    remaining,
    requests_left,
)
from expunge.certificate import Certificate, issue, verify
from expunge.record import RunRecord

if TYPE_CHECKING:
    from expunge.data import Examples, commit, new_commitment_key, split
    from expunge.methods.blockwise_gradient_clipping import layer_sizes
    from expunge.methods.weights import save_weights
    from expunge.pipeline import Unlearned, null_start, recover, retrain, unlearn
    from expunge.private import train_private
    from expunge.recovery import Recipe
    from expunge.task import Task

__all__ = [
    "BlockwiseGradientClipping",
    "Budget",
    "Certificate",
    "DPTraining",
    "Examples",
    "GradientClipping",
    "Guarantee",
    "Kind",
    "Mechanism",
    "ModelClipping",
    "OutputPerturbation",
    "Recipe",
    "Relation",
    "Remaining",
    "Retrain",
    "RunRecord",
    "ScheduledGradientClipping",
    "Task",
    "Unlearned",
    "__version__",
    "best_schedule",
    "best_steps",
    "calibrate",
    "commit",
    "compose",
    "delta_at",
    "errors",
    "fewest_steps",
    "frontier",
    "group_epsilon_delta",
    "group_mu",
    "guarantee",
    "interval",
    "issue",
    "layer_sizes",
    "new_commitment_key",
    "null_start",
    "recover",
    "remaining",
    "requests_left",
    "retrain",
    "save_weights",
    "split",
    "train_private",
    "unlearn",
    "verify",
]

_TORCH_BACKED = {
    "Examples": "data",
    "Recipe": "recovery",
    "Task": "task",
    "Unlearned": "pipeline",
    "commit": "data",
    "layer_sizes": "methods.blockwise_gradient_clipping",
    "new_commitment_key": "data",
    "null_start": "pipeline",
    "recover": "pipeline",
    "retrain": "pipeline",
    "save_weights": "methods.weights",
    "split": "data",
    "train_private": "private",
    "unlearn": "pipeline",
}


def __getattr__(name: str) -> Any:
    if name not in _TORCH_BACKED:
        raise AttributeError(f"module 'expunge' has no attribute {name!r}")
    try:
        module = importlib.import_module(f"expunge.{_TORCH_BACKED[name]}")
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise errors.MissingExtra(f"expunge.{name} needs torch: pip install 'expunge[torch]'") from error
    return getattr(module, name)


def __dir__() -> list[str]:
    return sorted(__all__)
