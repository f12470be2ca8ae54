"""How far models that unlearned are from retrained ones, in an arena."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.attacks.arena import Arena, Unlearner
from expunge.audit import distance
from expunge.audit.forgetting import challenge_score, forgetting_score
from expunge.replicates import Stack, accuracy_runs

__all__ = ["distances"]

_RELEARNING_EPOCHS = 10


def distances(arena: Arena, unlearner: Unlearner, *, trained: Stack | None = None) -> dict[str, dict[str, Any]]:
    """Every distance to retraining, with its null (retrained against retrained again), unit and direction. JSON-ready.

    Args:
        arena: data, coins and training; only the forgotten candidates of each run differ between the models.
        unlearner: what is measured.
        trained: the trained models, where they are there already.
    """
    before = arena.trained() if trained is None else trained
    released = unlearner(arena, before.copy())
    retrained, again = arena.retrained(1), arena.retrained(2)  # draw 0 may be what is measured
    u, r, r2 = (arena.confidences(stack) for stack in (released, retrained, again))
    accuracy = {
        (name, part): _accuracies(arena, stack, rows)
        for name, stack in (("u", released), ("r", retrained))
        for part, rows in (("retain", arena.retain), ("test", arena.population))
    }
    forgetting = forgetting_score(u, r, retrained_again=r2)
    target = float(np.mean(_accuracies(arena, before, arena.candidates)))
    found: dict[str, distance.Distance] = {
        "forgetting score": forgetting,
        "challenge score": challenge_score(
            forgetting,
            unlearned_retain=accuracy["u", "retain"], retrained_retain=accuracy["r", "retain"],
            unlearned_test=accuracy["u", "test"], retrained_test=accuracy["r", "test"],
        ),
        "KLOM": distance.klom(u, r, retrained_again=r2),
        "agreement": distance.agreement(*(_predictions(arena, s) for s in (released, retrained))),
        "calibration error": _calibration(arena, released, retrained),
        "relearning time": distance.relearning_time(
            _relearned(arena, released), target, retrained=_relearned(arena, retrained)
        ),
    }  # fmt: skip
    return {name: _plain(one) for name, one in found.items()}


def _plain(one: distance.Distance) -> dict[str, Any]:
    """Without what is told of every example; infinite as a word."""
    fields = {name: getattr(one, name) for name in ("value", "null", "matched", "unit", "direction")}
    return {name: "infinite" if value == float("inf") else value for name, value in fields.items()}


def _accuracies(arena: Arena, stack: Stack, rows: torch.Tensor) -> NDArray[np.float64]:
    return accuracy_runs(stack, [arena.data.batch(rows)]).cpu().numpy()


def _predictions(arena: Arena, stack: Stack) -> NDArray[np.int64]:
    return arena.outputs(stack, arena.population).argmax(-1).cpu().numpy()


def _calibration(arena: Arena, released: Stack, retrained: Stack) -> distance.Distance:
    """Of the first run's models."""
    labels = arena.data.labels[arena.population].cpu().numpy()
    u, r = (arena.outputs(s, arena.population)[0].double().softmax(-1).cpu().numpy() for s in (released, retrained))
    return distance.calibration_error(u, labels, retrained=r)


def _relearned(arena: Arena, stack: Stack) -> list[float]:
    """Mean accuracy on the candidates while all of them are trained on, after 0, 1, ... epochs."""
    learning = stack.copy()
    found = [float(np.mean(_accuracies(arena, learning, arena.candidates)))]
    rows = arena.candidates.expand(arena.runs, -1)
    for epoch in range(_RELEARNING_EPOCHS):
        arena.train(learning, rows, 1, purpose=20 + epoch, learning_rate=arena.recipe.learning_rate / 10)
        found.append(float(np.mean(_accuracies(arena, learning, arena.candidates))))
    return found
