"""The best use of a budget: how many noisy steps, and how much noise in each.

Let c_k be the noiseless distance after k steps and u_k the accumulated variance (see `iteration`). A budget worth μ is met
at step k exactly when sqrt(u_k) ≥ c_k/μ: the noise in the output at that moment is c_k/μ, whatever the shape of the
schedule. What can be chosen is k, and how much noise each step carries:

- noise a step, σ = c_k/(μ sqrt(Σ ρ^2j)), falls with every step up to the best prefix and is flat after it;
- noise in the output, c_k/μ, rises with the steps where 2 η C1 > η λ D (it is least at one step), else falls;
- with a ceiling on the noise of any one step, constant noise at the ceiling reaches c_k/μ first. Steps that still follow
  need no noise, and shrink it: ρ^(T-k) c_k ≤ c_T, so certifying early is never worse in the output.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from expunge import _validate
from expunge.accounting import gaussian, iteration
from expunge.accounting.bounds import ROUNDING
from expunge.accounting.calibration import calibrate
from expunge.accounting.claims import Budget, Relation
from expunge.accounting.mechanisms import GradientClipping, ScheduledGradientClipping
from expunge.accounting.search import smallest_whole
from expunge.errors import BudgetUnreachable

__all__ = ["best_schedule", "best_steps", "frontier"]

_NEAR = 1.001


def frontier(
    *,
    init_clip: float,
    grad_clip: float,
    learning_rate: float,
    weight_decay: float,
    budget: Budget,
    relation: Relation = Relation.RETRAINED,
    most_steps: int = 10_000,
    points: int = 50,
) -> list[GradientClipping]:
    """The settings that meet a budget and that no other beats in both steps and noise a step, fewest steps first.

    The list ends where more steps would save less than a thousandth of the noise.

    Args:
        init_clip: C0.
        grad_clip: C1.
        learning_rate: η.
        weight_decay: λ.
        budget: the (ε, δ) asked for.
        relation: the reading under which the budget must hold.
        most_steps: the most steps to consider.
        points: about how many settings to return, evenly spread on a logarithmic scale of steps.

    >>> for m in frontier(init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0,
    ...                   budget=Budget(epsilon=1.0, delta=1e-5), points=3):
    ...     print(f"{m.steps:3d} steps, noise {m.noise_std:.3f} a step, {m.output_noise_std:.3f} in the output")
      1 steps, noise 3.059 a step, 3.059 in the output
      6 steps, noise 0.779 a step, 1.253 in the output
     41 steps, noise 0.224 a step, 0.373 in the output
    """
    _validate.whole(most_steps=most_steps, points=points)
    one = _one_step(init_clip, grad_clip, learning_rate, weight_decay)
    longest = _enough(one, "noise_std", most_steps)
    counts = {round(longest ** (k / max(points - 1, 1))) for k in range(points)}
    return [_calibrated(one, steps, budget, relation) for steps in sorted(counts)]


def best_steps(
    *,
    init_clip: float,
    grad_clip: float,
    learning_rate: float,
    weight_decay: float,
    budget: Budget,
    least: Literal["noise_std", "output_noise_std"] = "noise_std",
    relation: Relation = Relation.RETRAINED,
    most_steps: int = 10_000,
) -> GradientClipping:
    """The number of steps with the least noise that meets a budget; of those within a thousandth of it, the fewest.

    Args:
        init_clip: C0.
        grad_clip: C1.
        learning_rate: η.
        weight_decay: λ.
        budget: the (ε, δ) asked for.
        least: "noise_std", the noise of each step, or "output_noise_std", the noise in the output.
        relation: the reading under which the budget must hold.
        most_steps: the most steps to consider.

    Raises:
        ValueError: `least` is neither.
    """
    if least not in ("noise_std", "output_noise_std"):
        raise ValueError(f"least must be 'noise_std' or 'output_noise_std', not {least!r}")
    _validate.whole(most_steps=most_steps)
    one = _one_step(init_clip, grad_clip, learning_rate, weight_decay)
    return _calibrated(one, _enough(one, least, most_steps), budget, relation)


def best_schedule(
    *,
    init_clip: float,
    grad_clip: float,
    learning_rate: Sequence[float],
    weight_decay: float,
    budget: Budget,
    most_noise: float,
    relation: Relation = Relation.RETRAINED,
) -> ScheduledGradientClipping:
    """The fewest steps of a given learning-rate schedule that meet a budget with no step noisier than `most_noise`.

    No other noise schedule under that ceiling needs fewer steps, and of those that need as many none has less noise in the
    output: constant noise is optimal. Go on with `recover`.

    Args:
        init_clip: C0.
        grad_clip: C1.
        learning_rate: η_t, as many as there may be steps.
        weight_decay: λ.
        budget: the (ε, δ) asked for.
        most_noise: the ceiling on σ_t.
        relation: the reading under which the budget must hold.

    Raises:
        BudgetUnreachable: all steps together do not suffice.
    """
    _validate.positive(most_noise=most_noise)
    longest = ScheduledGradientClipping(
        init_clip=init_clip,
        grad_clip=grad_clip,
        learning_rate=tuple(learning_rate),
        weight_decay=weight_decay,
        noise_std=(most_noise,) * len(learning_rate),
    )
    target = gaussian.mu(budget.epsilon / (1 + 2 * ROUNDING), budget.delta)
    enough = (longest.prefix_mu(relation) <= target).nonzero()[0]
    if not len(enough):
        raise BudgetUnreachable(
            f"no schedule with noise_std up to {most_noise:g} meets epsilon={budget.epsilon:g}, delta={budget.delta:g} in "
            f"{len(learning_rate)} steps under relation '{relation}': allow more noise, more steps or a smaller init_clip"
        )
    rates = longest.learning_rate[: int(enough[0]) + 1]
    return calibrate(
        lambda s: replace(longest, learning_rate=rates, noise_std=(s,) * len(rates)), budget, relation=relation
    )


def _one_step(init_clip: float, grad_clip: float, learning_rate: float, weight_decay: float) -> GradientClipping:
    return GradientClipping(
        init_clip=init_clip,
        grad_clip=grad_clip,
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        steps=1,
        noise_std=1.0,
    )


def _enough(one: GradientClipping, least: str, most_steps: int) -> int:
    """The fewest steps whose need of noise is within a thousandth of the least."""

    def need(steps: int) -> float:
        m = replace(one, steps=steps)
        return m.mu() if least == "noise_std" else m.mu() * m.output_noise_std  # σ is proportional to μ at σ = 1

    drift = one.learning_rate * one.grad_clip
    best = iteration.best_prefix(distance=one.init_clip, drift=drift, decay=one.decay, steps=most_steps)
    if least == "output_noise_std" and drift >= one.init_clip * one.decay:
        best = 1  # every further step adds more to the distance than decay takes away
    enough = smallest_whole(lambda steps: need(steps) <= need(best) * _NEAR, limit=best)
    return best if enough is None else enough


def _calibrated(one: GradientClipping, steps: int, budget: Budget, relation: Relation) -> GradientClipping:
    return calibrate(lambda s: replace(one, steps=steps, noise_std=s), budget, relation=relation)
