"""Ways to unlearn, one file each; `run` carries a finished mechanism out on a model.

The classes load torch on first use; the list of their options (`expunge.unlearners.options`) needs none.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from expunge.unlearners.blockwise_gradient_clipping import BlockwiseGradientClipping, layer_sizes
    from expunge.unlearners.centre import null_start
    from expunge.unlearners.dp_training import PrivateTraining, train_private
    from expunge.unlearners.foreign import Foreign
    from expunge.unlearners.gradient_clipping import GradientClipping
    from expunge.unlearners.grid_ridge import ExactHead
    from expunge.unlearners.measured_residual import NoisyHead
    from expunge.unlearners.model_clipping import ModelClipping
    from expunge.unlearners.noisy import Noisy
    from expunge.unlearners.on_model import run
    from expunge.unlearners.output_perturbation import OutputPerturbation
    from expunge.unlearners.plain import Plain
    from expunge.unlearners.protocol import Quote, Unlearner
    from expunge.unlearners.replay import Replaying
    from expunge.unlearners.retrain import Retraining, train_from_scratch
    from expunge.unlearners.scheduled_gradient_clipping import ScheduledGradientClipping
    from expunge.unlearners.table import UNLEARNERS
    from expunge.unlearners.working import Run

__all__ = [
    "UNLEARNERS",
    "BlockwiseGradientClipping",
    "ExactHead",
    "Foreign",
    "GradientClipping",
    "ModelClipping",
    "Noisy",
    "NoisyHead",
    "OutputPerturbation",
    "Plain",
    "PrivateTraining",
    "Quote",
    "Replaying",
    "Retraining",
    "Run",
    "ScheduledGradientClipping",
    "Unlearner",
    "layer_sizes",
    "null_start",
    "run",
    "train_from_scratch",
    "train_private",
]

_WHERE = {
    "UNLEARNERS": "table",
    "BlockwiseGradientClipping": "blockwise_gradient_clipping",
    "ExactHead": "grid_ridge",
    "Foreign": "foreign",
    "GradientClipping": "gradient_clipping",
    "ModelClipping": "model_clipping",
    "Noisy": "noisy",
    "NoisyHead": "measured_residual",
    "OutputPerturbation": "output_perturbation",
    "Plain": "plain",
    "PrivateTraining": "dp_training",
    "Quote": "protocol",
    "Replaying": "replay",
    "Retraining": "retrain",
    "Run": "working",
    "ScheduledGradientClipping": "scheduled_gradient_clipping",
    "Unlearner": "protocol",
    "layer_sizes": "blockwise_gradient_clipping",
    "null_start": "centre",
    "run": "on_model",
    "train_from_scratch": "retrain",
    "train_private": "dp_training",
}


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'expunge.unlearners' has no attribute {name!r}")
    return getattr(importlib.import_module(f"expunge.unlearners.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
