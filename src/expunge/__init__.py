"""Certified machine unlearning for PyTorch.

Accounting, certificates, verification and reports need no torch; the names that do load it on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

from expunge import errors
from expunge._version import __version__
from expunge.accounting import (
    Budget,
    GradientClipping,
    Guarantee,
    Kind,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Retrain,
    ScheduledGradientClipping,
    best_schedule,
    best_steps,
    calibrate,
    delta_at,
    fewest_steps,
    frontier,
    guarantee,
    interval,
)
from expunge.certificate import Certificate, issue, verify
from expunge.record import RunRecord

if TYPE_CHECKING:
    from expunge.data import Examples, commit, new_commitment_key, split
    from expunge.methods.weights import save_weights
    from expunge.pipeline import Unlearned, null_start, recover, retrain, unlearn
    from expunge.recovery import Recipe
    from expunge.task import Task

__all__ = [
    "Budget",
    "Certificate",
    "Examples",
    "GradientClipping",
    "Guarantee",
    "Kind",
    "Mechanism",
    "ModelClipping",
    "OutputPerturbation",
    "Recipe",
    "Relation",
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
    "delta_at",
    "errors",
    "fewest_steps",
    "frontier",
    "guarantee",
    "interval",
    "issue",
    "new_commitment_key",
    "null_start",
    "recover",
    "retrain",
    "save_weights",
    "split",
    "unlearn",
    "verify",
]

_TORCH_BACKED = {
    "Examples": "data",
    "Recipe": "recovery",
    "Task": "task",
    "Unlearned": "pipeline",
    "commit": "data",
    "new_commitment_key": "data",
    "null_start": "pipeline",
    "recover": "pipeline",
    "retrain": "pipeline",
    "save_weights": "methods.weights",
    "split": "data",
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
