"""Newton's method with conjugate gradients, stopped by a measured and certified gradient norm.

Nothing here is trusted: directions, preconditioners and float32 products may be as wrong as they like, since what the
certificate rests on is `Measured.certified` at the point that is returned.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from math import inf
from typing import Protocol

import torch
from torch import Tensor

from expunge._progress import track
from expunge.errors import RunError
from expunge.heads.near import Near
from expunge.heads.objectives import Measured, Objective

__all__ = ["Preconditioner", "Solution", "Step", "minimise"]

_MOST_STEPS = 100
_MOST_PRODUCTS = 1000  # in one direction
_FINEST = 1e-6  # relative, of the gradient: what float32 tells apart from zero
_SHRINK = 0.5  # of the gradient in a round: by less, the next is better begun from a measured point
_ROUGH = 0.1  # relative, to which a round solves where a quadratic describes F badly, or may
_ARMIJO = 1e-4
_CUTS = 60  # of a step, each to between a hundredth and a half
_FALL = 1e-4  # relative, of the objective: below it a step is no progress by that
_VALUE_ROUNDING = 1e-12  # relative, of the objective's value: differences below it say nothing
_PATIENCE = 6  # steps without progress


class Preconditioner(Protocol):
    """An approximate inverse of the Hessian, symmetric and positive definite."""

    def at(self, here: Measured) -> Callable[[Tensor], Tensor]:
        """The function r -> M r, shapes (outputs, D), for directions from this point."""
        ...


@dataclass(frozen=True)
class Step:
    """One accepted step: certified residual after it, length of the step, Hessian products for its direction."""

    residual: float
    length: float
    products: int


@dataclass(frozen=True, eq=False)
class Solution:
    """Where the search ended. Secret: all of it depends on the rows of the start.

    Args:
        weights: shape (outputs, D), float64.
        residual: an upper bound on the norm of the exact gradient, rounding included.
        rounding: the part of it that bounds rounding.
        start: the certified residual of the start.
        steps: what was done.
    """

    weights: Tensor
    residual: float
    rounding: float
    start: float
    steps: tuple[Step, ...] = field(default=())


def minimise(objective: Objective, start: Tensor, *, residual: float, preconditioner: Preconditioner) -> Solution:
    """The first point of a Newton-CG search whose certified gradient norm is at most `residual`.

    Directions solve H p = -g by preconditioned conjugate gradients, through several rounds where F is near its quadratic
    (`_direction`), which makes the search converge faster than linearly; where they lead uphill, or a step had to be cut,
    there is one round. A step is halved until F falls by Armijo's rule, up to the rounding of F. From any
    start this converges for a strongly convex F with a Lipschitz gradient (Nocedal & Wright 2006, sections 3.2 and 7.1).

    Args:
        objective: F.
        start: shape (outputs, D), float64.
        residual: β, the target.
        preconditioner: for the conjugate gradients.

    Raises:
        RunError: β is below what float64 can certify here (the message says what is reachable), or the search stalls: no
            step along the direction lowers the objective beyond its rounding, or many lower it hardly.
        NonFinite: see `Objective.measure`.
    """
    here, w = objective.measure(start), start
    first, done, best, idle = here.certified, list[Step](), here, 0
    exact = careful = False

    def steps() -> Iterator[None]:
        nonlocal here, w, best, idle, exact, careful
        while here.certified > residual:
            if here.bound * (1 + 1e-6) >= residual and here.norm <= here.bound:
                raise RunError(_unreachable(residual, here))
            if len(done) == _MOST_STEPS or (idle == _PATIENCE and exact):
                raise RunError(_stalled(residual, best, len(done)))
            exact = exact or idle == _PATIENCE  # from now on all products in float64
            idle = 0 if idle == _PATIENCE else idle
            near = Near(objective, w, torch.float64 if exact else torch.float32)
            room = residual - here.bound
            direction, products = _direction(near, here, preconditioner, room, single=careful or exact)
            found = _line_search(objective, w, here, direction) if bool(torch.isfinite(direction).all()) else None
            if found is None and exact:
                raise RunError(_stalled(residual, best, len(done)))
            if found is None:  # several rounds may lead uphill: first without them, then in float64
                exact, careful = careful, True
                continue
            before, (here, w, length) = here, found
            done.append(Step(here.certified, length, products))
            careful = length < 1.0
            fallen = before.value - here.value > _FALL * abs(before.value)
            idle = 0 if here.norm < 0.9 * best.norm or fallen else idle + 1
            best = min(best, here, key=lambda m: m.norm)
            yield

    for _ in track(steps(), total=_MOST_STEPS, label="newton"):
        pass
    return Solution(w, here.certified, here.bound, first, tuple(done))


def _direction(
    near: Near, here: Measured, preconditioner: Preconditioner, room: float, *, single: bool = False
) -> tuple[Tensor, int]:
    """Newton's method from `here` in the arithmetic of `near`, to half the room that the rounding bound leaves.

    Each round solves H p = -g at the point reached and moves there: to a tenth, and once a round has shown F to be near its
    quadratic, as far as that one will hold. It ends at what that arithmetic tells apart from zero, and before a round that
    does not shrink the gradient; with `single` after the first. Returns the way gone, and the number of products.
    """
    goal = max(0.5 * room, _FINEST * here.norm)
    gone, left, products, share, bent = torch.zeros_like(here.gradient), here.gradient, 0, _ROUGH, inf
    while True:
        size = float(left.norm())
        tolerance = max(share * size, 0.5 * goal)
        precondition = preconditioner.at(here if near.spread is None else replace(here, spread=near.spread))
        step, linear, used = _solve(near.product, left, precondition, tolerance)
        products += used
        if single or bent * size**2 + tolerance <= goal:
            return gone + step, products
        now = here.gradient + near.move(gone + step)
        shrunk, first, products = float(now.norm()), bent == inf, products + 1
        if first or shrunk < size:
            gone = gone + step
        if not goal < shrunk < _SHRINK * size:
            return gone, products
        beyond = float((now - linear).norm()) / size  # what the quadratic did not say
        left, bent = now, beyond / size
        share = min(_ROUGH, bent * shrunk) if beyond < _ROUGH else _ROUGH


def _solve(
    hessian: Callable[[Tensor], Tensor], gradient: Tensor, precondition: Callable[[Tensor], Tensor], tolerance: float
) -> tuple[Tensor, Tensor, int]:
    """Conjugate gradients for H p = -g: p, the gradient g + H p that is left by them, and the number of products.

    Ends early where the curvature is not positive, which only rounding can bring about.
    """
    direction, r = torch.zeros_like(gradient), -gradient
    z = precondition(r)
    q, rho, products = z.clone(), float((r * z).sum()), 0
    while float(r.norm()) > tolerance and products < _MOST_PRODUCTS:
        bent = hessian(q)
        products += 1
        curvature = float((q * bent).sum())
        if not (curvature > 0 and rho > 0):
            return (direction if products > 1 else -gradient), -r, products
        direction += rho / curvature * q
        r -= rho / curvature * bent
        z = precondition(r)
        rho, before = float((r * z).sum()), rho
        q = z + rho / before * q
    return direction, -r, products


def _line_search(
    objective: Objective, w: Tensor, here: Measured, direction: Tensor
) -> tuple[Measured, Tensor, float] | None:
    """The first length from 1 downwards that satisfies Armijo's rule, cut by the parabola through what is known.

    None where there is none: the direction does not descend, or only by what rounding hides.
    """
    slope = float((here.gradient * direction).sum())
    if not slope < 0:
        return None
    slack, length = _VALUE_ROUNDING * max(1.0, abs(here.value)), 1.0
    for _ in range(_CUTS):
        point = w + length * direction
        if torch.equal(point, w):
            return None
        there = objective.measure(point)
        if there.value <= here.value + _ARMIJO * length * slope + slack:
            return there, point, length
        bend = there.value - here.value - slope * length
        length *= min(0.5, max(0.01, -slope * length / (2 * bend)))
    return None


def _unreachable(residual: float, here: Measured) -> str:
    """Rounding is what stands in the way."""
    return (
        f"residual={residual:g} cannot be certified in float64: {here.norm:.3g} was measured, and rounding may add "
        f"{here.bound:.3g}. residual={2 * max(here.bound, here.norm):.2g} can be reached on these rows"
    )


def _stalled(residual: float, best: Measured, steps: int) -> str:
    """The search is what stands in the way, unless rounding does."""
    if best.bound >= residual:
        return f"no progress after {steps} steps: {_unreachable(residual, best)}"
    return (
        f"the search stalls after {steps} steps at a gradient of norm {best.norm:.3g}, above residual={residual:g}; it is not "
        f"rounding, which may add {best.bound:.3g}. The objective is too ill-conditioned for it: scale the features to one "
        "size, or use a larger regularization"
    )
