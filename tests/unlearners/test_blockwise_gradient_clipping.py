"""The block-wise executor: its exact law, what its gradient may see, and where it goes on."""

from dataclasses import replace
from itertools import repeat
from math import sqrt

import pytest
import torch
from torch import nn

from expunge import Budget, Examples, calibrate, issue, layer_sizes, unlearn, verify
from expunge.accounting import BlockwiseGradientClipping
from expunge.errors import RunError
from expunge.training.noise import Noise
from expunge.unlearners.blockwise_gradient_clipping import noisy_steps as blockwise_gradient_clipping

SIZES, RUNS = (3000, 1000, 6000), 8
D = sum(SIZES)
BLIND = BlockwiseGradientClipping(
    block_sizes=SIZES, block_clips=(1.0, 0.5, 2.0), grad_clip=1.0, learning_rate=0.1, weight_decay=1.0, steps=3,
    noise_std=0.002, blind=True,
)  # fmt: skip
STARTS = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) / 10
PULL = torch.randn(D, dtype=torch.float64, generator=torch.Generator().manual_seed(2)) / 10


def clipped(x, radius):
    return x * min(1.0, radius / float(x.norm()))


def law(m):
    """Mean and deviation on a constant gradient, block by block, as on the docs page."""
    rho, means = 1 - m.decay, []
    for x, g, radius in zip(STARTS.split(SIZES), PULL.split(SIZES), m.block_clips, strict=True):
        pulled = m.learning_rate * sum(rho**j for j in range(m.steps)) * clipped(g, m.grad_clip)
        means.append(rho**m.steps * clipped(x, radius) - pulled)
    return torch.cat(means), m.noise_std * sqrt(sum(rho ** (2 * j) for j in range(m.steps)))


def run(m, sigma=None, dtype=torch.float64):
    theta = STARTS.to(dtype).expand(RUNS, D).clone()
    noise = Noise(sigma or m.noise_std, torch.Generator().manual_seed(3))
    steps = list(
        blockwise_gradient_clipping(m, theta, lambda *_: PULL.to(dtype).expand(RUNS, D).clone(), repeat(None), noise)
    )
    assert steps == list(range(1, m.gradient_steps + 1))
    return theta, noise


def scores(theta, m):
    mean, deviation = law(m)
    residual = (theta.double() - mean) / deviation
    along = [STARTS, PULL, *(torch.cat([p * (k == b) for b, p in enumerate(PULL.split(SIZES))]) for k in range(3))]
    z = [float((residual @ (v / v.norm())).sum()) / sqrt(RUNS) for v in along]
    blocks = residual.split(SIZES, dim=-1)
    return z + [(float(b.square().sum()) - b.numel()) / sqrt(2 * b.numel()) for b in blocks]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("blind", [True, False])
def test_the_output_has_the_law_of_the_page_in_every_block(blind, dtype):
    m = replace(BLIND, blind=blind)
    theta, noise = run(m, dtype=dtype)
    assert max(map(abs, scores(theta, m))) < 5
    assert (noise.count, noise.dimension) == (m.noise_draws, D)


@pytest.mark.parametrize(
    ("fault", "sigma"),
    [
        ({}, 0.97 * BLIND.noise_std),
        ({"block_clips": (1.1, 0.5, 2.0)}, None),
        ({"block_clips": (1.0, 0.5, 2.2)}, None),
        ({"grad_clip": 1.1}, None),
        ({"weight_decay": 0.0}, None),
        ({"steps": 4}, None),
    ],
    ids=str,
)
def test_a_sabotaged_run_does_not_have_the_law(fault, sigma):
    theta, _ = run(replace(BLIND, **fault), sigma)
    assert max(map(abs, scores(theta, BLIND))) > 8


def test_a_blind_gradient_sees_finished_blocks_and_the_centre_and_the_rest_comes_back():
    seen = []

    def gradient(theta, _):
        seen.append([bool(part.any()) for part in theta.split(SIZES)])
        return torch.zeros_like(theta)

    theta = STARTS.clone()
    for done in blockwise_gradient_clipping(BLIND, theta, gradient, repeat(None), Noise(0.002, torch.Generator())):
        assert all(bool(part.any()) for part in theta.split(SIZES)), done
    assert seen == [[True, False, False]] * 3 + [[True, True, False]] * 3 + [[True, True, True]] * 3


def test_a_failing_gradient_leaves_the_hidden_blocks_in_place():
    theta = STARTS.clone()

    def gradient(*_):
        raise RuntimeError("no gradient")

    with pytest.raises(RuntimeError, match="no gradient"):
        next(blockwise_gradient_clipping(BLIND, theta, gradient, repeat(None), Noise(0.002, torch.Generator())))
    assert bool(theta[3000:4000].any() and theta[4000:].any())


def test_finished_blocks_do_not_move_any_more():
    theta = STARTS.clone()
    noise = Noise(0.002, torch.Generator().manual_seed(5))
    finished = None
    for done in blockwise_gradient_clipping(BLIND, theta, lambda t, _: t.clone(), repeat(None), noise):
        if done == 3:
            finished = theta[:3000].clone()
    assert finished is not None
    assert torch.equal(theta[:3000], finished)


def test_an_interrupted_run_goes_on_bit_for_bit():
    def start():
        return STARTS.clone(), Noise(0.002, torch.Generator().manual_seed(7))

    theta, noise = start()
    list(blockwise_gradient_clipping(BLIND, theta, lambda t, _: t.clone(), repeat(None), noise))
    again, first = start()
    steps = blockwise_gradient_clipping(BLIND, again, lambda t, _: t.clone(), repeat(None), first)
    for _ in range(4):
        next(steps)
    second = Noise(0.002, torch.Generator().manual_seed(99))
    second.restore(first.state())
    list(blockwise_gradient_clipping(BLIND, again, lambda t, _: t.clone(), repeat(None), second))
    assert torch.equal(theta, again)
    assert (second.count, second.dimension) == (9, D)


def test_blocks_that_do_not_add_up_are_refused_before_anything_changes():
    theta = STARTS.clone()
    with pytest.raises(ValueError, match="add up to 9999, but the model has 10000"):
        next(
            blockwise_gradient_clipping(
                replace(BLIND, block_sizes=(3000, 999, 6000)), theta, lambda *_: theta, repeat(None), Noise(1, torch.Generator())
            )
        )  # fmt: skip
    assert torch.equal(theta, STARTS)


@pytest.mark.parametrize("blind", [True, False])
def test_a_network_is_unlearned_layer_by_layer_and_certified(blind):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    assert layer_sizes(model) == (35, 18)
    budget = Budget(epsilon=1.0, delta=1e-5)
    mechanism = calibrate(
        lambda s: BlockwiseGradientClipping(
            block_sizes=layer_sizes(model), block_clips=(0.3, 0.3), grad_clip=1.0, learning_rate=0.01,
            weight_decay=10.0, steps=4, noise_std=s, blind=blind,
        ),
        budget,
    )  # fmt: skip
    retain = Examples(torch.randn(64, 6), torch.randint(0, 3, (64,)))
    done = unlearn(model, retain, mechanism, loss=lambda net, b: nn.functional.cross_entropy(net(b[0]), b[1]))
    certificate = issue(done.record, released=done.model, asked=budget, unchecked="a test")
    verify(certificate, weights=done.model)
    verify(type(certificate).from_json(certificate.to_json()), weights=done.model)
    with pytest.raises(RunError, match="noise reached 35 of 53"):
        issue(
            replace(done.record, noise=replace(done.record.noise, dimension=35)),
            released=done.model,
            unchecked="a test",
        )
