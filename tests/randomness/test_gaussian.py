"""Normal numbers: their law, their tail, their bits."""

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from expunge.randomness import boxmuller, gaussian, stream
from expunge.randomness.gaussian import add, each_slice, normals
from expunge.randomness.stream import words

KEY = bytes(range(32))
MANY = 1_000_001


@pytest.fixture(scope="module")
def drawn() -> NDArray[np.float64]:
    return normals(KEY, 0, MANY)


def exact(a: int, b: int, more: int) -> tuple[mpmath.mpf, mpmath.mpf]:
    """The pair of two words in sixty digits, from the text of the module."""
    with mpmath.workdps(60):
        low, half = a % 2**63, b % 2**63
        u = mpmath.mpf(low + 1) / 2**63 if low >= 2**43 else (low + mpmath.mpf(more + 1) / 2**64) / 2**63
        v = mpmath.mpf(half if half < 2**62 else half - 2**63) / 2**62
        r, t = mpmath.sqrt(-mpmath.log(u)), v * mpmath.pi / 4
        signs = (-1 if word >> 63 else 1 for word in (a, b))
        pair = (r * (mpmath.cos(t) - mpmath.sin(t)), r * (mpmath.cos(t) + mpmath.sin(t)))
        return next(signs) * pair[0], next(signs) * pair[1]


def with_words(chosen: list[int], monkeypatch: pytest.MonkeyPatch, more: int = 0) -> NDArray[np.float64]:
    """The numbers made of chosen words; `more` is what is read where a first word is small."""

    def fill(key: bytes, block: int, pairs: int, raw: bytearray, zeros: memoryview) -> None:
        raw[: 16 * pairs] = (b"".join(w.to_bytes(8, "little") for w in chosen)).ljust(16 * pairs, b"\x80")

    monkeypatch.setattr(stream, "fill", fill)
    monkeypatch.setattr(stream, "words", lambda key, start, stop: np.array([more], np.uint64))
    return normals(KEY, 0, len(chosen))


def test_the_law_is_standard_normal(drawn: NDArray[np.float64]) -> None:
    """Kolmogorov-Smirnov, eight moments, and squares of neighbours, within five deviations."""
    assert stats.kstest(drawn, "norm").pvalue > 1e-4
    for power, moment, spread in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170), (8, 105, 2016000)):
        assert abs((drawn**power).mean() - moment) < 5 * (spread / MANY) ** 0.5
    even, odd = drawn[:-1:2], drawn[1::2]
    for f in (lambda x: x, np.square, np.abs, np.sign):
        assert abs(np.corrcoef(f(even), f(odd))[0, 1]) < 5 / len(even) ** 0.5
        assert abs(np.corrcoef(f(drawn[:-1]), f(drawn[1:]))[0, 1]) < 5 / len(drawn) ** 0.5
    radius, angle = even**2 + odd**2, np.arctan2(odd, even)
    assert stats.kstest(radius, "chi2", (2,)).pvalue > 1e-4
    assert stats.kstest(angle, "uniform", (-np.pi, 2 * np.pi)).pvalue > 1e-4


def test_every_number_is_its_words_in_sixty_digits(drawn: NDArray[np.float64]) -> None:
    """Off by at most 2^-50 R, the bound from which docs/randomness.md goes on."""
    found = words(KEY, 0, 4000).tolist()
    for k in range(2000):
        a, b = found[2 * k : 2 * k + 2]
        pair = exact(a, b, 0)
        length = mpmath.sqrt(pair[0] ** 2 + pair[1] ** 2)
        for i in range(2):
            error = abs(pair[i] - mpmath.mpf(float(drawn[2 * k + i])))
            assert error <= length * 2.0**-50 + 2.0**-54 / length


@pytest.mark.parametrize(
    ("low", "more", "reached"),
    [
        (0, 0, 13.268),
        (0, 2**64 - 1, 9.345),
        (1, 0, 9.345),
        (2**43 - 1, 5, 5.265),
        (2**43, 5, 5.265),
        (2**63 - 1, 0, 0.0),
    ],
)
def test_the_tail_is_reached_by_the_words_that_should(
    low: int, more: int, reached: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen words go out to 13.27 in all four quarters, and agree there with sixty digits."""
    for sign in range(4):
        for b in (0, 2**62, 2**62 - 1, 2**61, 12345678901234567):
            a, turned = low | (sign & 1) << 63, b | (sign >> 1) << 63
            pair = with_words([a, turned], monkeypatch, more)
            true = exact(a, turned, more)
            assert float(np.hypot(*pair)) == pytest.approx(reached, abs=1e-3)
            if reached:
                assert np.array_equal(np.signbit(pair), [bool(sign & 1), bool(sign >> 1)])
            else:  # added to 0, where signs are lost
                assert not pair.any()
            for mine, theirs in zip(pair.tolist(), true, strict=True):
                assert mine == pytest.approx(float(theirs), rel=1e-15, abs=max(reached, 1e-9) * 2.0**-50)


def test_more_bits_are_read_from_blocks_that_nothing_else_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small word's further bits come from block 2^64 + k, once a pair."""
    asked: list[int] = []
    for module in (gaussian, boxmuller):
        monkeypatch.setattr(module, "FEW", np.uint64(2**63 - 1))
    real = stream.words
    monkeypatch.setattr(stream, "words", lambda key, start, stop: asked.append(start) or real(key, start, stop))
    normals(KEY, 1_000_000, 1_000_008)
    assert asked == [2 * (2**64 + 500_000 + k) for k in range(4)]


def chosen_words() -> NDArray[np.uint64]:
    """Pairs of words: any, and those at which signs, exponents and branches change."""
    ends = np.array([0, 1, 2**43 - 1, 2**43, 2**61, 2**62 - 1, 2**62, 2**63 - 2, 2**63 - 1], np.uint64)
    ends = np.concatenate([ends, ends + np.uint64(2**63), 2 ** np.arange(64, dtype=np.uint64)])
    pairs = np.stack(np.meshgrid(ends, ends), axis=-1).reshape(-1, 2)
    return np.concatenate([pairs, words(KEY, 0, 400_001 * 2).reshape(-1, 2)])


@pytest.mark.parametrize("shift", [None, np.float32, np.float64])
def test_compiled_code_gives_the_bits_of_numpy(shift: type | None) -> None:
    """The two copies of the transform agree on every word, with what they are added to, and its move."""
    numba = pytest.importorskip("expunge.randomness.compiled")
    pairs = chosen_words()
    start = np.linspace(-3, 5, 2 * len(pairs))
    move = (0.99, np.empty(0) if shift is None else np.sin(100 * start).astype(shift), -0.7)
    mine, theirs = start.copy(), start.copy()
    assert numba.transform(pairs, mine, 0.37, *move)
    assert boxmuller.Transform(len(pairs))(pairs, theirs, 0.37, *move)
    assert np.array_equal(mine.view(np.uint64), theirs.view(np.uint64))
    assert not np.array_equal(mine, start)


def test_a_long_vector_has_the_same_bits_without_the_compiler(
    drawn: NDArray[np.float64], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine without numba goes on where another stopped."""
    monkeypatch.setattr(gaussian, "_compiled", lambda: None)
    assert np.array_equal(normals(KEY, 0, MANY), drawn)


def test_the_logarithm_is_right_to_one_unit_in_the_last_place() -> None:
    """Beside sixty digits, near 1, where exponents change, and in the far tail."""
    near = 1 - 2.0 ** -np.arange(1, 54)
    u = np.concatenate([2.0 ** -np.arange(0, 127), near, near / 2**0.5, np.random.default_rng(0).random(2000)])
    found = u.copy()
    boxmuller.Transform(len(u))._log(found)
    for one, log in zip(u.tolist(), found.tolist(), strict=True):
        with mpmath.workdps(60):
            assert abs(mpmath.log(one) - log) <= np.spacing(abs(log))


def test_numbers_are_added_where_they_belong(drawn: NDArray[np.float64]) -> None:
    """`add` is start + scale * number, rounded twice, at odd ends too; nothing beside the target is touched."""
    for begin, end in ((0, MANY), (1, 400_000), (7, 8), (131_071, 131_074)):
        start = np.linspace(-1, 2, end - begin + 2)
        target = start.copy()
        add(KEY, begin, target[1:-1], 0.3, threads=2)
        assert np.array_equal(target[1:-1], start[1:-1] + 0.3 * drawn[begin:end])
        assert (target[0], target[-1]) == (start[0], start[-1])


def test_any_split_gives_the_same_bits(drawn: NDArray[np.float64]) -> None:
    """Random slices, odd starts and lengths among them, are slices of the whole."""
    coins = np.random.default_rng(0)
    for _ in range(400):
        start = int(coins.integers(0, MANY))
        stop = min(MANY, start + int(coins.choice([1, 2, 3, 5, 8, 33, 127, 1000, 40_000])))
        assert np.array_equal(normals(KEY, start, stop), drawn[start:stop])


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_any_number_of_threads_gives_the_same_bits(threads: int, drawn: NDArray[np.float64]) -> None:
    """Slices are handed to threads; the numbers stay, and every coordinate is visited once."""
    found, visits = np.zeros(MANY), np.zeros(MANY, np.int64)

    def keep(begin: int, end: int, part: NDArray[np.float64]) -> None:
        found[begin:end] = part
        visits[begin:end] += 1

    each_slice(KEY, 0, MANY, keep, threads=threads)
    assert np.array_equal(found, drawn)
    assert (visits == 1).all()


def test_an_error_in_a_thread_is_raised() -> None:
    """Nothing is swallowed."""

    def fail(begin: int, end: int, part: NDArray[np.float64]) -> None:
        raise ValueError("full")

    for threads in (1, 2):
        with pytest.raises(ValueError, match="full"):
            each_slice(KEY, 0, 200_000, fail, threads=threads)


def test_no_coordinates_are_no_visit() -> None:
    """An empty vector."""
    assert normals(KEY, 5, 5).shape == (0,)


def test_another_key_gives_unrelated_numbers(drawn: NDArray[np.float64]) -> None:
    """One bit of the key changes everything."""
    other = normals(bytes([*range(31), 30]), 0, MANY)
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 5 / MANY**0.5
    assert not (drawn == other).any()
