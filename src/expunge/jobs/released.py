"""The released weights, opened in the task's model."""

import copy
from collections import Counter
from pathlib import Path

import safetensors.torch
from torch import nn

from expunge.certificate.record import RunRecord
from expunge.errors import WeightsMismatch
from expunge.training.task import Task, accuracies, featured, labelled, outputs
from expunge.training.tensors import named_parameters
from expunge.unlearners.capabilities import Minimiser, OwnModule, Sums
from expunge.unlearners.protocol import Unlearner

__all__ = ["opened"]


def opened(task: Task, record: RunRecord, weights: Path, unlearner: Unlearner) -> dict[str, float]:
    """Load released weights into the task's model; returns its accuracies, or nothing where a head or several models were released.

    They bound nothing: the request was decided by no coin.

    Args:
        task: whose model or feature map the certificate should be about.
        record: the run of the certificate.
        weights: the released file, which `verify` has compared with it.
        unlearner: that released it.

    Raises:
        WeightsMismatch: the layers that the record covers are not those of the task's model.
    """
    sizes = [size for _, size in record.layers]
    if isinstance(unlearner, Sums | Minimiser):
        _refuse_other_head(task, sizes)
        return {}
    if isinstance(unlearner, OwnModule):
        return accuracies(task, unlearner.opened(task, weights))
    own = {name: p.numel() for name, p in named_parameters(task.model) if p.numel() and name not in record.public}
    models = len(sizes) // max(len(own), 1)
    if models > 1 and Counter(sizes) == Counter(list(own.values()) * models):
        return {}  # several of the task's model, as shards are
    if dict(record.layers) != own:
        unlike = sorted(set(record.layers) ^ set(own.items()))[:3]
        raise WeightsMismatch(
            f"the certificate's layers are not those of the task's model: (layer, weights) in one of them only: {unlike}; give "
            "the task that the certificate was issued for"
        )
    return accuracies(task, _loaded(task.model, weights))


def _refuse_other_head(task: Task, sizes: list[int]) -> None:
    rows = labelled(task, "retain")
    width, classes = featured(task, rows.take([0])).shape[1], outputs(task, rows)
    if sum(sizes) not in (classes * width, classes * (width + 1)):
        raise WeightsMismatch(
            f"the certificate covers {sum(sizes)} weights, a head on the task's {width} features has {classes} times as many"
        )


def _loaded(model: nn.Module, weights: Path) -> nn.Module:
    work = copy.deepcopy(model)
    try:
        missing = work.load_state_dict(safetensors.torch.load_file(weights), strict=False)
    except RuntimeError as error:
        raise WeightsMismatch(f"{weights} does not fit the task's model: {error}") from error
    if missing.unexpected_keys:
        raise WeightsMismatch(f"{weights} holds {missing.unexpected_keys[:3]}, which the task's model does not have")
    return work
