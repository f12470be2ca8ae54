"""Which way to take: what each unlearner would prove, cost and read, before anything is run."""

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import fill
from typing import Any, cast

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.accounting import Budget, Relation
from expunge.data import Examples, Request
from expunge.training.task import Task
from expunge.unlearners.costs import Costs
from expunge.unlearners.protocol import Quote, Unlearner
from expunge.unlearners.table import UNLEARNERS, made

__all__ = ["Plan", "plan"]

_BUDGET = Budget(epsilon=1.0, delta=1e-5)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What every unlearner says of a request, and the one to take. `print(plan)` shows it as a table.

    Args:
        quotes: one an unlearner.
        unlearners: those that were asked, in the same order.
        best: position of the recommended one; None where none applies.
        reason: why, in a sentence.
    """

    quotes: tuple[Quote, ...]
    unlearners: tuple[Unlearner, ...]
    best: int | None
    reason: str

    @property
    def recommended(self) -> Unlearner | None:
        """The unlearner to take; None where none applies."""
        return None if self.best is None else self.unlearners[self.best]

    @property
    def name(self) -> str:
        """The name of the recommended unlearner; "none" where none applies."""
        return "none" if self.best is None else self.quotes[self.best].unlearner

    def quote(self, name: str) -> Quote:
        """The quote of the unlearner of this name; raises `KeyError`."""
        return {quote.unlearner: quote for quote in self.quotes}[name]

    @property
    def why(self) -> list[str]:
        """What speaks for each unlearner or against it, in a sentence; those of which the same is said share one."""
        said: dict[str, list[str]] = {}
        for quote in self.quotes:
            assumed = f" * Assumes {quote.assumed}." if quote.assumed else ""
            sentence = (
                f"{quote.why}. Reads {quote.reads}.{assumed}" if quote.costed else f"does not apply: {quote.why}."
            )
            said.setdefault(sentence, []).append(quote.unlearner)
        return [f"{', '.join(names)}: {sentence}" for sentence, names in said.items()]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "recommended": self.name, "reason": self.reason,
            "quotes": [quote.to_dict() for quote in self.quotes],
        }  # fmt: skip

    def __str__(self) -> str:
        width = max(len(quote.unlearner) for quote in self.quotes)
        lines = [f"{'unlearner':{width}}  {'guarantee':14}  {'steps':>6}  {'seconds':>8}"]
        for q in self.quotes:
            seconds = "" if q.seconds is None else f"{q.seconds:.3g}"
            told = f"{q.guarantee:14}  {q.steps:>6}  {seconds:>8}" if q.costed else "no"
            lines.append(f"{q.unlearner:{width}}  {told}{' *' if q.assumed else ''}")
        sentences = (*self.why, f"Recommended: {self.name}. {self.reason}.")
        return "\n".join([*lines, *(fill(sentence, 80) for sentence in sentences)])


def plan(
    task: Task,
    request: Request | None = None,
    budget: Budget = _BUDGET,
    *,
    unlearners: Iterable[Unlearner | str] | None = None,
    relation: Relation = Relation.RETRAINED,
) -> Plan:
    """Compare the ways to carry out one request; nothing is changed.

    A few training steps, and features, sums and products over at most 1,024 rows, are timed; a convex head's number of passes
    over the features is a rule of thumb, and its quote says so.

    Args:
        task: model, data and loss; `features` and `provenance` for a head, `make_model` for retraining.
        request: what is to be forgotten; None where the task's own `forget` says it.
        budget: what the certificate must meet.
        unlearners: those to compare or their names, anybody's own among them; by default all, with their default options.
        relation: the reading that is certified.

    Raises:
        ValueError: the forget set is not `Examples`, or an option is out of its range.
    """
    refuse_workers("plan")
    asked = task.parts(request)
    if not isinstance(asked.forget, Examples):
        raise ValueError("task.forget must be Examples: the plan counts and times its rows")
    ways = (
        tuple(kind() for kind in UNLEARNERS.values())
        if unlearners is None
        else tuple(made(way, {}) if isinstance(way, str) else way for way in unlearners)
    )
    for way in ways:
        if isinstance(way, type) or not isinstance(way, Unlearner):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"plan compares objects with quote, learn and forget, not {_validate.shown(way)}; see expunge.unlearners"
            )
    costs = Costs(asked)
    quotes = tuple(way.quote(asked, budget, relation, costs) for way in ways)
    best, reason = _recommend(quotes, budget)
    return Plan(quotes=quotes, unlearners=ways, best=best, reason=reason)


def _recommend(quotes: tuple[Quote, ...], budget: Budget) -> tuple[int | None, str]:
    useful = [
        k for k, q in enumerate(quotes)
        if q.applies and q.claim is not None and q.claim.meets(budget) and q.keeps and q.seconds is not None
    ]  # fmt: skip
    if not useful:
        if any(q.applies for q in quotes):
            return None, (
                "Those that apply leave so little of the trained weights, or cost what is not known, that training a new model is as good: ask for "
                "retraining too"
            )
        return (
            None,
            "No way to unlearn applies to this task; the lines above say what each of them lacks",
        )
    best = min(useful, key=lambda k: cast("float", quotes[k].seconds))
    chosen, seconds = quotes[best], cast("float", quotes[best].seconds)
    others = [cast("float", quotes[k].seconds) for k in useful if k != best]
    cheaper = (
        f"It is the cheapest that meets epsilon={budget.epsilon:g}, delta={budget.delta:g}, in about {_time(seconds)}"
    )
    if others and min(others) >= 1.5 * seconds:
        cheaper += f"; the next one takes about {_time(min(others))}"
    if chosen.assumed:
        cheaper += f". This assumes {chosen.assumed}"
    noisy = [q for q in quotes if q.applies and not q.keeps]
    if noisy:
        cheaper += (
            f". {'A noisy method is' if len(noisy) == 1 else f'{len(noisy)} noisy methods are'} passed over: at this budget the "
            "noise leaves so little of the trained weights that training a new model for as long is as good"
        )
    following = f". Next time: {chosen.next_time}" if chosen.next_time else ""
    return best, cheaper + following


def _time(seconds: float) -> str:
    return (
        f"{seconds:.2g} s"
        if seconds < 120
        else f"{seconds / 60:.0f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )
