"""Canaries of one training for heads: a random half of the candidates is learned and forgotten, and guessed."""

from collections.abc import Callable
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from expunge.accounting import MeasuredResidual, Relation
from expunge.attacks.attacked import Attacked
from expunge.attacks.one_training import canaries
from expunge.audit.evidence import JointGuesses, OneRun
from expunge.data import Examples, Request
from expunge.data.joins import joined
from expunge.heads import AnalyticHead, ConvexHead
from expunge.heads.analytic import GRID

__all__ = ["convex_lane", "exact_lane", "head_canaries"]

# From the rows to learn to the trained head as a layer, and to what forgets some of them and releases the rest.
Lane = Callable[[Examples], tuple[nn.Module, Callable[[Examples], nn.Module]]]

_MASKED = -1e3  # for the -inf of a class without rows


def head_canaries(
    lane: Lane,
    retain: Examples,
    candidates: Examples,
    *,
    delta: float = 1e-5,
    confidence: float = 0.95,
    generator: torch.Generator,
    relation: Relation = Relation.RETRAINED,
    kind: type[JointGuesses] | type[OneRun] = JointGuesses,
) -> Attacked:
    """`canaries` with the logarithm of a head's softmax as the score.

    Args:
        lane: what is attacked, see `exact_lane` and `convex_lane`.
        retain: features (n, d), labels (n,), ids: always there.
        candidates: likewise, at least 20, under other names.
        delta: δ at which ε is bounded.
        confidence: of the bound.
        generator: of the coins.
        relation: whose certifier the claim names.
        kind: of the evidence, see `canaries`.
    """
    forget: Callable[[Examples], nn.Module] | None = None

    def learn(own: Examples | None) -> nn.Module:
        nonlocal forget
        trained, forget = lane(joined(retain, own))
        return trained

    def release(trained: nn.Module, own: Examples | None) -> nn.Module:
        return trained if own is None or forget is None else forget(own)

    return canaries(
        learn, release, candidates, score=_score, delta=delta, confidence=confidence, generator=generator,
        relation=relation, kind=kind,
    )  # fmt: skip


def exact_lane(*, classes: int, ridge: float, rounding: float = 1e-9, grid: float | None = GRID) -> Lane:
    """The real `AnalyticHead`."""

    def lane(rows: Examples) -> tuple[nn.Module, Callable[[Examples], nn.Module]]:
        head = AnalyticHead(ridge=ridge, classes=classes, rounding=rounding, grid=grid)
        head.learn(rows.tensors[0], rows.tensors[1], ids=rows.ids)

        def forget(own: Examples) -> nn.Module:
            head.forget(own.tensors[0], own.tensors[1], ids=own.ids)
            return head.module()

        return head.module(), forget

    return lane


def convex_lane(
    mechanism: MeasuredResidual,
    *,
    classes: int,
    loss: Literal["logistic", "squared", "smooth_hinge"] = "logistic",
    generator: torch.Generator,
) -> Lane:
    """The real `ConvexHead`; its noise comes from the generator."""

    def lane(rows: Examples) -> tuple[nn.Module, Callable[[Examples], nn.Module]]:
        head = ConvexHead(
            loss=loss, regularization=mechanism.strong_convexity, classes=classes, residual=mechanism.residual,
            noise_std=mechanism.noise_std, provenance=mechanism.provenance, factor_limit=0,
        )  # fmt: skip
        trained = head.fit(rows, generator=generator, prepare=False).model
        return trained, lambda own: head.unlearn(rows, Request.rows(own.ids), generator=generator).model

    return lane


def _score(model: nn.Module, examples: Examples) -> Tensor:
    x, y = examples.tensors
    with torch.no_grad():
        scores = cast("Any", model)(x.double()).clamp(min=_MASKED).log_softmax(-1)
    return scores.gather(1, y.long()[:, None])[:, 0]
