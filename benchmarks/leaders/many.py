"""What takes many models: KLOM, the challenge score and U-LiRA of N unlearned models, beside those of N retrained ones.

The request's rows are candidates in all of them. A coin of each model's own decides for each row whether it is learned and to be
forgotten, or never seen; initialisation, batches and noise are the model's own too. Retrained ones never saw a candidate. The
null value of each number is what a second set of N retrained models has in the place of the unlearned ones, the same coins
guessed. Unlearners that keep something of the training are left out: theirs is another training, or another model, than the
network's, and is not to be near the retrained networks.
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
from numpy.typing import NDArray

import expunge as ex
from expunge.attacks.shadow_models import Seen, coins_guessed
from expunge.audit.distance import klom
from expunge.audit.forgetting import challenge_score, forgetting_score
from expunge.audit.scores import Values
from expunge.jobs.unlearning import chosen
from leaders.measures import scores
from leaders.requests import Drawn
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
        candidates: of the request's rows.
        right: the share of right labels on rows to test and on retained rows, shape (2, N).
    """

    candidates: Seen
    right: Values

    @classmethod
    def of(cls, posed: Drawn, models: Iterable[ex.Unlearned]) -> "Said":
        """Ask every model."""
        every = [posed.candidates, posed.test, posed.parts[0]]
        told = [[scores(done, rows).clamp(-_SURE, _SURE) for rows in every] for done in models]
        labels = [rows.tensors[1] for rows in every]
        right = [[float((one[k].argmax(1) == labels[k]).double().mean()) for one in told] for k in (1, 2)]
        own, test = (torch.stack([one[k] for one in told]) for k in (0, 1))
        return cls(Seen.of(own, labels[0], test, labels[1]), np.array(right))


@dataclass(frozen=True)
class Retrained:
    """The draws of a request, and two sets of models that never saw its rows.

    Args:
        posed: the request.
        models: N.
    """

    posed: Drawn
    models: int

    @cached_property
    def draws(self) -> list[Drawn]:
        """The request, with a training and coins of its own each."""
        return [replace(self.posed, draw=k) for k in range(self.models)]

    @cached_property
    def coins(self) -> NDArray[np.bool_]:
        """Which candidates each draw learned, shape (N, candidates)."""
        return torch.stack([one.members for one in self.draws]).numpy()

    @cached_property
    def sets(self) -> tuple[Said, Said]:
        """Retrained, and retrained again."""
        more = [replace(self.posed, draw=k) for k in range(2 * self.models)]
        done = [one.trained(self.posed.parts[0], 3) for one in more]
        return Said.of(self.posed, done[: self.models]), Said.of(self.posed, done[self.models :])


def measured_of(
    coins: NDArray[np.bool_], unlearned: Said, retrained: Said, again: Said
) -> dict[str, tuple[float, float]]:
    """Each measure: its value, and its null value."""
    u, r, r2 = (said.candidates.confidence for said in (unlearned, retrained, again))
    near = klom(u, r, bins=BINS, retrained_again=r2)
    quality = forgetting_score(u, r, retrained_again=r2)
    final = challenge_score(
        quality, unlearned_test=unlearned.right[0], retrained_test=retrained.right[0],
        unlearned_retain=unlearned.right[1], retrained_retain=retrained.right[1],
    )  # fmt: skip
    own = unlearned.candidates  # which U-LiRA learns from as well; AUC alone is taken
    guessed = coins_guessed(
        coins, shadows=own, released=own, null=again.candidates, delta=BUDGET.delta, confidence=0.95
    )
    told = guessed.details["U-LiRA"]
    assert near.null is not None
    assert final.null is not None
    return {
        "KLOM": (near.value, near.null),
        "challenge score": (final.value, final.null),
        "U-LiRA": (told["attack"]["auc"], told["null"]["auc"]),
    }


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
    found = measured_of(retrained.coins, Said.of(posed, done), *retrained.sets)
    return {"seconds": seconds} | {measure: {"value": value, "null": null} for measure, (value, null) in found.items()}
