"""The law of what each executor outputs, exactly, on a loss whose gradient is constant: `check_executor` on all of them."""

import itertools
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import pytest
import torch

from expunge.accounting import (
    BlockwiseGradientClipping,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    ScheduledGradientClipping,
)
from expunge.randomness.grid import grid_of
from expunge.testing import ContractViolation, check_executor
from expunge.training.noise import Noise
from expunge.unlearners.executors import EXECUTORS

SIGMA = 0.002


@dataclass(frozen=True)
class Case:
    """A setting, and what the contract is told about it."""

    mechanism: Any
    told: dict[str, Any] = field(default_factory=dict)


def gradient(c0, c1, eta, decay, steps, sigma=SIGMA):
    return GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma
    )


def scheduled(c0, c1, etas, decay, sigmas):
    return ScheduledGradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=etas, weight_decay=decay, noise_std=sigmas
    )


def blockwise(sizes, clips, c1, eta, decay, steps, blind, sigma=SIGMA):
    return BlockwiseGradientClipping(
        block_sizes=sizes, block_clips=clips, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps,
        noise_std=sigma, blind=blind,
    )  # fmt: skip


def model(c2, eta, decay, steps, sigma=SIGMA):
    return ModelClipping(model_clip=c2, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma)


# The laws, written down from the papers and not from the executors.


def ball(x, radius):
    return x * min(1.0, radius / float(x.norm()))


def law_of_gradient_clipping(m):
    rho = 1 - m.learning_rate * m.weight_decay
    pushed = m.learning_rate * sum(rho**j for j in range(m.steps))
    return lambda start, g: rho**m.steps * ball(start, m.init_clip) - pushed * ball(g, m.grad_clip)


def law_of_a_schedule(m):
    rhos = [1 - eta * m.weight_decay for eta in m.learning_rate]
    pushed = sum(eta * prod(rhos[t + 1 :]) for t, eta in enumerate(m.learning_rate))
    return lambda start, g: prod(rhos) * ball(start, m.init_clip) - pushed * ball(g, m.grad_clip)


def law_of_blocks(m):
    """Gradient clipping in every block."""
    rho = 1 - m.learning_rate * m.weight_decay
    pushed = m.learning_rate * sum(rho**j for j in range(m.steps))

    def mean(start, g):
        blocks = zip(start.split(m.block_sizes), g.split(m.block_sizes), m.block_clips, strict=True)
        return torch.cat([rho**m.steps * ball(x, clip) - pushed * ball(y, m.grad_clip) for x, y, clip in blocks])

    return mean


def law_of_model_clipping(m):
    """One step; or many of which no clip binds, which are linear."""
    rho = 1 - m.learning_rate * m.weight_decay
    pushed = m.learning_rate * sum(rho**j for j in range(m.steps))
    return lambda start, g: ball(rho**m.steps * start - pushed * g, m.model_clip)


def law_of_output_perturbation(m):
    return lambda start, _: ball(start, m.init_clip)


def linear_std(m):
    """Of steps that no clip stops; `output_noise_std` states less, as the clip may stop any."""
    return m.noise_std * sum((1 - m.learning_rate * m.weight_decay) ** (2 * j) for j in range(m.steps)) ** 0.5


LAWS = {
    GradientClipping: law_of_gradient_clipping,
    ScheduledGradientClipping: law_of_a_schedule,
    BlockwiseGradientClipping: law_of_blocks,
    ModelClipping: law_of_model_clipping,
    OutputPerturbation: law_of_output_perturbation,
}
LINEAR = model(1e6, 0.1, 1.0, 5)
EXECUTOR_CASES = {
    GradientClipping: [
        Case(gradient(1.0, 1.0, 0.1, 1.0, 5)),
        Case(gradient(1.0, 1.0, 0.1, 0.0, 4)),
        Case(gradient(1.0, 2.0, 0.5, 2.0, 3)),
        Case(gradient(0.5, 1.0, 0.1, 0.5, 1)),
        Case(gradient(1.0, 1.0, 0.02, 0.5, 30)),
        Case(gradient(2.0, 1.0, 0.1, 1.0, 3), {"start_norm": 0.5, "gradient_norm": 0.3}),
    ],
    ScheduledGradientClipping: [
        Case(scheduled(1.0, 1.0, (0.1, 0.2, 0.05, 0.3), 1.0, (SIGMA, 3 * SIGMA, 2 * SIGMA, SIGMA))),
        Case(scheduled(1.0, 1.0, (0.1, 0.2), 0.0, (SIGMA, SIGMA / 2))),
        Case(scheduled(1.0, 1.0, (0.5,), 2.0, (SIGMA,))),
    ],
    BlockwiseGradientClipping: [
        Case(blockwise((2000, 2096), (1.0, 1.5), 1.0, 0.1, 1.0, 3, True)),
        Case(blockwise((2000, 2096), (1.0, 1.5), 1.0, 0.1, 0.0, 2, False)),
        Case(blockwise((2048, 2048), (1.0, 1.0), 1.0, 0.5, 2.0, 2, False)),
        Case(blockwise((4096,), (1.0,), 1.0, 0.1, 1.0, 1, True)),
    ],
    ModelClipping: [
        Case(model(1.0, 0.1, 4.0, 1)),
        Case(model(1.0, 0.1, 0.0, 1)),
        Case(LINEAR, {"std": linear_std(LINEAR)}),
        Case(model(1e6, 0.1, 10.0, 3)),
    ],
    OutputPerturbation: [
        Case(OutputPerturbation(init_clip=1.0, noise_std=SIGMA)),
        Case(OutputPerturbation(init_clip=1.0, noise_std=SIGMA), {"start_norm": 0.2}),
    ],
}


def check(case, executor=None):
    m = case.mechanism
    check_executor(executor or EXECUTORS[type(m)], m, mean=LAWS[type(m)](m), **case.told)


def test_every_executor_of_the_table_is_held_to_the_contract():
    assert set(EXECUTOR_CASES) == set(EXECUTORS)


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, id=f"{family.name}-{k}") for family, of in EXECUTOR_CASES.items() for k, case in enumerate(of)],
)
def test_our_executors_have_the_law_repeat_and_resume(case):
    check(case)


def sabotages():
    """An executor that runs another setting than the one it is handed."""
    changes = [
        *itertools.product(("init_clip", "block_clips", "grad_clip", "model_clip"), (1.1, 1e9)),
        ("weight_decay", 0.0),
        ("learning_rate", 1.1),
    ]
    for (family, (case, *_)), (name, factor) in itertools.product(EXECUTOR_CASES.items(), changes):
        if name in vars(case.mechanism):
            value = vars(case.mechanism)[name]
            changed = tuple(v * factor for v in value) if isinstance(value, tuple) else value * factor
            yield pytest.param(case, {name: changed}, id=f"{family.name}: {name} x {factor:g}")
    yield pytest.param(Case(LINEAR, {"std": linear_std(LINEAR)}), {"weight_decay": 0.0}, id="linear: weight_decay x 0")


@pytest.mark.parametrize(("case", "changed"), list(sabotages()))
def test_an_executor_that_runs_another_setting_does_not_have_the_law(case, changed):
    true = EXECUTORS[type(case.mechanism)]

    def wrong(mechanism, *rest):
        return true(replace(mechanism, **changed), *rest)

    with pytest.raises(ContractViolation, match=r"^law: ") as found:
        check(case, wrong)
    assert abs(float(str(found.value).split("z = ")[1].split()[0])) > 8


@pytest.mark.parametrize("m", [gradient(1.0, 1.0, 0.1, 0.5, 5), scheduled(1.0, 1.0, (0.1,) * 5, 0.5, (SIGMA,) * 5)])
def test_only_what_is_released_is_rounded(m):
    """Rounded at every step, an iterate would drift by sqrt(d) half steps of the grid more than the theorem counts."""
    noise, theta = Noise(m.noise_std, torch.Generator().manual_seed(0)), torch.ones(100, dtype=torch.float64)
    steps = EXECUTORS[type(m)](m, theta, lambda at, batch: torch.ones_like(at), itertools.repeat(None), noise)
    rounded = [not bool((theta % grid_of(SIGMA)).any()) for _ in steps]
    assert rounded == [False] * 4 + [True]
