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
    ExactRidge,
    GradientClipping,
    GridRidge,
    Guarantee,
    Kind,
    MeasuredResidual,
    Mechanism,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Remaining,
    Replay,
    Retrain,
    ScheduledGradientClipping,
    UndeclaredFeatures,
    best_schedule,
    best_steps,
    calibrate,
    delta_at,
    fewest_steps,
    frontier,
    group_epsilon_delta,
    group_mu,
    guarantee,
    interval,
)
from expunge.certificate import Certificate, compose, issue, remaining, requests_left, verify
from expunge.record import RunRecord

if TYPE_CHECKING:
    from expunge import report
    from expunge.data import Examples, Request, check_disjoint, commit, new_commitment_key, open_commitment, split
    from expunge.features import RandomFeatures, TangentFeatures
    from expunge.heads import AnalyticHead, ConvexHead, EqualScores
    from expunge.jobs.audits import audit
    from expunge.jobs.comparison import Metric, compare
    from expunge.jobs.planner import Plan, plan
    from expunge.jobs.unlearning import unlearn
    from expunge.recovery import Recipe
    from expunge.recovery.fine_tuning import recover
    from expunge.trace import Shards, Trace, rewind, train_shards, train_traced
    from expunge.training.task import Task
    from expunge.training.unlearned import Unlearned
    from expunge.training.weights import save_weights
    from expunge.unlearners.blockwise_gradient_clipping import layer_sizes
    from expunge.unlearners.dp_training import train_private
    from expunge.unlearners.null_start import null_start
    from expunge.unlearners.retrain import retrain

__all__ = [
    "AnalyticHead",
    "BlockwiseGradientClipping",
    "Budget",
    "Certificate",
    "ConvexHead",
    "DPTraining",
    "EqualScores",
    "ExactRidge",
    "Examples",
    "GradientClipping",
    "GridRidge",
    "Guarantee",
    "Kind",
    "MeasuredResidual",
    "Mechanism",
    "Metric",
    "ModelClipping",
    "OutputPerturbation",
    "Plan",
    "RandomFeatures",
    "Recipe",
    "Relation",
    "Remaining",
    "Replay",
    "Request",
    "Retrain",
    "RunRecord",
    "ScheduledGradientClipping",
    "Shards",
    "TangentFeatures",
    "Task",
    "Trace",
    "UndeclaredFeatures",
    "Unlearned",
    "__version__",
    "audit",
    "best_schedule",
    "best_steps",
    "calibrate",
    "check_disjoint",
    "commit",
    "compare",
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
    "open_commitment",
    "plan",
    "recover",
    "remaining",
    "report",
    "requests_left",
    "retrain",
    "rewind",
    "save_weights",
    "split",
    "train_private",
    "train_shards",
    "train_traced",
    "unlearn",
    "verify",
]

_TORCH_BACKED = {
    "AnalyticHead": "heads",
    "ConvexHead": "heads",
    "EqualScores": "heads",
    "Examples": "data",
    "Metric": "jobs.comparison",
    "Plan": "jobs.planner",
    "RandomFeatures": "features",
    "Recipe": "recovery",
    "Request": "data",
    "Shards": "trace",
    "TangentFeatures": "features",
    "Task": "training.task",
    "Trace": "trace",
    "Unlearned": "training.unlearned",
    "check_disjoint": "data",
    "commit": "data",
    "compare": "jobs.comparison",
    "layer_sizes": "unlearners.blockwise_gradient_clipping",
    "new_commitment_key": "data",
    "null_start": "unlearners.null_start",
    "open_commitment": "data",
    "plan": "jobs.planner",
    "recover": "recovery.fine_tuning",
    "retrain": "unlearners.retrain",
    "rewind": "trace",
    "save_weights": "training.weights",
    "split": "data",
    "train_private": "unlearners.dp_training",
    "train_shards": "trace",
    "train_traced": "trace",
    "unlearn": "jobs.unlearning",
}


_FORMERLY = {"Forget": "Request"}  # old names that scripts may use

_ROOMS = ("audit", "report")  # named at the top, loaded on first use


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"expunge.{name}")
    name = _FORMERLY.get(name, name)
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
