"""The law of what each executor outputs, exactly, on a loss whose gradient is constant."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import repeat
from math import sqrt
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.accounting import GradientClipping, Mechanism, ModelClipping, OutputPerturbation
from expunge.methods import EXECUTORS, Noise

RUNS, D = 12, 10_000
SIGMA = 0.002
START_NORM, GRADIENT_NORM = 3.0, 5.0

GRADIENT = GradientClipping(init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=1.0, steps=5, noise_std=SIGMA)
MODEL_ONCE = ModelClipping(model_clip=1.0, learning_rate=0.1, weight_decay=4.0, steps=1, noise_std=SIGMA)
MODEL_LINEAR = ModelClipping(model_clip=1e6, learning_rate=0.1, weight_decay=1.0, steps=5, noise_std=SIGMA)
OUTPUT = OutputPerturbation(init_clip=1.0, noise_std=SIGMA)
ALL = {"gradient": GRADIENT, "model-once": MODEL_ONCE, "model-linear": MODEL_LINEAR, "output": OUTPUT}


def direction(seed: int, norm: float) -> Tensor:
    x = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return x * (norm / x.norm())


START, V = direction(1, START_NORM), direction(2, GRADIENT_NORM)


def ball(x: Tensor, radius: float) -> Tensor:
    return x * min(1.0, radius / float(x.norm()))


def law(mechanism: Mechanism) -> tuple[Tensor, float]:
    """Mean vector and standard deviation a coordinate, written down from the papers and not from the executors."""
    if isinstance(mechanism, OutputPerturbation):
        return ball(START, mechanism.init_clip), mechanism.noise_std
    assert isinstance(mechanism, (GradientClipping, ModelClipping))
    eta, steps = mechanism.learning_rate, mechanism.steps
    rho = 1 - eta * mechanism.weight_decay
    if isinstance(mechanism, ModelClipping) and steps == 1:
        return ball(rho * START - eta * V, mechanism.model_clip), mechanism.noise_std
    drift = sum(rho**j for j in range(steps))
    spread = mechanism.noise_std * sqrt(sum(rho ** (2 * j) for j in range(steps)))
    if isinstance(mechanism, GradientClipping):
        start, gradient = ball(START, mechanism.init_clip), ball(V, mechanism.grad_clip)
    else:
        start, gradient = START, V
    return rho**steps * start - eta * drift * gradient, spread


def z_scores(theta: Tensor, mechanism: Mechanism) -> dict[str, float]:
    mean, spread = law(mechanism)
    residual = (theta.double() - mean) / spread
    squares = float(residual.square().sum())
    return {
        "start": float((residual @ (START / START.norm())).sum()) / sqrt(RUNS),
        "gradient": float((residual @ (V / V.norm())).sum()) / sqrt(RUNS),
        "variance": (squares - RUNS * D) / sqrt(2 * RUNS * D),
    }


def make_noise(std: float, seed: int = 3) -> Noise:
    return Noise(std, torch.Generator().manual_seed(seed))


def run(mechanism: Mechanism, noise: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    theta = START.to(dtype).expand(RUNS, D).clone()
    constant = V.to(dtype).expand(RUNS, D)

    def gradient(at: Tensor, batch: Any) -> Tensor:
        assert at is theta
        return constant.clone()

    steps = list(EXECUTORS[type(mechanism)](mechanism, theta, gradient, repeat(None), noise))
    assert steps == list(range(1, mechanism.gradient_steps + 1))
    return theta


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("mechanism", ALL.values(), ids=ALL.keys())
def test_the_output_has_the_mean_and_the_variance_of_the_law(mechanism: Mechanism, dtype: torch.dtype) -> None:
    """What an executor leaves in theta is Gaussian noise of the stated scale around the stated mean."""
    noise = make_noise(mechanism.noise_std)
    theta = run(mechanism, noise, dtype)
    scores = z_scores(theta, mechanism)
    assert max(map(abs, scores.values())) < 5, scores
    assert noise.count == mechanism.noise_draws
    assert noise.dimension == D


@pytest.mark.parametrize("mechanism", [GRADIENT, OUTPUT], ids=["gradient", "output"])
def test_the_stated_output_noise_is_that_of_the_law(mechanism: Mechanism) -> None:
    """`output_noise_std` is the standard deviation that the output really has."""
    assert mechanism.output_noise_std == pytest.approx(law(mechanism)[1], rel=1e-12)


@pytest.mark.parametrize("mechanism", ALL.values(), ids=ALL.keys())
def test_noise_of_different_runs_is_independent(mechanism: Mechanism) -> None:
    """Rows of theta, and with them different runs, get independent noise."""
    mean, spread = law(mechanism)
    residual = (run(mechanism, make_noise(mechanism.noise_std)) - mean) / spread
    products = (residual @ residual.T).fill_diagonal_(0) / sqrt(D)
    assert float(products.abs().max()) < 6


class Repeating:
    """A noise that adds one and the same vector at every step."""

    def __init__(self, std: float) -> None:
        self.std, self.count = std, 0
        self.vector: Tensor | None = None

    def add_(self, theta: Tensor) -> Tensor:
        if self.vector is None:
            draw = torch.randn(theta.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
            self.vector = self.std * draw
        self.count += 1
        return theta.add_(self.vector)


@dataclass(frozen=True)
class Sabotage:
    mechanism: Mechanism
    change: Callable[[Any], Any] = lambda mechanism: mechanism
    noise: Callable[[Any], Any] = lambda mechanism: make_noise(mechanism.noise_std)


def changed(**fields: float) -> Callable[[Any], Any]:
    return lambda mechanism: replace(mechanism, **fields)


def sabotages() -> Iterator[Any]:
    clips = [
        ("gradient", "init_clip"), ("gradient", "grad_clip"), ("model-once", "model_clip"), ("output", "init_clip"),
    ]  # fmt: skip
    for name, mechanism in ALL.items():
        yield pytest.param(
            Sabotage(mechanism, noise=lambda m: make_noise(0.97 * m.noise_std)), id=f"{name}: noise x 0.97"
        )
        if name != "output":
            yield pytest.param(
                Sabotage(mechanism, noise=lambda m: make_noise(m.learning_rate * m.noise_std)),
                id=f"{name}: noise x learning rate",
            )
            yield pytest.param(Sabotage(mechanism, changed(weight_decay=0.0)), id=f"{name}: decay dropped")
    for name, field in clips:
        clip = getattr(ALL[name], field)
        yield pytest.param(Sabotage(ALL[name], changed(**{field: 1.1 * clip})), id=f"{name}: {field} x 1.1")
        yield pytest.param(Sabotage(ALL[name], changed(**{field: 1e9})), id=f"{name}: {field} removed")
    for name in ("gradient", "model-linear"):
        yield pytest.param(
            Sabotage(ALL[name], noise=lambda m: Repeating(m.noise_std)), id=f"{name}: one noise vector reused"
        )


@pytest.mark.parametrize("sabotage", list(sabotages()))
def test_a_sabotaged_executor_does_not_have_the_law(sabotage: Sabotage) -> None:
    """The check above has power: every one of these mistakes moves it by more than eight standard deviations."""
    true = sabotage.mechanism
    scores = z_scores(run(sabotage.change(true), sabotage.noise(true)), true)
    assert max(map(abs, scores.values())) > 8, scores
