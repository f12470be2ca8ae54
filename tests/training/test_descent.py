"""A step taken together with its noise is the step, then the noise."""

import pytest
import torch

from expunge.errors import NonFinite, RunError
from expunge.randomness.secret import Secret
from expunge.training.descent import Descent
from expunge.training.noise import Noise

SIZE = 300_001
SETTING = {"keep": 0.9, "rate": 0.3, "clip": 2.0}


def made(kind: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    theta = torch.randn(SIZE, generator=generator, dtype=torch.float64)
    return theta, torch.randn(SIZE, generator=generator).to(kind)


def noise(std: float = 0.5) -> Noise:
    return Noise(std, Secret(bytes(32), origin="given"))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("block", [None, slice(1, 200_000), slice(131_071, SIZE), slice(5, 6)], ids=str)
@pytest.mark.parametrize("runs", [1, 2])
def test_a_step_with_its_noise_is_the_step_and_then_the_noise(
    kind: torch.dtype, block: slice | None, runs: int
) -> None:
    """In one pass or two, for every type of gradient, on a block that begins anywhere; the rest does not move."""
    theta, g = made(kind)
    if runs > 1:
        theta, g = theta.view(1, -1).repeat(runs, 1), torch.stack([g, 2 * g])
    where = block or slice(None)
    part = g[..., where].double()
    expected = theta.clone()
    clipped = part * (2.0 / part.norm(dim=-1, keepdim=True)).clamp(max=1)
    expected[..., where] = 0.9 * expected[..., where] - 0.3 * clipped
    noise().add_(expected, block)
    before = g.clone()
    found = noise().add_(theta, block, after=Descent(gradient=g[..., where], **SETTING))
    assert torch.allclose(found, expected, rtol=0, atol=2e-6 * 0.3)  # the clip aims 1e-6 inside
    assert torch.equal(g, before)
    assert not torch.allclose(found, theta - 1e-3)


def test_the_released_step_is_on_the_grid() -> None:
    theta, g = made()
    drawn = noise()
    drawn.add_(theta, released=True, after=Descent(gradient=g, **SETTING))
    assert not bool((theta % drawn.record().grid).any())


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_the_clip_bounds_the_step_of_any_gradient(kind: torch.dtype) -> None:
    """Without noise to speak of, the weights move by at most rate times clip, and by hardly less."""
    theta, g = made(kind)
    moved = Descent(gradient=g, keep=1.0, rate=0.3, clip=2.0).apply_(theta.clone()) - theta
    assert 0.6 * (1 - 1e-5) < float(moved.norm()) <= 0.6
    fused = noise(1e-12).add_(theta.clone(), after=Descent(gradient=g, keep=1.0, rate=0.3, clip=2.0)) - theta
    assert 0.6 * (1 - 1e-5) < float(fused.norm()) <= 0.6


def test_a_gradient_that_is_no_number_moves_nothing() -> None:
    theta, g = made()
    g[-1] = torch.inf
    before = theta.clone()
    with pytest.raises(NonFinite, match="clipped"):
        noise().add_(theta, after=Descent(gradient=g, **SETTING))
    assert torch.equal(theta, before)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_scaled_draw_is_caught_beside_a_step_too(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The self-test sets what the step does aside."""
    from expunge.training import noise as room

    real = room.add
    monkeypatch.setattr(room, "add", lambda key, begin, x, scale, **rest: real(key, begin, x, factor * scale, **rest))
    theta, g = made()
    with pytest.raises(RunError, match="variance"):
        noise().add_(theta, after=Descent(gradient=g, **SETTING))


@pytest.mark.parametrize("size", [0, SIZE - 1, SIZE + 1])
def test_a_gradient_of_another_length_is_refused(size: int) -> None:
    """Compiled code would read beyond its end; one of no length would be no step at all."""
    theta, _ = made()
    before = theta.clone()
    with pytest.raises(RunError, match=rf"shape \({size},\) moves no weights of shape \({SIZE},\)"):
        noise().add_(theta, after=Descent(gradient=torch.ones(size), **SETTING))
    assert torch.equal(theta, before)
