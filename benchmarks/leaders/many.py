"""What takes many models: KLOM, the challenge score and U-LiRA of N unlearned models, beside those of N retrained ones.

The request and its rows are the same in all; initialisation, batches and noise are not. The null value of each number is what a
second set of N retrained models has in the place of the unlearned ones. Unlearners that keep something of the training
are left out: theirs is another training, or another model, than the network's, and is not to be near the retrained networks.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor

import expunge as ex
from expunge.attacks.shadow_models import Seen, coins_guessed
from expunge.audit.distance import klom
from expunge.audit.forgetting import challenge_score, forgetting_score
from expunge.audit.scores import Values
from expunge.jobs.unlearning import chosen
from leaders.measures import scores
from leaders.requests import Posed
from leaders.sets import BUDGET
from leaders.ways import WAYS, forgotten, keeps

__all__ = ["AFFORDED", "BINS", "MODELS", "Retrained", "Said", "compared", "measured_of"]

MODELS = 24
"""N: of each unlearner, and of each of the two sets of retrained ones."""
BINS = 6
"""Of KLOM: with the authors' 20 and so few models chance alone gives 2.5 nats, with 6 about half a nat."""
AFFORDED = (("SMS spam", "random rows"), ("Adult", "random rows"))
"""Sets and requests."""
_SURE = 100.0  # scores beyond it are cut: a patched row has one without bound
Row = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Said:
    """What N models say.

    Args:
        forget: scores of the forgotten rows, shape (N, m, classes).
        test: of rows to test, shape (N, t, classes).
        right: the share of right labels on rows to test and on retained rows, shape (2, N).
    """

    forget: Tensor
    test: Tensor
    right: Values

    @classmethod
    def of(cls, posed: Posed, models: Iterable[ex.Unlearned]) -> "Said":
        """Each model is asked and let go."""
        every = [posed.ordinary, posed.test, posed.parts[0]]
        told = [[scores(done, rows).clamp(-_SURE, _SURE) for rows in every] for done in models]
        labels = [rows.tensors[1] for rows in every]
        right = [[float((one[k].argmax(1) == labels[k]).double().mean()) for one in told] for k in (1, 2)]
        return cls(torch.stack([one[0] for one in told]), torch.stack([one[1] for one in told]), np.array(right))

    def with_others(self, other: "Said") -> tuple[Tensor, Tensor]:
        """Scores of forgotten rows and rows to test, of one's own models and others' in turn."""
        pairs = ((self.forget, other.forget), (self.test, other.test))
        forget, test = (torch.stack(pair, dim=1).flatten(0, 1) for pair in pairs)
        return forget, test


@dataclass(frozen=True)
class Retrained:
    """The draws of a request, and two sets of models that never saw the rows.

    Args:
        posed: the request.
        models: N.
    """

    posed: Posed
    models: int

    @cached_property
    def draws(self) -> list[Posed]:
        """The request, with another training each."""
        return [replace(self.posed, draw=k) for k in range(self.models)]

    @cached_property
    def sets(self) -> tuple[Said, Said]:
        """Retrained, and retrained again."""
        more = [replace(self.posed, draw=k) for k in range(2 * self.models)]
        done = [one.trained(self.posed.parts[0], 3) for one in more]
        return Said.of(self.posed, done[: self.models]), Said.of(self.posed, done[self.models :])


def measured_of(posed: Posed, unlearned: Said, retrained: Said, again: Said) -> dict[str, tuple[float, float]]:
    """Each measure: its value, and its null value."""
    labels, test = posed.ordinary.tensors[1], posed.test.tensors[1]
    (u, r, r2) = (Seen.of(said.forget, labels, said.test, test).confidence for said in (unlearned, retrained, again))
    near = klom(u, r, bins=BINS, retrained_again=r2)
    quality = forgetting_score(u, r, retrained_again=r2)
    final = challenge_score(
        quality, unlearned_test=unlearned.right[0], retrained_test=retrained.right[0],
        unlearned_retain=unlearned.right[1], retrained_retain=retrained.right[1],
    )  # fmt: skip
    assert near.null is not None
    assert final.null is not None
    return {
        "KLOM": (near.value, near.null),
        "challenge score": (final.value, final.null),
        "U-LiRA": _u_lira(posed, unlearned, retrained, again),
    }


def _u_lira(posed: Posed, unlearned: Said, retrained: Said, again: Said) -> tuple[float, float]:
    """AUC: was this model retrained, or did it unlearn? Asked of every forgotten row of half of the models, the others teach."""
    labels, test = posed.ordinary.tensors[1], posed.test.tensors[1]

    def seen(said: Said) -> Seen:
        forget, others = said.with_others(retrained)
        return Seen.of(forget, labels, others, test)

    released = seen(unlearned)
    coins = np.tile([[True], [False]], (len(unlearned.forget), len(labels)))
    found = coins_guessed(
        coins, shadows=released, released=released, null=seen(again), delta=BUDGET.delta, confidence=0.95
    )  # its bounds would want a coin a row, so AUC alone is taken
    told = found.details["U-LiRA"]
    return told["attack"]["auc"], told["null"]["auc"]


def compared(retrained: Retrained, name: str) -> Row | None:
    """An unlearner's numbers, and its seconds of processor time for all requests; None for one that is left out."""
    posed = retrained.posed
    if keeps(chosen(WAYS[name](posed))):
        return None
    for one in retrained.draws:
        one.task  # noqa: B018  trained before the clock starts
    begun, done = time.process_time(), list[ex.Unlearned]()
    for one in retrained.draws:
        with TemporaryDirectory() as folder:
            try:
                done.append(forgotten(one, name, Path(folder)).done)
            except ex.errors.ExpungeError as error:
                return {"refused": f"{error}"[:300]}
    seconds = time.process_time() - begun
    found = measured_of(posed, Said.of(posed, done), *retrained.sets)
    return {"seconds": seconds} | {measure: {"value": value, "null": null} for measure, (value, null) in found.items()}
