"""What `Noise` adds, counts and refuses."""

import pytest
import torch
from torch import Tensor

from expunge.errors import RunError
from expunge.methods import Noise, secret_generator
from expunge.record import NO_NOISE


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_generator_reset_before_every_step_is_caught() -> None:
    """Noise that repeats, from a generator put back to one state at each step, is a RunError."""
    generator = seeded()
    noise, theta = Noise(0.1, generator), torch.zeros(5000)
    start = generator.get_state()
    noise.add_(theta)
    generator.set_state(start)
    with pytest.raises(RunError, match="used twice"):
        noise.add_(theta)


def test_repetition_is_caught_long_after_and_across_a_restore() -> None:
    """A draw seen steps ago, even before an interruption, may not come again."""
    generator = seeded()
    start = generator.get_state()
    noise, theta = Noise(0.1, generator), torch.zeros(5000)
    for _ in range(5):
        noise.add_(theta)
    resumed = Noise(0.1, seeded(9))
    resumed.restore(noise.state())
    resumed.generator.set_state(start)
    with pytest.raises(RunError, match="used twice"):
        resumed.add_(theta)


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_same_direction_twice_is_caught_as_correlation(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that is a changed copy of the one before passes the digest, and fails the correlation."""
    first = torch.randn(5000, dtype=torch.float64, generator=seeded())
    draws = iter([first, factor * first + 1e-9])
    noise, theta = Noise(0.1, seeded()), torch.zeros(5000, dtype=torch.float64)
    monkeypatch.setattr(noise, "_draw", lambda size, device: next(draws))
    noise.add_(theta)
    with pytest.raises(RunError, match="correlated"):
        noise.add_(theta)


def test_noise_lost_to_rounding_is_caught() -> None:
    """Float32 weights of 1e9 cannot hold noise of 1e-3: a RunError, not a silent step without noise."""
    with pytest.raises(RunError, match="what reached the weights"):
        Noise(1e-3, seeded()).add_(torch.full((5000,), 1e9))


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_noise_of_another_scale_is_caught(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reached the weights is held against the stated scale."""
    noise = Noise(0.1, seeded())
    draw = noise._draw
    monkeypatch.setattr(noise, "_draw", lambda size, device: factor * draw(size, device))
    with pytest.raises(RunError, match="variance"):
        noise.add_(torch.zeros(5000))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_is_refused(dtype: torch.dtype) -> None:
    """Noise is never added in half precision, and the weights are left as they were."""
    theta = torch.zeros(100, dtype=dtype)
    with pytest.raises(RunError, match="float32 or float64"):
        Noise(0.1, seeded()).add_(theta)
    assert not theta.any()


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_not_positive_and_finite_is_refused(std: float) -> None:
    """noise_std must be a positive finite number."""
    with pytest.raises(ValueError, match="noise_std"):
        Noise(std, seeded())


def test_noise_is_added_in_place_to_every_coordinate_also_beyond_one_chunk() -> None:
    """More coordinates than are drawn at a time all get noise, and the tensor given is the tensor returned."""
    theta = torch.zeros((1 << 18) + 7, dtype=torch.float64)
    assert Noise(0.1, seeded()).add_(theta) is theta
    assert bool((theta != 0).all())
    assert float(theta.std()) == pytest.approx(0.1, rel=0.02)


def test_a_fresh_generator_gives_a_sound_run_that_is_counted_and_recorded() -> None:
    """The record says how often, at which scale, over how many coordinates, and where the generator came from."""
    noise, theta = Noise(0.1, seeded(), origin="secret"), torch.zeros(3, 500)
    assert noise.record() is NO_NOISE
    for _ in range(50):
        noise.add_(theta)
    record = noise.record()
    assert noise.count == 50
    assert (record.count, record.std, record.dimension, record.self_test, record.generator) == (
        50, 0.1, 500, "passed", "secret",
    )  # fmt: skip


def test_a_restored_noise_goes_on_bit_for_bit() -> None:
    """State and restore continue the same stream."""
    whole, split = torch.zeros(300), torch.zeros(300)
    one, two = Noise(0.1, seeded()), Noise(0.1, seeded())
    for _ in range(4):
        one.add_(whole)
    two.add_(split)
    resumed = Noise(0.1, seeded(77))
    resumed.restore(two.state())
    for _ in range(3):
        resumed.add_(split)
    assert torch.equal(whole, split)
    assert resumed.record() == one.record()


def normal(generator: torch.Generator, size: int = 100_000) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=generator)


def test_secret_generators_differ_and_give_standard_normal_numbers() -> None:
    """Two secret generators share nothing, also with the seed they report, and draw sound noise."""
    one, two = secret_generator(), secret_generator()
    assert not torch.equal(one.get_state(), two.get_state())
    a, b = normal(one), normal(two)
    assert not torch.equal(a, b)
    for draw in (a, b):
        assert abs(float(draw.mean())) < 8 / 100_000**0.5
        assert abs(float(draw.square().mean()) - 1) < 8 * (2 / 100_000) ** 0.5
    assert abs(float((a * b).mean())) < 8 / 100_000**0.5


def test_a_secret_generator_cannot_be_rebuilt_from_its_reported_seed() -> None:
    """`initial_seed` of a CPU secret generator does not give its stream away."""
    generator = secret_generator()
    guess = torch.Generator().manual_seed(generator.initial_seed())
    assert not torch.equal(normal(generator, 64), normal(guess, 64))


def test_a_secret_generator_leaves_the_global_one_alone() -> None:
    """Making one draws nothing from torch's global generator."""
    before = torch.get_rng_state()
    secret_generator()
    assert torch.equal(before, torch.get_rng_state())


def test_torch_keeps_32_bits_of_a_cpu_seed_which_is_why_the_secret_generator_does_not_use_one():
    first, second = (torch.Generator().manual_seed(seed) for seed in (5, 5 + 2**32))
    assert torch.equal(torch.randn(16, generator=first), torch.randn(16, generator=second))


def test_the_tail_that_a_float32_box_muller_lacks_weighs_more_than_delta_over_ten_million_weights():
    """24-bit uniforms end at sqrt(2 ln 2^24) = 5.77; a shift of mu spread over d weights moves d phi(5.77) mu/sqrt(d)."""
    end, mu, d = (2 * 24 * 0.6931471805599453) ** 0.5, 0.268051, 10_000_000
    density = 2.718281828459045 ** (-end * end / 2) / (2 * 3.141592653589793) ** 0.5
    assert d**0.5 * mu * density > 1e-5
    end = (2 * 53 * 0.6931471805599453) ** 0.5
    density = 2.718281828459045 ** (-end * end / 2) / (2 * 3.141592653589793) ** 0.5
    assert d**0.5 * mu * density < 1e-12  # the float64 draw's missing tail
