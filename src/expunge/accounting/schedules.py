"""Shifted interpolation along schedules that change from step to step; the theorem and its proof stand in `iteration`.

Projection. If both chains are projected onto a set of diameter q_t after step t, then z_t ≤ q_t at no cost, and the
iteration may as well start there: the bound is the least over such starts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import ArrayLike, NDArray

from expunge import _validate

__all__ = ["Path", "path", "scheduled"]

_EPS = 2.0**-52
_MOST_WORK = 2 * 10**8  # steps times starts that `scheduled` follows; starts beyond are skipped, which is only larger


@dataclass(frozen=True)
class Path:
    """Two chains without noise, and the noise, after each of T steps.

    Args:
        distance: c_1 ... c_T, shape (T,).
        noise_std: sqrt(u_1) ... sqrt(u_T), shape (T,).
    """

    distance: NDArray[np.float64]
    noise_std: NDArray[np.float64]

    @property
    def mu(self) -> NDArray[np.float64]:
        """μ_1 ... μ_T, each the bound for ending there, rounded up; infinite where floats end."""
        steps = np.arange(1, len(self.distance) + 1)
        with np.errstate(all="ignore"):
            ratio = self.distance / self.noise_std * (1 + 4 * _EPS * (steps + 2))
        return np.where(np.isnan(ratio), inf, ratio)


def path(*, distance: float, drift: ArrayLike, decay: ArrayLike, noise_std: ArrayLike) -> Path:
    """c_k and sqrt(u_k) for every prefix of a schedule, in O(T).

    Args:
        distance: D ≥ 0, between the two starts.
        drift: s_t ≥ 0, shape (T,).
        decay: 1 - ρ_t in [0, 1], shape (T,).
        noise_std: σ_t > 0, shape (T,).

    Raises:
        TypeError, ValueError: a schedule is empty, of another length than the others, not finite or out of range; the
            message names the schedule, the step and the value.
    """
    _validate.non_negative(distance=distance)
    schedules = _validate.schedules(
        drift=(drift, 0.0, inf), decay=(decay, 0.0, 1.0), noise_std=(noise_std, _validate.LEAST, inf)
    )
    largest = float(schedules["noise_std"].max())
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        drift, noise_std = schedules["drift"] / largest, schedules["noise_std"] / largest
        c, u = _accumulate(distance / largest, drift, 1 - schedules["decay"], noise_std)
        return Path(c * largest, np.sqrt(u) * largest)


def scheduled(
    *,
    distance: float,
    drift: ArrayLike,
    decay: ArrayLike,
    noise_std: ArrayLike,
    diameter: Sequence[float] | NDArray[np.float64] | None = None,
) -> tuple[float, int]:
    """An upper bound on the μ of any schedule, rounded up, and the step k at which it is reached.

    Args:
        distance: D ≥ 0, between the two starts.
        drift: s_t ≥ 0, shape (T,).
        decay: 1 - ρ_t in [0, 1], shape (T,).
        noise_std: σ_t > 0, shape (T,).
        diameter: of the set onto which both chains are projected after step t, shape (T,); infinite for none.

    Raises:
        TypeError, ValueError: see `path`.
    """
    whole = path(distance=distance, drift=drift, decay=decay, noise_std=noise_std)
    mu = whole.mu
    best = (float(mu.min()), int(mu.argmin()) + 1)
    if diameter is None:
        return best
    q = _validate.schedules(diameter=(diameter, 0.0, None), noise_std=(noise_std, 0.0, inf))["diameter"]
    # A projection helps only where it brings the chains nearer than they are, and before the last step.
    starts = np.flatnonzero(q[:-1] < whole.distance[:-1])
    for start in starts[:: max(1, -(-len(starts) * len(q) // _MOST_WORK))]:
        rest = slice(int(start) + 1, None)
        mu = path(
            distance=float(q[start]),
            drift=np.asarray(drift)[rest],
            decay=np.asarray(decay)[rest],
            noise_std=np.asarray(noise_std)[rest],
        ).mu
        best = min(best, (float(mu.min()), int(start) + 2 + int(mu.argmin())))
    return best


def _accumulate(
    distance: float, drift: NDArray[np.float64], rho: NDArray[np.float64], noise_std: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """c_1..c_T and u_1..u_T. Blocks of about sqrt(T) steps run side by side, then each takes over its predecessor's end."""
    steps = len(drift)
    length = max(1, round(steps**0.5))
    blocks = -(-steps // length)

    def lay(values: NDArray[np.float64], fill: float) -> NDArray[np.float64]:
        if steps < blocks * length:
            values = np.concatenate([values, np.full(blocks * length - steps, fill)])
        return values.reshape(blocks, length).T.copy()

    rho, c, u = lay(rho, 1.0), lay(drift, 0.0), lay(noise_std, 0.0)
    u *= u
    p = rho.copy()
    for t in range(1, length):
        c[t] += rho[t] * c[t - 1]
        u[t] += rho[t] * rho[t] * u[t - 1]
        p[t] *= p[t - 1]
    ends = np.empty((2, blocks))
    before_c, before_u = distance, 0.0
    for b, (pb, cb, ub) in enumerate(zip(p[-1].tolist(), c[-1].tolist(), u[-1].tolist(), strict=True)):
        ends[:, b] = before_c, before_u
        before_c, before_u = cb + pb * before_c, ub + pb * pb * before_u
    c += p * ends[0]
    p *= p
    u += p * ends[1]
    return c.T.reshape(-1)[:steps], u.T.reshape(-1)[:steps]
