"""The least noise, or the fewest steps, that meet a budget. Both end on the safe side."""

from collections.abc import Callable
from math import inf, log
from typing import TypeVar

from expunge import _validate
from expunge.accounting.bounds import ROUNDING, check_kind, guarantee, log_delta_of
from expunge.accounting.claims import Budget, Relation
from expunge.accounting.protocol import Mechanism
from expunge.accounting.search import smallest, smallest_whole
from expunge.errors import BudgetUnreachable

__all__ = ["calibrate", "fewest_steps", "meets"]

M = TypeVar("M", bound=Mechanism)


def meets(mechanism: Mechanism, budget: Budget, relation: Relation = Relation.RETRAINED) -> bool:
    """Whether the claim of `mechanism`, as it would be published, is within `budget`; where nothing is claimed it is not."""
    return guarantee(mechanism, delta=budget.delta, relation=relation).meets(budget)


def calibrate(family: Callable[[float], M], budget: Budget, *, relation: Relation = Relation.RETRAINED) -> M:
    """The mechanism of `family` with the least parameter that meets `budget`, to a relative 1e-10.

    Args:
        family: from a positive number (usually `noise_std`) to a finished mechanism; more of it must never prove less.
        budget: the (ε, δ) asked for.
        relation: the reading under which the budget must hold.

    Raises:
        BudgetUnreachable: no value up to 1e300 meets the budget.
        ValueError: every value meets it: the parameter does not matter to this family.

    >>> from expunge.accounting.mechanisms import OutputPerturbation
    >>> mechanism = calibrate(lambda s: OutputPerturbation(init_clip=0.1, noise_std=s), Budget(epsilon=1.0, delta=1e-5))
    >>> round(mechanism.noise_std, 6)
    0.746126
    """
    relation = Relation(relation)
    target = log(budget.delta)
    # Aimed below the budget by twice the rounding: what passes there is published, rounded up, within the budget.
    aim = budget.epsilon / (1 + 2 * ROUNDING)

    def excess(x: float) -> float:
        mechanism = family(x)
        check_kind(mechanism)
        return log_delta_of(mechanism, aim, relation) - target

    value = smallest(excess, tolerance=1e-12)
    if 1e-299 < value < inf:
        return _met(family, value, budget, relation)
    if value == inf:
        raise BudgetUnreachable(_unreachable(budget, relation, f"{family(1.0)} with any parameter up to 1e300"))
    raise ValueError(f"the family meets {budget} for every parameter: {family(1.0)} does not depend on it")


def _met(family: Callable[[float], M], value: float, budget: Budget, relation: Relation) -> M:
    """The mechanism at `value`, or at the least more that is published within the budget.

    Where ε is so small that a relative 1e-10 of it moves log δ by less than its rounding, δ is met at the aim while the
    ε that is found again, and published, lies a little above it.
    """
    nudge = 1e-12
    while not meets(family(value), budget, relation):
        if nudge > 1:
            raise BudgetUnreachable(
                _unreachable(budget, relation, f"{family(value)}, whose epsilon floats do not find")
            )
        value, nudge = value * (1 + nudge), 4 * nudge
    return family(value)


def fewest_steps(
    family: Callable[[int], M],
    budget: Budget,
    *,
    relation: Relation = Relation.RETRAINED,
    limit: int = 100_000,
) -> M:
    """The mechanism of `family` with the fewest steps that meet `budget`.

    Args:
        family: from a number of steps (1, 2, ...) to a finished mechanism.
        budget: the (ε, δ) asked for.
        relation: the reading under which the budget must hold.
        limit: the most steps to consider.

    Raises:
        BudgetUnreachable: more steps do not help, or `limit` steps do not suffice. More noise or a smaller radius would.
    """
    relation = Relation(relation)
    _validate.whole(limit=limit)
    steps = smallest_whole(lambda n: meets(family(n), budget, relation), limit=limit)
    if steps is None:
        raise BudgetUnreachable(_unreachable(budget, relation, f"{family(limit)}, {limit} steps and fewer"))
    return family(steps)


def _unreachable(budget: Budget, relation: Relation, tried: str) -> str:
    return (
        f"no setting meets epsilon={budget.epsilon:g}, delta={budget.delta:g} under relation '{relation}': tried {tried}. "
        "Use more noise, a smaller clip, or a larger budget; retraining meets every budget."
    )
