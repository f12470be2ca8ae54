"""One training, one unlearning, many coins: membership in a model too large for shadow models."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from expunge import _validate
from expunge.accounting import Relation
from expunge.attacks.attacked import Attacked
from expunge.audit.evidence import Evidence, JointGuesses, OneRun, check
from expunge.audit.finding import Finding
from expunge.audit.joint import joint_guesses
from expunge.audit.one_training import one_run
from expunge.audit.scores import auc
from expunge.data import Examples
from expunge.training.loss import Loss, scalar_loss
from expunge.training.randomness import mode

__all__ = ["canaries", "losses"]

_Learned = TypeVar("_Learned")
_Released = TypeVar("_Released")

_FEWEST = 20


def canaries(
    learn: Callable[[Examples | None], _Learned],
    forget: Callable[[_Learned, Examples | None], _Released],
    candidates: Examples,
    *,
    score: Callable[[_Released, Examples], Tensor],
    group: int = 1,
    delta: float = 1e-5,
    confidence: float = 0.95,
    generator: torch.Generator,
    relation: Relation = Relation.RETRAINED,
    kind: type[JointGuesses] | type[OneRun] = JointGuesses,
) -> Attacked:
    """Train once with a random half of the candidates, forget that half, and guess from the released model which it was.

    Every candidate has a fair coin of its own. The guesses about all of them together are compared with a certifier that
    saw none: see `JointGuesses`. The null guesses coins that were tossed afterwards.

    Args:
        learn: from the candidates that are in (None where no coin fell so) to a model trained on them and on everything
            that is always there.
        forget: from that model and those candidates to the model that is released.
        candidates: canaries. Rows that are hard to learn (rare, or with a wrong label) show the most.
        score: of what is released for every candidate, shape (candidates,): higher for "was in", e.g. minus the loss.
        group: rows that share a coin, one after another; each group is then one candidate, and its score is their sum. Rows
            at the end that fill no group are left out.
        delta: δ at which ε is bounded.
        confidence: of the bound.
        generator: of the coins.
        relation: whose certifier the claim names; for joint guesses either, since neither sees a candidate.
        kind: of the evidence. `OneRun`, or `OneRunViaCertifier`, for a guarantee that does not cover all candidates
            together, such as private training for smaller groups: then a random half of the scores decides how many guesses
            to make, and the right ones among the others are counted.

    Raises:
        ValueError: fewer than 20 candidates, or scores of another shape, NaN, or all alike; confidence out of range.

    Source: coins in one training as in Steinke, Nasr & Jagielski 2023, arXiv 2305.08846; the joint bound is derived in
    docs/audits.md.
    """
    _validate.whole(group=group)
    n = len(candidates) // group
    _validate.whole(_FEWEST, candidates=n)
    check(delta, confidence)
    coins = torch.rand(n, generator=generator) < 0.5
    rows = candidates if group == 1 else candidates.take(range(n * group))
    members_in = coins.repeat_interleave(group).nonzero().flatten()
    own = rows.take(members_in) if len(members_in) else None
    released = forget(learn(own), own)
    scores = _checked(score(released, rows), n * group).reshape(n, group).sum(1)
    members = coins.numpy()
    order = torch.randperm(n, generator=generator).numpy()
    practice, counted = order[: n // 2], order[n // 2 :]

    def evidence(truth: NDArray[np.bool_]) -> Evidence:
        if kind is JointGuesses:
            return joint_guesses(scores, truth)
        known = (scores[practice], truth[practice])
        return one_run(
            scores[counted], truth[counted], practice=known, delta=delta, confidence=confidence, kind=cast("Any", kind)
        )

    found = Finding(
        attack="canaries: one training", relation=relation, delta=delta, confidence=confidence,
        evidence=evidence(members), null=evidence((torch.rand(n, generator=generator) < 0.5).numpy()),
    )  # fmt: skip
    known = bool(members.any() and (~members).any())
    return Attacked(
        findings=(found,),
        details={
            "candidates": n,
            "auc": auc(scores[members], scores[~members]) if known else 0.5,
            "direction": "0.5 shows nothing; the further from it the more, on either side",
        },
    )


def losses(model: nn.Module, examples: Examples, *, loss: Loss) -> Tensor:
    """Minus the loss of each example alone, shape (n,), in evaluation mode: a score for `canaries`."""
    with mode(model, training=False), torch.no_grad():
        return torch.stack([-scalar_loss(loss, model, one) for one in examples.chunks(1)]).double().cpu()


def _checked(scores: Tensor, n: int) -> NDArray[np.float64]:
    if scores.shape != (n,):
        raise ValueError(f"score must return one number for each of {n} candidates, not shape {tuple(scores.shape)}")
    values = scores.detach().double().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"score is {values[~np.isfinite(values)][0]} for candidate {int((~np.isfinite(values)).argmax())}"
        )
    if (values == values[0]).all():
        raise ValueError(f"all scores are {values[0]:g}: nothing can be guessed from them")
    return values
