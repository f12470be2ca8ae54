"""Executors that are wrong in one place are told which contract they break. Ours keep it: tests/methods/test_law.py."""

from dataclasses import replace

import pytest
import torch

from expunge.accounting import GradientClipping, Retrain
from expunge.testing import ContractViolation, check_executor
from expunge.training.weights import clip_
from expunge.unlearners.gradient_clipping import noisy_steps as gradient_clipping

GRADIENT = GradientClipping(init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=1.0, steps=5, noise_std=0.002)


def law(m):
    """ρ^T x_0 - η Σ_j ρ^j g with start and gradient clipped."""

    def mean(start, g):
        pushed = m.learning_rate * sum(0.9**j for j in range(5))
        return 0.9**5 * m.init_clip * start / start.norm() - pushed * m.grad_clip * g / g.norm()

    return mean


def check(executor, **told):
    check_executor(executor, GRADIENT, **{"mean": law(GRADIENT)} | told)


def step_by_step(mechanism, theta, gradient, batches, noise):
    """A right one, to be broken below."""
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
    for step in range(noise.count, mechanism.steps):
        g = clip_(gradient(theta, next(batches)), mechanism.grad_clip)
        theta.mul_(1 - mechanism.decay).add_(g, alpha=-mechanism.learning_rate)
        noise.add_(theta, released=step + 1 == mechanism.steps)
        yield step + 1


def with_noise_of_its_own(mechanism, theta, gradient, batches, noise):
    coins = torch.Generator().manual_seed(noise.count + 5)

    class Own:
        count = 0

        def add_(self, theta, *, released=False):
            noise.add_(torch.zeros_like(theta))
            draw = torch.randn(theta.shape, dtype=torch.float64, generator=coins)
            return theta.add_(draw, alpha=mechanism.noise_std)

    yield from step_by_step(mechanism, theta, gradient, batches, Own())


def that_forgets_where_it_was(mechanism, theta, gradient, batches, noise):
    if noise.count == 0:
        clip_(theta, mechanism.init_clip)
    for step in range(mechanism.steps):
        g = clip_(gradient(theta, next(batches, None)), mechanism.grad_clip)
        theta.mul_(1 - mechanism.decay).add_(g, alpha=-mechanism.learning_rate)
        noise.add_(theta)
        yield step + 1


def that_hides_its_own_state(mechanism, theta, gradient, batches, noise):
    kept = theta.clone()
    for done in step_by_step(mechanism, kept, lambda at, batch: gradient(theta, batch), batches, noise):
        if done == mechanism.steps:
            theta.copy_(kept)
        yield done


def that_asks_at_a_copy(mechanism, theta, gradient, batches, noise):
    yield from step_by_step(mechanism, theta, lambda at, batch: gradient(at.clone(), batch), batches, noise)


def that_takes_a_step_too_few(mechanism, theta, gradient, batches, noise):
    yield from step_by_step(replace(mechanism, steps=mechanism.steps - 1), theta, gradient, batches, noise)


def that_lets_nan_pass(mechanism, theta, gradient, batches, noise):
    def cleaned(at, batch):
        return torch.nan_to_num(gradient(at, batch), posinf=0.0)

    yield from step_by_step(mechanism, theta, cleaned, batches, noise)


def that_leaves_the_low_bits(mechanism, theta, gradient, batches, noise):
    class Plain:
        @property
        def count(self):
            return noise.count

        def add_(self, theta, *, released=False):
            noise.add_(theta)

    yield from step_by_step(mechanism, theta, gradient, batches, Plain())


def that_moves_the_weights_after_the_last_draw(mechanism, theta, gradient, batches, noise):
    begun = noise.count
    for done in step_by_step(mechanism, theta, gradient, batches, noise):
        if begun < done == mechanism.steps:
            theta.add_(1e-9)
        yield done


def that_draws_twice(mechanism, theta, gradient, batches, noise):
    halved = 2**-0.5

    class Twice:
        @property
        def count(self):
            return noise.count // 2

        def add_(self, theta, *, released=False):
            for _ in range(2):
                part = torch.zeros_like(theta)
                noise.add_(part)
                theta.add_(part, alpha=halved)

    yield from step_by_step(mechanism, theta, gradient, batches, Twice())


def with_coins_of_its_own(mechanism, theta, gradient, batches, noise):
    theta.add_(torch.randn(theta.shape, dtype=theta.dtype), alpha=1e-9)
    yield from step_by_step(mechanism, theta, gradient, batches, noise)


def that_shares_noise_between_runs(mechanism, theta, gradient, batches, noise):
    class Shared:
        @property
        def count(self):
            return noise.count

        def add_(self, theta, *, released=False):
            one = torch.zeros_like(theta)
            noise.add_(one)
            theta.add_(one if theta.ndim == 1 else one[0])

    yield from step_by_step(mechanism, theta, gradient, batches, Shared())


def that_draws_alike_on_two_shards(mechanism, theta, gradient, batches, noise):
    class Shards:
        @property
        def count(self):
            return noise.count

        def add_(self, theta, *, released=False):
            drawn = torch.zeros_like(theta)
            noise.add_(drawn)
            half = theta.shape[-1] // 2
            drawn[..., half:] = drawn[..., :half]
            theta.add_(drawn)

    yield from step_by_step(mechanism, theta, gradient, batches, Shards())


@pytest.mark.parametrize(
    ("executor", "message"),
    [
        (that_draws_alike_on_two_shards, "law: .* the covariance of coordinates is z = "),
        (with_noise_of_its_own, "sabotage: with noise x 0.97"),
        (that_forgets_where_it_was, "resume: from 5 draws on it took gradients"),
        (that_hides_its_own_state, "resume: interrupted after 1 steps"),
        (that_asks_at_a_copy, "in place: "),
        (that_takes_a_step_too_few, r"steps: from 0 draws on it took gradients of the batches \[0, 1, 2, 3\], not"),
        (that_lets_nan_pass, "non-finite: a gradient with nan"),
        (that_leaves_the_low_bits, "release: the last draw of some weights was added without released=True"),
        (that_moves_the_weights_after_the_last_draw, "release: the weights were changed after the last draw"),
        (that_draws_twice, "noise count: drew 10 noise vectors, the mechanism says 5"),
        (with_coins_of_its_own, "replay: the same seed"),
        (that_shares_noise_between_runs, "law: .* the covariance of runs is z = "),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_broken_executor_is_told_which_contract_it_breaks(executor, message):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        with pytest.raises(ContractViolation, match=f"^{message}"):
            check(executor)


def test_the_right_version_of_the_broken_executors_passes():
    check(step_by_step)


def test_a_law_that_is_not_the_executors_is_refused():
    with pytest.raises(ContractViolation, match=r"^law: .* the mean along the gradient is z = "):
        check(gradient_clipping, mean=law(replace(GRADIENT, grad_clip=0.9)))
    with pytest.raises(ContractViolation, match=r"^law: .* the variance is z = "):
        check(gradient_clipping, std=1.03 * GRADIENT.output_noise_std)


def test_a_check_without_power_says_so():
    with pytest.raises(ContractViolation, match=r"^sabotage: .* no power here: use more runs or dimensions"):
        check(gradient_clipping, dimension=500, runs=2)


def test_a_mechanism_without_noise_has_no_law_to_measure():
    with pytest.raises(ValueError, match="draws none"):
        check_executor(gradient_clipping, Retrain(), mean=lambda start, gradient: start)
