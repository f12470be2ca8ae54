"""Membership attacks on models that unlearned: can one tell what was forgotten from what was never seen?"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from expunge import _validate
from expunge.accounting import Relation
from expunge.attacks.arena import Arena, Unlearner
from expunge.attacks.attacked import Attacked
from expunge.audit import membership as scoring
from expunge.audit.evidence import Evidence, OneRun
from expunge.audit.finding import Finding
from expunge.audit.joint import joint_guesses
from expunge.audit.one_training import one_run
from expunge.audit.scores import auc, roc, tpr_at_fpr
from expunge.replicates import Stack

__all__ = ["MEMBERSHIP_ATTACKS", "Seen", "coins_guessed", "log_probability", "membership"]

Array = NDArray[np.float64]
MEMBERSHIP_ATTACKS = ("loss threshold", "LiRA", "U-LiRA", "RMIA")
_FPRS = (0.001, 0.01, 0.1)
_DIRECTION = "0.5 shows nothing; the further from it the more, on either side"
_ENOUGH = 64  # shadow models, for a variance of each candidate's own


@dataclass(frozen=True)
class Seen:
    """What models say of candidates and of the population, shapes (runs, rows).

    Args:
        confidence: logit confidence in the candidates' true labels.
        loss: of the candidates.
        probability: of the candidates' true labels.
        population: probability of the true labels of rows that no run saw.
    """

    confidence: Array
    loss: Array
    probability: Array
    population: Array

    @classmethod
    def of(cls, candidates: Tensor, labels: Tensor, population: Tensor, population_labels: Tensor) -> "Seen":
        """From logits of shape (runs, rows, classes) and labels of shape (rows,)."""
        log_p = log_probability(candidates, labels)
        true = labels.cpu().numpy()
        logits = candidates.double().cpu().numpy()
        return cls(
            confidence=np.stack([scoring.logit_confidence_from_logits(one, true) for one in logits]),
            loss=-log_p,
            probability=np.exp(log_p),
            population=np.exp(log_probability(population, population_labels)),
        )


def membership(
    arena: Arena, unlearner: Unlearner, *, delta: float = 1e-5, confidence: float = 0.95, trained: Stack | None = None
) -> Attacked:
    """Attack the candidates of an arena after an unlearner.

    The first half of the runs teaches (shadow models), the others are attacked. ε is bounded twice: by the guesses about all
    coins of one release together, the strongest of the attacked ones, which pays for their number (`joint_guesses`); and by
    right guesses pooled over the coins of the last quarter, each coin for itself, the third quarter choosing how many
    to make (`one_run`). The first is clearest where many rows leave a trace, the second where few do.

    Args:
        arena: data, coins and training.
        unlearner: what is attacked.
        delta: δ at which ε is bounded.
        confidence: of all findings together.
        trained: the trained models, where they are there already.

    Returns:
        Two findings for each attack, their null: retrained models. Details by attack: AUC, TPR at low FPR, ROC curve, and the
        same of the null; "retained": loss-threshold AUC of retained rows against rows never seen; accuracies.
    """
    _validate.whole(8, runs=arena.runs)
    before = arena.trained() if trained is None else trained
    shadows = _seen(arena, before)
    released = unlearner(arena, before.copy())
    found = coins_guessed(
        arena.coins.cpu().numpy(), shadows=shadows, released=_seen(arena, released), null=_seen(arena, arena.retrained()),
        delta=delta, confidence=confidence,
    )  # fmt: skip
    extra = {"retained": _retained(arena, released), "accuracy": _accuracy(arena, released)}
    return Attacked(findings=found.findings, details=extra | found.details)


def coins_guessed(
    coins: NDArray[np.bool_],
    *,
    shadows: Seen,
    released: Seen,
    null: Seen,
    delta: float,
    confidence: float,
    kind: type[OneRun] = OneRun,
) -> Attacked:
    """Every attack on what models said, whatever they are: see `membership`.

    Args:
        coins: who was in, shape (runs, candidates), at least 8 runs.
        shadows: what the models said before they unlearned.
        released: after it.
        null: what models said that never saw a candidate.
        delta: δ at which ε is bounded.
        confidence: of all findings together.
        kind: of the evidence, see `one_run`.
    """
    each = 1 - (1 - confidence) / (2 * len(MEMBERSHIP_ATTACKS))
    findings: list[Finding] = []
    details: dict[str, Any] = {}
    half = len(coins) // 2
    members, quarter = coins[half:], (len(coins) - half) // 2

    def pooled(s: Array) -> Evidence:
        known = (s[:quarter], members[:quarter])
        return one_run(s[quarter:], members[quarter:], practice=known, delta=delta, confidence=each, kind=kind)

    readings: dict[str, Callable[[Array], Evidence]] = {
        "": pooled,
        ", one release": lambda s: joint_guesses(s, members),
    }
    for name in MEMBERSHIP_ATTACKS:
        score = _ATTACKS[name]
        own, other = (score(s, s if name == "U-LiRA" else shadows, coins, half) for s in (released, null))
        findings += [
            Finding(
                attack=f"membership: {name}{how}", relation=Relation.RETRAINED, delta=delta, confidence=each,
                evidence=see(own), null=see(other),
            )
            for how, see in readings.items()
        ]  # fmt: skip
        details[name] = _curves(own, other, members)
    return Attacked(findings=tuple(findings), details=details)


def _seen(arena: Arena, stack: Stack) -> Seen:
    labels = arena.data.labels
    return Seen.of(
        arena.outputs(stack), labels[arena.candidates], arena.outputs(stack, arena.population), labels[arena.population]
    )  # fmt: skip


def log_probability(logits: Tensor, labels: Tensor) -> Array:
    """Of the true labels, shape (runs, rows)."""
    log_p = logits.double().log_softmax(-1)
    index = labels.expand(len(logits), -1)[..., None]
    return log_p.gather(-1, index)[..., 0].cpu().numpy()


def _by_loss(seen: Seen, _shadows: Seen, _coins: NDArray[np.bool_], half: int) -> Array:
    losses = seen.loss[half:]
    return scoring.loss_scores(losses.reshape(-1)).reshape(losses.shape)


def _by_ratio(seen: Seen, shadows: Seen, coins: NDArray[np.bool_], half: int) -> Array:
    """A candidate that too few shadow models speak of gets 0: no opinion."""
    taught, was_in = shadows.confidence[:half], coins[:half]
    ins, outs = np.where(was_in, taught, np.nan), np.where(was_in, np.nan, taught)
    known = np.minimum(was_in.sum(0), (~was_in).sum(0)) >= 2
    shared = half < _ENOUGH
    scores = np.zeros(seen.confidence[half:].shape)
    if known.any():
        for row, observed in zip(scores, seen.confidence[half:], strict=True):
            row[known] = scoring.likelihood_ratio(
                observed[known], ins[:, known], outs[:, known], shared_variance=shared
            )
    return scores


def _by_rmia(seen: Seen, shadows: Seen, _coins: NDArray[np.bool_], half: int) -> Array:
    """Reference models: the trained ones of the teaching half, in and out alike on average (the coins are fair)."""
    reference, population = shadows.probability[:half], shadows.population[:half]
    pairs = zip(seen.probability[half:], seen.population[half:], strict=True)
    return np.stack([scoring.rmia(row, reference, others, population) for row, others in pairs])


_ATTACKS: dict[str, Callable[[Seen, Seen, NDArray[np.bool_], int], Array]] = {
    "loss threshold": _by_loss,
    "LiRA": _by_ratio,
    "U-LiRA": _by_ratio,
    "RMIA": _by_rmia,
}


def _curves(own: Array, null: Array, members: NDArray[np.bool_]) -> dict[str, Any]:
    return {"attack": _curve(own, members), "null": _curve(null, members)}


def _curve(scores: Array, members: NDArray[np.bool_]) -> dict[str, Any]:
    p, q = scores[members], scores[~members]
    if min(len(p), len(q)) == 0:  # a few coins that all fell alike
        rates = {f"{rate:g}": 0.0 for rate in _FPRS}
        return {
            "auc": 0.5,
            "tpr_at_fpr": rates,
            "roc": [[0.0, 1.0], [0.0, 1.0]],
            "unit": "rate",
            "direction": _DIRECTION,
        }
    fpr, tpr = roc(p, q)
    keep = np.unique(np.searchsorted(fpr, np.geomspace(1 / len(q), 1, 60)).clip(max=len(fpr) - 1))
    return {
        "auc": auc(p, q),
        "tpr_at_fpr": {f"{rate:g}": tpr_at_fpr(p, q, rate) for rate in _FPRS},
        "roc": [fpr[keep].round(6).tolist(), tpr[keep].round(6).tolist()],
        "unit": "rate",
        "direction": _DIRECTION,
    }


def _retained(arena: Arena, stack: Stack) -> dict[str, Any]:
    """Loss-threshold AUC of retained rows against the population: what learning, not forgetting, leaves."""
    rows = arena.retain[: len(arena.population)]
    kept, never = (
        log_probability(arena.outputs(stack, r), arena.data.labels[r]).reshape(-1) for r in (rows, arena.population)
    )
    return {"auc": auc(kept, never), "direction": "0.5: not told apart"}


def _accuracy(arena: Arena, stack: Stack) -> dict[str, float]:
    found: dict[str, float] = {}
    for name, rows in (("candidates", arena.candidates), ("retained", arena.retain), ("population", arena.population)):
        right = arena.outputs(stack, rows).argmax(-1) == arena.data.labels[rows]
        found[name] = float(right.double().mean())
    return found
