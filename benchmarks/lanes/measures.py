"""What is measured of a released model: accuracy, and how much an audit can show."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import MeasuredResidual, Mechanism
from expunge.attacks import residual_worlds, two_worlds
from expunge.audit import OneRun, OneRunViaCertifier, one_run
from expunge.audit.scores import auc
from lanes.sets import BUDGET, Case

__all__ = ["accuracies", "guessing", "worlds"]

CONFIDENCE = 0.95
Scores = Callable[[Tensor], Tensor]


def accuracies(case: Case, scores: Scores) -> dict[str, float]:
    """On rows to test, on forgotten rows (without the canaries), and on retained rows."""
    parts = {"test": case.test, "forget": case.ordinary, "retain": case.retain}
    return {name: _accuracy(scores, rows) for name, rows in parts.items()}


def guessing(case: Case, scores: Scores, mechanism: Mechanism | None) -> dict[str, Any]:
    """Guess the canaries' coins from one released model: ε at least, with confidence 0.95 at the budget's δ, and AUC.

    A canary's score is its loss under a model trained on the retained rows alone, less its loss under the released
    one. A random half of the canaries decides how many guesses are made; the others count (arXiv 2305.08846).
    """
    x, y = (t[: case.canaries] for t in case.candidates.tensors)
    reference = case.reference  # trained where it is first asked for, so outside of no_grad
    with torch.no_grad():
        easy, seen = (F.cross_entropy(f(x).double(), y, reduction="none").numpy() for f in (reference, scores))
    score, members = easy - seen, case.members[: case.canaries].numpy()
    order = np.random.default_rng(case.seed).permutation(len(y))
    practice, counted = order[: len(y) // 2], order[len(y) // 2 :]
    found = one_run(
        score[counted], members[counted], practice=(score[practice], members[practice]), delta=BUDGET.delta,
        confidence=CONFIDENCE, kind=OneRunViaCertifier if isinstance(mechanism, MeasuredResidual) else OneRun,
    )  # fmt: skip
    return {
        "epsilon": found.epsilon(delta=BUDGET.delta, confidence=CONFIDENCE), "auc": auc(score[members], score[~members]),
        "canaries": found.canaries, "guesses": found.guesses, "correct": found.correct,
    }  # fmt: skip


@lru_cache
def worlds(mechanism: Mechanism) -> float | None:
    """ε at least, of the mechanism under losses made for the purpose; None where it has no noise or cannot be run on one weight."""
    attack = residual_worlds if isinstance(mechanism, MeasuredResidual) else two_worlds
    try:
        found = attack(
            mechanism, replicates=100_000, delta=BUDGET.delta, confidence=CONFIDENCE,
            generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    except TypeError:
        return None
    return max(f.epsilon for f in found.findings)


@torch.no_grad()
def _accuracy(scores: Scores, rows: ex.Examples) -> float:
    right = [scores(x).argmax(1) == y for x, y in rows.chunks(4096)]
    return float(torch.cat(right).double().mean())
