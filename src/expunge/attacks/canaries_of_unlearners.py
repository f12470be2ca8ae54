"""Canaries of one training, for any unlearner: it learns a random half of them, forgets it, and the coins are guessed."""

import tempfile
from dataclasses import replace
from functools import partial
from math import inf
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from expunge.attacks.attacked import Attacked
from expunge.attacks.candidates import candidates_of, enough, named
from expunge.attacks.heads import differences
from expunge.attacks.one_training import canaries, losses
from expunge.attacks.parts import How, Part, left_out
from expunge.audit.evidence import OneRun
from expunge.audit.measurement import Measurement, Shares, predicted_information
from expunge.data import Examples
from expunge.data.joins import joined
from expunge.errors import ExpungeError, TaskError
from expunge.training.public_parts import keeping_public
from expunge.training.scores import label_of
from expunge.training.task import Task, answers
from expunge.training.unlearned import Unlearned
from expunge.unlearners.capabilities import AtOnce, Fresh, SameBits
from expunge.unlearners.protocol import Unlearner
from expunge.unlearners.retrain import train_from_scratch
from expunge.unlearners.working import Run

__all__ = ["canaries_part", "score", "unlearner_canaries"]

_MASKED = -1e3  # for the -inf of a class without rows
_UNDECLARED = "not declared"  # by the certificate; heads are run all the same, and no certificate is issued here


def canaries_part(how: How) -> Part:
    """One learning and one forgetting, by nothing but the protocol of unlearners; the candidates are the task's rows."""
    try:
        retain = named("retain", how.task.retain)
        candidates, where = enough(*candidates_of(how.task))
        found = unlearner_canaries(how, retain, candidates)
    except (ExpungeError, ValueError, TypeError) as error:
        return left_out(error)
    assumed = {"assumed": dict(how.assumed)} if how.assumed else {}
    return list(found.findings), found.details | {"candidates": where} | assumed


def unlearner_canaries(how: How, retain: Examples, candidates: Examples) -> Attacked:
    """Learn the retained rows and a random half of the candidates, forget that half, and guess which it was.

    All candidates are guessed together where the claim covers a forget set of so many rows. Where it covers small groups
    alone, and the unlearner releases what it learned, each group of that size has a coin, and each is guessed for itself.
    Details "measurements": the share of right answers on the rows that were in, beside those that never were. Details
    "bits", of an unlearner that claims the bits of never having learned: how many differ from a training that never did.

    Args:
        how: the unlearner, the claim, the task, seeds.
        retain: rows that are always there.
        candidates: canaries, at least 20 (or 20 groups), under other names.

    Raises:
        ValueError: too few candidates, or no release is covered by the claim for so many.
        ExpungeError, TypeError: what the unlearner refuses.
    """
    with tempfile.TemporaryDirectory() as home:
        return _Attack(how, retain, candidates, Path(home)).made()


class _Attack:
    """One learning, one forgetting."""

    def __init__(self, how: How, retain: Examples, candidates: Examples, home: Path) -> None:
        self.how, self.retain, self.candidates, self.home = how, retain, candidates, home
        provenance = how.task.declared or _UNDECLARED
        self.task = replace(how.task, data=None, retain=retain, forget=candidates, provenance=provenance)
        self.coins = torch.Generator().manual_seed(how.seed + 4)
        self.extra: dict[str, Any] = {}

    def made(self) -> Attacked:
        """All candidates together where the claim covers so many; else groups, each for itself."""
        how = self.how
        largest = float(getattr(how.mechanism, "group_size", inf))  # the one bound on a forget set, see `verify`
        fields: dict[str, Any] = {
            "score": partial(score, task=self.task), "delta": how.delta, "confidence": how.confidence,
            "generator": self.coins,
        }  # fmt: skip
        if len(self.candidates) <= largest:
            found = canaries(self.learned, self.forgotten, self.candidates, **fields)
        else:
            fields |= {"group": int(largest), "kind": OneRun}
            found = canaries(self.learned, self.as_learned, self.candidates, **fields)
        return replace(found, details=found.details | self.extra)

    def learned(self, own: Examples | None) -> Unlearner:
        """Of the retained rows and those that are in; one that keeps nothing finds a model trained on them in the task."""
        before, rows = self.how.unlearner, joined(self.retain, own)
        with keeping_public(self.task) as task:
            after = before.learn(task, rows, self._run("learned"))
            if after is before and not isinstance(before, Fresh):
                self.task = replace(self.task, model=self._trained(task, rows))
        return after

    def forgotten(self, learned: Unlearner, own: Examples | None) -> Unlearned:
        """After a request for all that are in."""
        if own is None:
            raise ValueError("no coin fell so that a row is learned: take another seed")

        with keeping_public(replace(self.task, forget=own)) as task:
            done = learned.forget(task, self.how.budget, self.how.relation, self._run(None))
        if isinstance(learned, SameBits):
            never = learned.never(self.task, self.retain, self._run("never"))
            self.extra["bits"] = _compared(done.model, never)
        self._measure(done, own, "learned and forgotten")
        return done

    def as_learned(self, learned: Unlearner, own: Examples | None) -> Unlearned:
        """What is released whatever is asked: a claim about small groups covers each group of this one release."""
        covers = self.how.mechanism.covers
        if not isinstance(learned, AtOnce):
            raise ValueError(
                f"'{learned.name}' covers {covers}, and answers each request by a run of its own: no release is shared by many"
            )
        done = learned.released()
        if done.record.mechanism != self.how.mechanism:
            raise ValueError(f"what was learned proves what {done.record.mechanism} claims, not {self.how.mechanism}")
        if own is not None:
            self._measure(done, own, "learned")
        return done

    def _trained(self, task: Task, rows: Examples) -> nn.Module:
        if task.make_model is None:
            raise TaskError("the task has no make_model: no model can be trained with half of the candidates")
        procedure, coins = self.how.procedure, torch.Generator().manual_seed(self.how.seed + 5)
        done = train_from_scratch(
            task.make_model, rows, loss=task.loss, epochs=procedure.training_epochs, recipe=procedure.recipe,
            generator=coins,
        )  # fmt: skip
        return done.model

    def _run(self, folder: str | None) -> Run:
        return Run(folder=None if folder is None else self.home / folder, seed=self.how.seed)

    def _measure(self, done: Unlearned, own: Examples, what: str) -> None:
        """The share of right answers on the rows that were in, against those that were out; and what labels tell of that."""
        inside = set(own.ids)
        out = self.candidates.take([k for k, name in enumerate(self.candidates.ids) if name not in inside])
        try:
            hits, null = (_right(self.task, done, rows) for rows in (own, out))
        except (ExpungeError, ValueError, TypeError) as error:
            self.extra["accuracy of canaries"] = f"not measured: {error}"
            return
        measured = Measurement(
            name=f"accuracy on rows {what}, beside rows never seen", unit="share of right answers",
            direction="above its null: more was kept of the rows; below: less is right than of rows never seen",
            confidence=self.how.confidence,
            evidence=Shares(hits=int(hits.sum()), of=len(hits), null_hits=int(null.sum()), null_of=len(null)),
        )  # fmt: skip
        told = _told(done, own, out, self.how.confidence)
        self.extra["measurements"] = [one.to_dict() for one in (measured, *told)]


def score(done: Unlearned, rows: Examples, *, task: Task) -> Tensor:
    """For "was in": minus the task's loss of each row alone; of a head the logarithm of its softmax. Shape (rows,)."""
    if done.features is None:
        return losses(done.model, rows, loss=task.loss)
    said = done.predict(rows).double().cpu().clamp(min=_MASKED).log_softmax(-1)
    return said.gather(1, rows.tensors[1].cpu().long()[:, None])[:, 0]


def _right(task: Task, done: Unlearned, rows: Examples) -> Tensor:
    """1 for a right answer and 0 for a wrong one, shape (rows,)."""
    if done.features is None:
        found = answers(done.model, rows, task.accuracy)
    else:
        found = (done.predict(rows).argmax(1).cpu() == rows.tensors[1].cpu()).double()
    if not bool(((found == 0) | (found == 1)).all()):
        raise ValueError("answers are not right or wrong: task.accuracy returns other numbers than 0 and 1")
    return found


def _told(done: Unlearned, own: Examples, out: Examples, confidence: float) -> list[Measurement]:
    """I of the predicted labels and the coins, beside that of the true labels; nothing where there are no such labels."""
    try:
        scores, true = ([of(rows) for rows in (own, out)] for of in (done.predict, _labels))
        predicted = [part.argmax(1).cpu().numpy() for part in scores]
        return [
            predicted_information(
                (predicted[0], predicted[1]), (true[0], true[1]), labels=scores[0].shape[1],
                against="rows never seen; the null is that of the true labels", confidence=confidence,
            )
        ]  # fmt: skip
    except (ExpungeError, ValueError, TypeError, IndexError):
        return []


def _labels(rows: Examples) -> Any:
    """The true labels, whole numbers, shape (rows,)."""
    return label_of(rows.batch(slice(None))).cpu().numpy()


def _compared(released: nn.Module, never: nn.Module) -> dict[str, Any]:
    """Weights and buffers bit by bit, in double precision, which keeps every bit of single precision and of counters."""
    one, other = (
        torch.cat([t.detach().cpu().double().reshape(-1) for t in (*model.parameters(), *model.buffers())])
        for model in (released, never)
    )
    if one.shape != other.shape:
        return {"differ": 1.0, "largest": None, "unit": "share of weights; not of one shape"}
    return differences(one, other) | {"unit": "share of weights; size of a weight"}
