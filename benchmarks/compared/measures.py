"""What is measured of a released model: accuracy, and how much an audit can show."""

from collections.abc import Callable
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

import expunge as ex
from compared.sets import BUDGET, Case
from expunge.accounting import MeasuredResidual, Mechanism
from expunge.attacks import residual_worlds, two_worlds
from expunge.audit import JointGuesses, joint_guesses
from expunge.audit.scores import auc

__all__ = ["CONFIDENCE", "accuracies", "guessing", "read", "worlds"]

CONFIDENCE = 0.95
Scores = Callable[[Tensor], Tensor]


def accuracies(case: Case, scores: Scores) -> dict[str, float]:
    """On rows to test, on forgotten rows (without the canaries), and on retained rows."""
    parts = {"test": case.test, "forget": case.ordinary, "retain": case.retain}
    return {name: _accuracy(scores, rows) for name, rows in parts.items()}


def guessing(case: Case, scores: Scores) -> dict[str, Any]:
    """Guess the canaries' coins from one released model, all together: what `read` makes a bound of, and AUC.

    A canary's score is its loss under a model trained on the retained rows alone, less its loss under the released one.
    """
    x, y = (t[: case.canaries] for t in case.candidates.tensors)
    reference = case.reference  # trained where it is first asked for, so outside of no_grad
    with torch.no_grad():
        easy, seen = (F.cross_entropy(f(x).double(), y, reduction="none").numpy() for f in (reference, scores))
    score, members = easy - seen, case.members[: case.canaries].numpy()
    return {"auc": auc(score[members], score[~members]), "joint": asdict(joint_guesses(score, members))}


def read(found: dict[str, Any]) -> JointGuesses:
    """What `guessing` saw, and what earlier results hold: right guesses among canaries, their number chosen on others.

    The release is compared with a certifier that saw no canary, so that the number of right guesses is binomial whichever
    canaries are guessed: the counts of earlier results can be read that way too.
    """
    if "joint" in found:
        return JointGuesses(**found["joint"])
    return JointGuesses(
        candidates=found["canaries"], weights=(1,), guesses=(found["guesses"],), correct=(found["correct"],)
    )


@lru_cache
def worlds(mechanism: Mechanism) -> float | None:
    """ε at least, of the mechanism under losses made for the purpose; None where it has no noise or cannot be run on one weight."""
    attack = residual_worlds if isinstance(mechanism, MeasuredResidual) else two_worlds
    try:
        found = attack(
            mechanism, replicates=100_000, delta=BUDGET.delta, confidence=CONFIDENCE,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    except (TypeError, ValueError):  # no noise; or blocks of more weights than one
        return None
    return max(f.epsilon for f in found.findings)


@torch.no_grad()
def _accuracy(scores: Scores, rows: ex.Examples) -> float:
    right = [scores(x).argmax(1) == y for x, y in rows.chunks(4096)]
    return float(torch.cat(right).double().mean())
