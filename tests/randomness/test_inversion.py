"""Noise that can be computed from a part of itself is no noise: torch's CPU generator as the negative control."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

import mersenne
from expunge.randomness.gaussian import normals
from expunge.randomness.generators import secret_generator
from expunge.randomness.secret import Secret
from expunge.randomness.stream import words
from expunge.training.noise import Noise

SIZE, KNOWN = 2048, 768  # weights; those of a layer that the attacker knows
MU = 0.1  # no test of one release may be right more often than 0.52


def continued(drawn: NDArray[np.uint64], more: int) -> NDArray[np.uint64]:
    """What a Mersenne twister would put out after `drawn`, 312 numbers of 64 bits, the first word of each on top."""
    halves = [half for number in drawn.tolist() for half in (number >> 32, number & 0xFFFFFFFF)]
    generator = mersenne.generator_of([mersenne.untempered(half) for half in halves])
    return all_bits(generator, more)


def all_bits(generator: torch.Generator, size: int) -> NDArray[np.uint64]:
    return torch.empty(size, dtype=torch.int64).random_(-(2**63), None, generator=generator).numpy().view(np.uint64)


def test_torchs_generator_is_computed_from_what_it_put_out_and_the_stream_is_not() -> None:
    """624 words of a twister seeded with 19,968 secret bits give all that follow; the same sum says nothing of AES."""
    generator = secret_generator()
    seen = all_bits(generator, 312)
    assert np.array_equal(continued(seen, 1000), all_bits(generator, 1000))
    stream = words(Secret.fresh().derive("test"), 0, 1312)
    wrong = np.bitwise_count(continued(stream[:312], 1000) ^ stream[312:])
    assert abs(int(wrong.sum()) - 32_000) < 6 * 16_000**0.5


def test_known_noise_of_torch_gives_the_leading_bits_of_its_uniforms() -> None:
    """The equations of the attack hold for the state behind the noise, and half of them for any other."""
    generator = secret_generator()
    state = np.frombuffer(generator.get_state().numpy().tobytes(), np.uint64, 624, 24)
    bits = np.packbits(state[:, None] >> np.arange(32, dtype=np.uint64) & np.uint64(1), bitorder="little").view(
        np.uint64
    )
    noise = torch.empty(64, dtype=torch.float64).normal_(generator=generator).numpy()
    rows = mersenne.equations(64)
    left = np.bitwise_count(rows & bits).sum(axis=1) & 1
    right = mersenne.right_hand_sides([mersenne.leading_bits(noise), mersenne.leading_bits(normals(bytes(32), 0, 64))])
    assert np.array_equal(left, right & np.uint64(1))
    assert abs(np.mean(left == right >> np.uint64(1)) - 0.5) < 0.1


@pytest.mark.long
def test_one_known_layer_gives_the_noise_of_torch_away_and_none_of_ours() -> None:
    """2,048 float64 weights, 768 of them known: an exact linear solver tells starts apart in every release of the old noise.

    The starts are MU apart. Against AES, rounded to the grid or not, the equations contradict each other, and guesses by the
    best that the solver has are right half of the time.
    """
    coins, starts = np.random.default_rng(0), np.zeros((2, SIZE))
    starts[1, KNOWN:] = MU / (SIZE - KNOWN) ** 0.5
    truth = coins.integers(0, 2, mersenne.LANES)

    def release(lane: int) -> NDArray[np.float64]:
        start = torch.from_numpy(starts[truth[lane]].copy())
        if lane < 20:
            return start.add_(torch.empty(SIZE, dtype=torch.float64).normal_(generator=secret_generator())).numpy()
        if lane < 40:
            return start.numpy() + normals(Secret.fresh().derive("draw"), 0, SIZE)
        return Noise(1.0, None).add_(start, released=True).numpy()

    released = [release(lane) for lane in range(mersenne.LANES)]
    sides = mersenne.right_hand_sides([mersenne.leading_bits(r[:KNOWN]) for r in released])
    solution, impossible, rank = mersenne.solve(mersenne.equations(KNOWN), sides)
    assert rank == 19937

    right = np.zeros(mersenne.LANES, bool)
    for lane, r in enumerate(released):
        left = r - mersenne.predicted(solution, lane, SIZE)
        right[lane] = np.argmin(np.linalg.norm(left - starts, axis=1)) == truth[lane]
        if lane < 20:  # the start itself comes back
            assert np.abs(left - starts[truth[lane]]).max() < 1e-12
    assert [impossible >> lane & 1 for lane in range(mersenne.LANES)] == [0] * 20 + [1] * 44
    assert right[:20].all()
    assert 9 <= right[20:].sum() <= 35  # 22 expected of 44, four deviations
