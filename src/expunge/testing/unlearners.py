"""The contract of an unlearner: what it says before a run is what it does, and a run leaves everything else as it was."""

import tempfile
from dataclasses import is_dataclass
from pathlib import Path

import torch
from torch import Tensor

from expunge.accounting import MECHANISMS, Budget, Kind, Relation, guarantee
from expunge.certificate import issue, verify
from expunge.certificate.issuing import asked_of
from expunge.data import Examples
from expunge.testing.contract import require
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned
from expunge.training.weights import save_weights
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Quote, Unlearner
from expunge.unlearners.working import Run

__all__ = ["check_unlearner"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)


def check_unlearner(
    unlearner: Unlearner,
    task: Task,
    *,
    budget: Budget = _BUDGET,
    relation: Relation = Relation.RETRAINED,
    seed: int = 0,
) -> None:
    """Hold an unlearner of one's own against its contract, on a small task that it applies to.

    It runs the unlearner a few times. Checked are: its quote changes nothing and matches the mechanism that it then runs; a
    run leaves the task's model, its data and torch's coins as they were; the same seed gives the same bits, another one other
    bits where there is noise; the model is finite and answers for every row; the record can be certified where the mechanism
    is one of the closed table, and meets what was asked.

    Args:
        unlearner: of the protocol `expunge.unlearners.Unlearner`.
        task: with `retain` and `forget` as `Examples`.
        budget: that it is run for.
        relation: the reading that is certified.
        seed: of the runs.

    Raises:
        ContractViolation: a contract is broken; the message begins with its name.
    """
    _is_a_value(unlearner)
    before, coins = _weights(task), torch.get_rng_state()
    quote = _quotes(unlearner, task, budget, relation)
    done = unlearner.forget(task, budget, relation, Run(seed=seed))
    same = all(torch.equal(a, b) for a, b in zip(before, _weights(task), strict=True))
    require(same, "leaves the task as it was", "the task's model has changed", unlearner)
    untouched = torch.equal(coins, torch.get_rng_state())
    require(untouched, "leaves torch's coins as they were", "the global generator has moved", unlearner)
    _repeats(unlearner, task, budget, relation, seed, done)
    _answers(unlearner, task, done)
    _is_certified(unlearner, quote, done, budget, relation)


def _is_a_value(unlearner: Unlearner) -> None:
    frozen = is_dataclass(unlearner) and unlearner.__dataclass_params__.frozen  # pyright: ignore
    require(bool(frozen), "is a frozen dataclass", "its options can be changed after it was made", unlearner)
    told = isinstance(unlearner.name, str) and bool(unlearner.name)  # pyright: ignore[reportUnnecessaryIsInstance]
    require(told, "has a name", f"its name is {unlearner.name!r}", unlearner)


def _quotes(unlearner: Unlearner, task: Task, budget: Budget, relation: Relation) -> Quote:
    before = _weights(task)
    quote = unlearner.quote(task, budget, relation, Costs(task))
    same = all(torch.equal(a, b) for a, b in zip(before, _weights(task), strict=True))
    require(same, "a quote changes nothing", "the task's model has changed", unlearner)
    require(
        quote.unlearner == unlearner.name, "a quote names its unlearner", f"it names {quote.unlearner!r}", unlearner
    )
    mechanism = unlearner.mechanism(task, budget, relation)
    tested = quote.applies or mechanism.kind in (Kind.NONE, Kind.BEHAVIOURAL)
    require(tested, "applies to the task of the test", f"nothing would be tested: {quote.why}", unlearner)
    if quote.applies:
        claim = guarantee(mechanism, delta=budget.delta, relation=relation)
        stated = None if quote.claim is None else quote.claim.kind
        require(stated is claim.kind, "a quote states the mechanism's kind", f"{stated}, not {claim.kind}", unlearner)
        meets = claim.meets(budget) and quote.claim is not None and quote.claim.meets(budget)
        require(meets, "a quote that applies meets the budget", f"{quote.guarantee}", unlearner)
        known = quote.seconds is not None and quote.seconds >= 0
        require(known, "a quote that applies says what it costs", f"seconds={quote.seconds!r}", unlearner)
    return quote


def _repeats(unlearner: Unlearner, task: Task, budget: Budget, relation: Relation, seed: int, first: Unlearned) -> None:
    again = unlearner.forget(task, budget, relation, Run(seed=seed))
    require(_equal(first, again), "the same seed gives the same bits", "two runs of one seed differ", unlearner)
    if first.record.mechanism.noise_draws:
        other = unlearner.forget(task, budget, relation, Run(seed=seed + 1))
        require(not _equal(first, other), "another seed gives other noise", "two seeds gave the same bits", unlearner)


def _answers(unlearner: Unlearner, task: Task, done: Unlearned) -> None:
    finite = all(bool(torch.isfinite(p).all()) for p in done.model.parameters())
    require(finite, "released weights are finite", "one is NaN or infinite", unlearner)
    rows = task.retain
    if isinstance(rows, Examples) and not rows.fields:
        scores = done.predict(rows)
        require(len(scores) == len(rows), "predict answers for every row", f"{len(scores)} of {len(rows)}", unlearner)


def _is_certified(unlearner: Unlearner, quote: Quote, done: Unlearned, budget: Budget, relation: Relation) -> None:
    mechanism = done.record.mechanism
    require(
        not quote.applies or (quote.claim is not None and mechanism.kind is quote.claim.kind),
        "a run proves what was quoted", f"{mechanism.kind}, not {quote.guarantee}", unlearner,
    )  # fmt: skip
    if MECHANISMS.get(mechanism.name) is not type(mechanism):
        return
    with tempfile.TemporaryDirectory() as folder:
        weights = Path(folder) / "model.safetensors"
        save_weights(done.model, weights)
        words = "a contract test" if done.record.coverage == "unchecked" else ""
        asked = asked_of(mechanism, budget)
        certificate = issue(done.record, released=weights, asked=asked, relation=relation, unchecked=words)
        verify(certificate, weights=weights)


def _weights(task: Task) -> list[Tensor]:
    return [t.detach().clone() for t in task.model.state_dict().values()]


def _equal(one: Unlearned, other: Unlearned) -> bool:
    pairs = zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)
