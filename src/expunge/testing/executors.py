"""The contract of an executor: the exact law of what it leaves in theta, and that a run can be repeated and resumed."""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from math import copysign, inf, isfinite, isnan, log, sqrt
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from expunge.accounting import Mechanism
from expunge.errors import NonFinite, RunError
from expunge.testing.contract import ContractViolation, require
from expunge.training.descent import Descent
from expunge.training.noise import Noise

__all__ = ["check_executor"]

_TOO_LITTLE = 0.97
_DTYPES = (torch.float64, torch.float32)

Executor = Callable[..., Iterator[int]]
MakeNoise = Callable[[Any, torch.Generator], Noise]


class _AnyNoise(Protocol):
    @property
    def count(self) -> int: ...
    def add_(
        self, theta: Tensor, block: slice | None = None, *, released: bool = False, after: Descent | None = None
    ) -> Tensor: ...


def check_executor(
    executor: Executor,
    mechanism: Mechanism,
    *,
    mean: Callable[[Tensor, Tensor], Tensor],
    std: float | Tensor | None = None,
    make_noise: MakeNoise = Noise,
    start_norm: float | None = None,
    gradient_norm: float = 5.0,
    dimension: int = 4096,
    runs: int = 32,
    seed: int = 0,
    accept: float = 5.0,
    reject: float = 8.0,
) -> None:
    """Hold an executor against the exact law of its method on a loss whose gradient is constant.

    There the output of a noisy method is Gaussian: its mean and its variance are known, and thousands of coordinates
    measure both. The same test must fail where the noise handed in is wrong, or it has no power here.

    What gives power: noise small beside the lengths (a `noise_std` of 0.002 with radii of about 1; not below 1e-5,
    where float32 would be seen), a start and a gradient outside their clips, runs * dimension of at least 100,000. The
    settings must keep the output Gaussian: no clip after the first noise may bind.

    Args:
        executor: the generator function `(mechanism, theta, gradient, batches, noise)`; theta has shape (d,) or
            (runs, d).
        mechanism: its configuration.
        mean: (start, gradient), each of shape (d,), float64 -> the mean of the output, shape (d,); written down from
            the paper, not from the executor.
        std: the standard deviation of the output, a number or of shape (d,); by default what the mechanism states.
        make_noise: (noise_std, generator) -> the noise to hand in.
        start_norm: the length of the start; by default three times the `start_radius`, or 3 where that is infinite.
        gradient_norm: the length of the gradient; longer than its clip, so that the clip is seen.
        dimension: d.
        runs: rows of theta.
        seed: of start, gradient and noise.
        accept: |z| of every statistic of the right law is below it: 5 is a two-sided significance of 6e-7, and the seed
            is fixed.
        reject: |z| of some statistic must be above it for a wrong noise.

    Raises:
        ContractViolation: a contract is broken; the message begins with its name.
        ValueError: the mechanism draws no noise; there is no law to measure.
    """
    if not mechanism.noise_draws:
        raise ValueError(f"check_executor measures noise, and {mechanism!r} draws none")
    radius = mechanism.start_radius
    length = start_norm or (3 * radius if isfinite(radius) else 3.0)
    start, gradient = (_direction(dimension, seed + k, norm) for k, norm in ((1, length), (2, gradient_norm)))
    trial = _Trial(
        executor=executor,
        mechanism=mechanism,
        make_noise=make_noise,
        start=start,
        gradient=gradient,
        mean=mean(start.clone(), gradient.clone()),
        std=torch.as_tensor(mechanism.output_noise_std if std is None else std, dtype=torch.float64),
        runs=runs,
        seed=seed,
    )
    _has_the_law(trial, accept)
    _uses_the_noise_it_is_handed(trial, reject)
    _repeats_and_resumes(trial)
    if mechanism.gradient_steps:
        _refuses_nan(trial)
    _releases_on_the_grid(trial)


@dataclass(frozen=True)
class _Trial:
    """One setting; tensors of shape (d,)."""

    executor: Executor
    mechanism: Mechanism
    make_noise: MakeNoise
    start: Tensor
    gradient: Tensor
    mean: Tensor
    std: Tensor
    runs: int
    seed: int

    def noise(self, factor: float = 1.0, seed: int = 0) -> Noise:
        """A fresh noise of `factor` times the mechanism's scale."""
        generator = torch.Generator().manual_seed(self.seed + 1000 + seed)
        return self.make_noise(_times(self.mechanism.noise_std, factor), generator)

    def theta(self, dtype: torch.dtype = torch.float64, *, single: bool = False) -> Tensor:
        """The start, shape (runs, d) or (d,)."""
        return (self.start if single else self.start.expand(self.runs, -1)).to(dtype, copy=True).contiguous()

    def steps(self, theta: Tensor, noise: _AnyNoise, gradient: Tensor | None = None) -> Iterator[int]:
        """The executor at work on theta, from `noise.count` on."""
        first, constant = noise.count, self.gradient if gradient is None else gradient
        seen: list[int] = []

        def take(at: Tensor, batch: Any) -> Tensor:
            require(
                at is theta, "in place", "the gradient must be asked for at theta itself, not at a copy", self.mechanism
            )
            seen.append(batch)
            return constant.to(theta.dtype).expand_as(theta).clone()

        total = self.mechanism.gradient_steps
        yield from self.executor(self.mechanism, theta, take, iter(range(first, total + 1)), noise)
        expected = list(range(first, total))
        contract = "resume" if first else "steps"
        say = f"from {first} draws on it took gradients of the batches {seen}, not {expected}"
        require(seen == expected, contract, say, self.mechanism)

    def run(self, noise: _AnyNoise, dtype: torch.dtype = torch.float64, *, single: bool = False) -> Tensor:
        """The output, shape (runs, d) or (d,)."""
        theta = self.theta(dtype, single=single)
        yielded, expected = list(self.steps(theta, noise)), list(range(1, self.mechanism.gradient_steps + 1))
        require(yielded == expected, "steps", f"yielded {yielded}, not the steps done {expected}", self.mechanism)
        return theta

    def scores(self, theta: Tensor) -> dict[str, float]:
        """Standard scores of everything that the law says about theta."""
        residual = ((theta.double() - self.mean) / self.std).reshape(-1, self.start.numel())
        runs, dimension = residual.shape
        scores = {
            "mean along the start": float((residual @ (self.start / self.start.norm())).sum()) / sqrt(runs),
            "mean along the gradient": float((residual @ (self.gradient / self.gradient.norm())).sum()) / sqrt(runs),
            "variance": (float(residual.square().sum()) - residual.numel()) / sqrt(2 * residual.numel()),
        }
        # All coordinates against those k places on, around the end: one pattern used on several shards has its k.
        spectrum = torch.fft.rfft(residual).abs().square()
        lags = torch.fft.irfft(spectrum, n=dimension).sum(0)[1 : dimension // 2 + 1] / sqrt(residual.numel())
        lags[-1] /= 1 if dimension % 2 else sqrt(2)  # half-way round every pair is met twice
        scores["covariance of coordinates"] = _worst_of(lags)
        if runs > 1:
            pairs = residual @ residual.T / sqrt(dimension)
            scores["covariance of runs"] = _worst_of(pairs[*torch.triu_indices(runs, runs, 1)])
        return scores


def _has_the_law(trial: _Trial, accept: float) -> None:
    mechanism = trial.mechanism
    for dtype, single in ((torch.float64, False), (torch.float32, False), (torch.float64, True)):
        noise = trial.noise()
        scores = trial.scores(trial.run(noise, dtype, single=single))
        say = f"on a constant gradient ({dtype}, shape {'(d,)' if single else '(runs, d)'}) {_worst(scores, accept)}"
        require(_size(scores) < accept, "law", f"{say}; allowed is |z| < {accept:g}", mechanism)
        say = f"drew {noise.count} noise vectors, the mechanism says {mechanism.noise_draws}"
        require(noise.count == mechanism.noise_draws, "noise count", say, mechanism)
        record = noise.record()
        say = f"recorded noise of scale {record.std!r}, the mechanism says {mechanism.noise_std!r}"
        require(record.std == mechanism.noise_std, "noise record", say, mechanism)
        say = f"noise reached {record.dimension} of {trial.start.numel()} weights"
        require(record.dimension == trial.start.numel(), "noise record", say, mechanism)


def _uses_the_noise_it_is_handed(trial: _Trial, reject: float) -> None:
    """Wrong noise must be seen in the output; an executor with noise of its own, or a blind test, shows none."""
    sabotages: dict[str, _AnyNoise] = {f"noise x {_TOO_LITTLE:g}": trial.noise(_TOO_LITTLE)}
    rate = _learning_rate(trial.mechanism)
    if rate is not None:
        sabotages["noise x learning_rate"] = trial.noise(rate)
    if trial.mechanism.noise_draws > 1 and not _only_the_last_draw_is_left(trial):
        sabotages["one noise vector repeated"] = _Repeating(trial.noise())
    for name, noise in sabotages.items():
        try:
            scores = trial.scores(trial.run(noise))
        except RunError:
            continue  # the executor noticed by itself
        say = (
            f"with {name} the output still looks right ({_worst(scores)}, {reject:g} is needed): the executor adds noise of "
            "its own, or this check has no power here: use more runs or dimensions, or another setting"
        )
        require(_size(scores) > reject, "sabotage", say, trial.mechanism)


def _repeats_and_resumes(trial: _Trial) -> None:
    mechanism = trial.mechanism
    for dtype in _DTYPES:
        noise = trial.noise()
        whole = trial.run(noise, dtype)
        require(
            torch.equal(whole, trial.run(trial.noise(), dtype)),
            "replay",
            "the same seed gave another output",
            mechanism,
        )
        other = trial.run(trial.noise(seed=1), dtype)
        require(not torch.equal(whole, other), "replay", "another seed gave the same output", mechanism)
        done = whole.clone()
        more = list(trial.steps(done, _restored(trial, noise)))
        say = f"a finished run went on when driven again: steps {more}"
        require(not more and torch.equal(done, whole), "resume", say, mechanism)
        for k in sorted({1, mechanism.gradient_steps // 2} & set(range(1, mechanism.gradient_steps))):
            say = f"interrupted after {k} steps and resumed, the run ends elsewhere"
            require(torch.equal(_resumed(trial, dtype, k), whole), "resume", say, mechanism)


def _resumed(trial: _Trial, dtype: torch.dtype, k: int) -> Tensor:
    noise, theta = trial.noise(), trial.theta(dtype)
    running = trial.steps(theta, noise)
    yielded = list(islice(running, k))
    second, copy = _restored(trial, noise), theta.clone()
    yielded += list(trial.steps(copy, second))
    expected = list(range(1, trial.mechanism.gradient_steps + 1))
    require(yielded == expected, "resume", f"interrupted after {k} steps it yielded {yielded}", trial.mechanism)
    say = f"interrupted after {k} steps it drew {second.count} noise vectors, not {trial.mechanism.noise_draws}"
    require(second.count == trial.mechanism.noise_draws, "resume", say, trial.mechanism)
    return copy


def _restored(trial: _Trial, noise: Noise) -> Noise:
    """As after a restart: a fresh noise with another seed, brought to the state of `noise`."""
    fresh = trial.noise(seed=2)
    fresh.restore(noise.state())
    return fresh


def _refuses_nan(trial: _Trial) -> None:
    for bad in (torch.nan, torch.inf):
        gradient = trial.gradient.clone()
        gradient[-1] = bad
        try:
            list(trial.steps(trial.theta(), trial.noise(), gradient))
        except NonFinite:
            continue
        raise ContractViolation(f"non-finite: a gradient with {bad} must raise NonFinite [{trial.mechanism!r}]")


def _releases_on_the_grid(trial: _Trial) -> None:
    noise = trial.noise()
    theta, grid = trial.run(noise), noise.record().grid
    say = "the last draw of some weights was added without released=True, so their low bits depend on the start"
    require(grid > 0, "release", say, trial.mechanism)
    say = f"the weights were changed after the last draw: they are no multiples of {grid:g}"
    require(not bool((theta % grid).any()), "release", say, trial.mechanism)


class _Repeating:
    """The noise handed in, set back before every draw: one vector for all steps."""

    def __init__(self, noise: Noise) -> None:
        self._noise, self._first = noise, noise.state()
        self.count = 0

    def add_(
        self, theta: Tensor, block: slice | None = None, *, released: bool = False, after: Descent | None = None
    ) -> Tensor:
        self._noise.restore(self._first)
        self.count += 1
        return self._noise.add_(theta, block, released=released, after=after)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._noise, name)


def _only_the_last_draw_is_left(trial: _Trial) -> bool:
    """Where the output holds the last draw and no earlier one, its law does not depend on a repetition."""
    noise, last = trial.noise(), torch.zeros(trial.runs, trial.start.numel(), dtype=torch.float64)
    for _ in range(trial.mechanism.noise_draws):
        noise.add_(last.zero_())
    output = trial.std.expand(trial.start.numel()).square().mean()
    return float(output / last.square().mean()) < 1.02


def _learning_rate(mechanism: Mechanism) -> float | None:
    """The largest, where it differs enough from 1 to be told from it."""
    rate = dataclasses.asdict(cast("Any", mechanism)).get("learning_rate")
    if not isinstance(rate, (float, tuple)):
        return None
    largest = max(cast("tuple[float, ...]", rate)) if isinstance(rate, tuple) else rate
    return largest if 0 < largest <= _TOO_LITTLE else None


def _times(std: float | tuple[float, ...], factor: float) -> float | tuple[float, ...]:
    return tuple(s * factor for s in std) if isinstance(std, tuple) else std * factor


def _direction(dimension: int, seed: int, norm: float) -> Tensor:
    x = torch.randn(dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x * (norm / x.norm())


def _worst_of(scores: Tensor) -> float:
    """The score of the worst of n: about as improbable for one as |z| is for the largest of n, log p = log n - z²/2."""
    worst = float(scores[scores.abs().argmax()])
    return copysign(sqrt(max(worst**2 - 2 * log(scores.numel()), 0.0)), worst)


def _size(scores: dict[str, float]) -> float:
    return inf if any(map(isnan, scores.values())) else max(map(abs, scores.values()))


def _worst(scores: dict[str, float], allowed: float = inf) -> str:
    """All that is beyond what is allowed, the means first; else the worst."""
    worst = max(scores, key=lambda key: abs(scores[key]))
    beyond = [name for name, z in scores.items() if not abs(z) < allowed]
    return ", ".join(f"the {name} is z = {scores[name]:.1f} away" for name in beyond or [worst])
