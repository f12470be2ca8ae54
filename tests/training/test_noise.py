"""What `Noise` adds, counts and refuses."""

from typing import Any

import pytest
import torch

from expunge.certificate.record import NO_NOISE
from expunge.errors import RunError
from expunge.randomness.gaussian import normals
from expunge.randomness.grid import grid_of
from expunge.randomness.secret import Secret
from expunge.training.noise import Noise


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_draw_depends_on_the_secret_and_its_count_alone() -> None:
    """Setting the generator back between steps does not repeat a draw, and two noises of one generator differ."""
    generator = seeded()
    noise, theta = Noise(0.1, generator), torch.zeros(3, 5000)
    noise.add_(theta[0])
    generator.manual_seed(0)
    noise.add_(theta[1])
    Noise(0.1, generator).add_(theta[2])
    first = torch.zeros(5000)
    Noise(0.1, seeded()).add_(first)
    assert torch.equal(theta[2], first)  # the same seed, the same first draw
    assert not torch.equal(theta[0], theta[1])
    assert torch.equal(theta[0], first)
    other = torch.zeros(5000)
    Noise(0.1, generator).add_(other)
    assert not torch.equal(other, first)


def test_a_secret_serves_one_noise() -> None:
    """Two noises of one secret would draw the same numbers: the second is refused."""
    secret = Secret.fresh()
    Noise(0.1, secret)
    with pytest.raises(RunError, match="drawn already"):
        Noise(0.1, secret)


@pytest.mark.parametrize("factor", [1.0, -1.0])
def test_the_same_direction_twice_is_caught_as_correlation(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw that is a changed copy of the one before passes the digest, and fails the correlation."""
    first = normals(bytes(32), 0, 5000)
    draws = iter([first, factor * first + 1e-9])
    noise, theta = Noise(0.1, seeded()), torch.zeros(5000, dtype=torch.float64)

    def again(key: bytes, begin: int, target: Any, scale: float, **_: Any) -> None:
        target += scale * next(draws)

    monkeypatch.setattr("expunge.training.noise.add", again)
    noise.add_(theta)
    with pytest.raises(RunError, match="correlated"):
        noise.add_(theta)


def test_noise_lost_to_rounding_is_caught() -> None:
    """Float32 weights of 1e9 cannot hold noise of 1e-3: a RunError, not a silent step without noise."""
    with pytest.raises(RunError, match="what reached the weights"):
        Noise(1e-3, seeded()).add_(torch.full((5000,), 1e9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_noise_of_another_scale_is_caught(factor: float, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    """What reached the weights is held against the stated scale."""

    def scaled(key: bytes, begin: int, target: Any, scale: float, **_: Any) -> None:
        target += factor * scale * normals(key, begin, begin + len(target))

    noise = Noise(0.1, seeded())
    monkeypatch.setattr(
        "expunge.training.noise.each_slice",
        lambda key, begin, end, visit, threads: visit(begin, end, factor * normals(key, begin, end)),
    )
    monkeypatch.setattr("expunge.training.noise.add", scaled)
    with pytest.raises(RunError, match="variance"):
        noise.add_(torch.zeros(5000, dtype=dtype))


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
    noise, theta = Noise(0.1, None), torch.zeros(3, 500)
    assert noise.record() is NO_NOISE
    for _ in range(50):
        noise.add_(theta)
    record = noise.record()
    assert noise.count == 50
    assert (record.count, record.std, record.dimension, record.self_test, record.generator) == (
        50, 0.1, 500, "passed", "secret",
    )  # fmt: skip
    assert (record.stream, record.grid) == ("aes-256-ctr/1", 0.0)  # no draw was the last


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


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_release_lies_on_the_public_grid_and_is_the_nearest_point_to_the_sum(dtype: torch.dtype) -> None:
    """Every coordinate is a multiple of a power of two near σ/2^12, half a step at most from what it would have been."""
    start = torch.randn(100_001, dtype=torch.float64, generator=seeded(1)).to(dtype)
    noise, plain = Noise(0.3, seeded()), Noise(0.3, seeded())
    released, sum_ = noise.add_(start.clone(), released=True), plain.add_(start.double())
    grid = noise.record().grid
    assert grid == grid_of(0.3) == 2.0**-14
    assert bool((released.double() % grid == 0).all())
    assert not bool((sum_ % grid == 0).any())
    assert float((released.double() - sum_).abs().max()) <= grid / 2 * (1 + 1e-9)


def test_the_noise_of_a_release_does_not_depend_on_the_low_bits_of_the_start() -> None:
    """Starts that differ by whole steps, however large, are released with exactly the same noise."""
    grid = grid_of(1.0)
    starts = torch.tensor([0.0, grid, 5.0, -1000.0, 2.0**30, -(2.0**38)], dtype=torch.float64)
    moved = [Noise(1.0, seeded()).add_(torch.full((500,), float(s)).double(), released=True) - s for s in starts]
    assert all(torch.equal(m, moved[0]) for m in moved)


def test_a_weight_that_dwarfs_the_noise_is_refused() -> None:
    """Where doubles no longer hold the step, the sum would be rounded: a RunError."""
    with pytest.raises(RunError, match="float64 cannot hold both"):
        Noise(1e-3, seeded()).add_(torch.full((10,), 2.0**31).double(), released=True)


def test_the_record_has_a_grid_only_if_every_block_was_released() -> None:
    """A block whose last draw was not rounded leaves the release off the grid, and the record says so."""
    noise, theta = Noise(0.3, seeded()), torch.zeros(2, 100)
    noise.add_(theta, slice(0, 40), released=True)
    assert noise.record().grid == grid_of(0.3)
    noise.add_(theta, slice(40, 100))
    assert noise.record().grid == 0.0
    noise.add_(theta, slice(40, 100), released=True)
    assert noise.record().grid == grid_of(0.3)
    noise.add_(theta)
    assert noise.record().grid == 0.0


def test_a_number_belongs_to_its_coordinate() -> None:
    """The noise of a block is what the whole vector's draw has there, for one run and for many."""
    whole = Noise(0.1, seeded()).add_(torch.zeros(3, 1001, dtype=torch.float64))
    part = Noise(0.1, seeded()).add_(torch.zeros(3, 1001, dtype=torch.float64), slice(333, 700))
    assert torch.equal(part[:, 333:700], whole[:, 333:700])
    assert not part[:, :333].any()
    assert not part[:, 700:].any()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_noise_does_not_depend_on_the_number_of_threads(threads: int) -> None:
    """More weights than one thread takes at a time get the numbers of the stream, bit for bit."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        noise = Noise(1.0, Secret(bytes(32)))
        theta = noise.add_(torch.zeros(100_000, dtype=torch.float64))
    finally:
        torch.set_num_threads(before)
    key = Secret(bytes(32)).take("noise").derive("draw", 0)
    assert torch.equal(theta, torch.from_numpy(normals(key, 0, 100_000)))


def test_the_tail_that_a_float32_box_muller_lacks_weighs_more_than_delta_over_ten_million_weights():
    """24-bit uniforms end at sqrt(2 ln 2^24) = 5.77; a shift of mu spread over d weights moves d phi(5.77) mu/sqrt(d)."""
    end, mu, d = (2 * 24 * 0.6931471805599453) ** 0.5, 0.268051, 10_000_000
    density = 2.718281828459045 ** (-end * end / 2) / (2 * 3.141592653589793) ** 0.5
    assert d**0.5 * mu * density > 1e-5
    end = (2 * 53 * 0.6931471805599453) ** 0.5
    density = 2.718281828459045 ** (-end * end / 2) / (2 * 3.141592653589793) ** 0.5
    assert d**0.5 * mu * density < 1e-12  # the float64 draw's missing tail
