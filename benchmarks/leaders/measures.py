"""What is measured of a released model, each number beside what it is where nothing was left: that of a retrained model."""

import copy
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import MeasuredResidual, Mechanism
from expunge.attacks import residual_worlds, two_worlds
from expunge.audit import joint_guesses, predicted_information
from expunge.audit.scores import auc
from leaders.requests import Coined, Posed
from leaders.sets import BUDGET

__all__ = ["CONFIDENCE", "guessing", "measured", "relearned", "worlds"]

CONFIDENCE = 0.95
REPLICATES = 100_000  # of each of two worlds
_AT_ONCE = 4096
_LARGE = 1e9
_EPOCHS = 10  # of relearning, at most


def measured(posed: Posed, done: ex.Unlearned) -> dict[str, float | None]:
    """Of a release: accuracies, membership, information, relearning; None where a number has no meaning or cannot be had."""
    parts = {"test": posed.test, "forget": posed.ordinary, "retain": posed.task.retain}
    released = {part: scores(done, rows) for part, rows in parts.items()}
    labels = {part: rows.tensors[1] for part, rows in parts.items()}
    found: dict[str, float | None] = {
        f"accuracy on {part}": float((released[part].argmax(1) == labels[part]).double().mean()) for part in released
    }
    if posed.mislabelled is not None:  # the label that is true, beside the one that was learned
        x, true = posed.mislabelled
        found["true label on forget"] = float((scores(done, ex.Examples(x, true)).argmax(1) == true).double().mean())
    return found | {
        "membership": _membership(released, labels),
        "information": _information(posed, released),
        "relearning": relearned(posed, done.model) if done.features is None else None,
    }


def guessing(posed: Coined, done: ex.Unlearned) -> dict[str, Any]:
    """Guess the canaries' coins from one released model, all together: the evidence of a joint audit, and AUC.

    A canary's score is its loss under a model trained on the retained rows alone, less its loss under the released one.
    """
    canaries = posed.candidates.take(range(posed.canaries))
    x, y = canaries.tensors
    reference = posed.reference  # trained where it is first asked for, so outside of no_grad
    with torch.no_grad():
        said = reference(x).double(), scores(done, canaries)
    easy, seen = (F.cross_entropy(z, y, reduction="none").nan_to_num(nan=_LARGE, posinf=_LARGE).numpy() for z in said)
    score, members = easy - seen, posed.members[: posed.canaries].numpy()
    return {"auc": auc(score[members], score[~members]), "joint": asdict(joint_guesses(score, members))}


@lru_cache
def worlds(mechanism: Mechanism) -> float | None:
    """ε at least, of a noisy mechanism on one weight under losses made for the purpose; None where it cannot be run on one."""
    attack = residual_worlds if isinstance(mechanism, MeasuredResidual) else two_worlds
    try:
        found = attack(
            mechanism, replicates=REPLICATES, delta=BUDGET.delta, confidence=CONFIDENCE,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    except (TypeError, ValueError):
        return None
    return max(f.epsilon for f in found.findings)


def relearned(posed: Posed, model: nn.Module) -> float:
    """Epochs on the forgotten rows, at the rate of training, until the trained model's accuracy on them is reached; 10 at most."""
    rows, s = posed.task.forget, posed.setting
    target = _right(posed.task.model, rows)
    work = copy.deepcopy(model).train()
    able = [p for p in work.parameters() if p.requires_grad]
    optimizer, coins = torch.optim.SGD(able, lr=s.recipe.learning_rate), torch.Generator().manual_seed(posed.seed)
    for epoch in range(_EPOCHS):
        if _right(work, rows) >= target - 1e-12:
            return float(epoch)
        for part in torch.randperm(len(rows), generator=coins).split(s.recipe.batch_size):
            optimizer.zero_grad()
            posed.task.loss(work, rows.batch(part)).backward()
            optimizer.step()
    return float(_EPOCHS)


def scores(done: ex.Unlearned, rows: ex.Examples) -> Tensor:
    """Of rows, shape (n, classes), in double precision."""
    return torch.cat([done.predict(ex.Examples(*part)).double() for part in rows.chunks(_AT_ONCE)])


@torch.no_grad()
def _right(model: nn.Module, rows: ex.Examples) -> float:
    model.eval()
    right = sum(int((model(x).argmax(1) == y).sum()) for x, y in rows.chunks(_AT_ONCE))
    model.train()
    return right / len(rows)


def _membership(scores: dict[str, Tensor], labels: dict[str, Tensor]) -> float | None:
    """|AUC - 1/2| + 1/2 of the loss between forgotten rows and rows to test; either side tells: low losses, or patched ones."""
    if len(labels["forget"]) < 2:
        return None
    every = (F.cross_entropy(scores[part], labels[part], reduction="none") for part in ("forget", "test"))
    found = auc(*(losses.nan_to_num(posinf=_LARGE).numpy() for losses in every))  # of a class of which nothing is left
    return max(found, 1 - found)


def _information(posed: Posed, scores: dict[str, Tensor]) -> float:
    kept = scores["retain"].argmax(1).numpy()
    labels = (scores["forget"].argmax(1).numpy(), kept)
    found = predicted_information(labels, labels, labels=posed.setting.classes, against="retained rows")
    return float(found.evidence.values(found.confidence)["value"])
