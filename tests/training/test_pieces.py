"""Work by pieces gives what work on the whole gives, on any number of threads."""

import math

import pytest
import torch

from expunge.training import pieces
from expunge.training.pieces import all_finite, norm, slices
from expunge.training.weights import clip_, step_

SIZES = [1, 7, 1 << 15, (1 << 15) + 1, (1 << 20) + 3]


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("size", [0, *SIZES])
def test_every_number_is_in_one_piece(size: int) -> None:
    counts = torch.zeros(size)
    for piece in slices(counts):
        counts[piece].add_(1)
    assert bool((counts == 1).all())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16, torch.float64])
def test_the_norm_is_that_of_float64_in_every_type(size: int, kind: torch.dtype, threads: int) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(size)).to(kind)
    assert float(norm(x)) == pytest.approx(float(x.double().norm()), rel=1e-13)
    assert norm(x).shape == (1,)
    assert norm(torch.stack([x, 2 * x])).shape == (2, 1)


def test_the_norm_is_the_same_to_twelve_digits_without_the_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large and small numbers mixed, a length that is no multiple of anything."""
    x = (
        torch.randn((1 << 20) + 37, generator=torch.Generator().manual_seed(2))
        * 10.0 ** torch.arange(-8, 8).repeat(1 << 17)[: (1 << 20) + 37]
    )
    compiled = float(norm(x))
    monkeypatch.setattr(pieces, "_compiled", lambda: None)
    assert float(norm(x)) == pytest.approx(compiled, rel=1e-12)
    assert compiled == pytest.approx(math.sqrt(math.fsum((x.double() ** 2).tolist())), rel=1e-12)


def test_a_number_that_is_none_is_seen_wherever_it_stands() -> None:
    x = torch.zeros(1 << 20)
    x[-1] = torch.nan
    assert not bool(torch.isfinite(norm(x)).all())
    assert not all_finite(x)
    assert all_finite(x[:-1])


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_a_step_has_the_bits_of_a_step_on_the_whole(kind: torch.dtype, threads: int) -> None:
    made = torch.Generator().manual_seed(0)
    theta = torch.randn((1 << 20) + 8, generator=made, dtype=torch.float64)
    g = torch.randn(theta.shape, generator=made).to(kind)
    whole = theta.clone().mul_(0.9).add_(g, alpha=-0.01)
    assert torch.equal(step_(theta, g, keep=0.9, rate=0.01), whole)


def test_a_clip_of_a_long_vector_stays_within_its_radius(threads: int) -> None:
    x = torch.randn((1 << 20) + 3, generator=torch.Generator().manual_seed(1))
    assert float(clip_(x, 0.5).double().norm()) <= 0.5
    assert float(x.double().norm()) > 0.49999
