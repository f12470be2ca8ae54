"""One release against a certifier: the tail is exact, the bound is seldom above the truth, and it is far above the old one."""

from fractions import Fraction
from math import comb, inf, log, sqrt

import mpmath
import numpy as np
import pytest
from scipy import stats

from expunge import OutputPerturbation, guarantee
from expunge.accounting import gaussian
from expunge.audit import Finding, JointGuesses, OneRun, joint_guesses
from expunge.audit.evidence.joint_guesses import log_tail

DELTA, CONFIDENCE = 1e-5, 0.95
HOW = {"delta": DELTA, "confidence": CONFIDENCE}


def exactly(weights, guesses, correct):
    """The tail counted in whole numbers, as a logarithm to 40 digits."""
    ways = [1]
    for w, n in zip(weights, guesses, strict=True):
        for _ in range(n):
            wider = [0] * (len(ways) + w)
            for v, count in enumerate(ways):
                wider[v] += count
                wider[v + w] += count
            ways = wider
    v = sum(w * c for w, c in zip(weights, correct, strict=True))
    share = Fraction(sum(ways[v:]), 2 ** sum(guesses))
    with mpmath.workdps(40):
        return mpmath.log(mpmath.mpf(share.numerator) / share.denominator)


@pytest.mark.parametrize(
    ("weights", "guesses", "correct"),
    [
        ((1,), (90,), (71,)),
        ((1,), (7,), (4,)),
        ((1, 2), (10, 5), (8, 4)),
        ((1, 3, 16), (20, 11, 4), (15, 9, 4)),
        ((2, 6), (40, 40), (30, 33)),
        ((5, 7, 11, 13), (30, 30, 30, 30), (30, 29, 30, 29)),
        ((16,), (200,), (199,)),
    ],
)
def test_the_tail_is_that_of_all_coins_counted_in_whole_numbers_and_never_below(weights, guesses, correct):
    exact = float(exactly(weights, guesses, correct))
    found = log_tail(weights, guesses, correct)
    assert exact <= found <= exact + 2e-9 * max(1, abs(exact))


@pytest.mark.parametrize(("n", "v"), [(9_000, 5_000), (9_000, 8_999), (60_000, 30_700), (60_000, 45_000)])
def test_the_tail_of_many_guesses_is_an_upper_bound_close_to_the_truth(n, v):
    ways, total = comb(n, v), 0
    for k in range(v, n + 1):
        total += ways
        ways = ways * (n - k) // (k + 1)
        if ways * n < total >> 60:  # the rest adds nothing to sixteen digits
            break
    exact = log(total) - n * log(2)
    found = log_tail((1,), (n,), (v,))
    assert exact - 1e-9 <= found <= exact + (10 if n > 22_000 else 3e-9 * abs(exact))  # above 5e8 products by Chernoff


def test_half_right_shows_nothing_and_all_right_shows_every_bit():
    assert log_tail((1, 4), (10, 10), (5, 5)) == 0
    assert log_tail((1, 4), (10, 10), (10, 10)) == -20 * log(2)
    nothing = JointGuesses(candidates=20, weights=(1,), guesses=(20,), correct=(10,))
    assert (nothing.epsilon(**HOW), nothing.mu(confidence=CONFIDENCE)) == (0, 0)
    whole = JointGuesses(candidates=20, weights=(1,), guesses=(20,), correct=(20,))
    assert whole.epsilon(**HOW) == pytest.approx(20 * log(2) + log(0.05 - DELTA))
    assert whole.ceiling(**HOW) == whole.epsilon(**HOW)


def test_the_stored_guesses_of_the_untouched_mnist_network_show_15_and_not_0_87():
    """71 of 90 guesses among 900 canaries: P[Bin(90, 1/2) >= 71] = 1.56e-8."""
    p = stats.binom.sf(70, 90, 0.5)
    seen = JointGuesses(candidates=900, weights=(1,), guesses=(90,), correct=(71,))
    assert seen.epsilon(**HOW) == pytest.approx(log((0.05 - DELTA) / p), rel=1e-7)
    assert seen.epsilon(**HOW) > 14.9
    assert OneRun(canaries=900, guesses=90, correct=71).epsilon(**HOW) < 0.88
    assert seen.mu(confidence=CONFIDENCE) == pytest.approx(stats.norm.ppf(0.05) - stats.norm.ppf(p), rel=1e-6)


def gaussian_release(rng, mu, m=900):
    """All candidates in directions of their own, N(0, I) around ± mu/√m each: μ-GDP to the certifier N(0, I)."""
    coins = rng.random(m) < 0.5
    return mu / sqrt(m) * np.where(coins, 1, -1) + rng.normal(size=m), coins


@pytest.mark.parametrize(("mu", "share"), [(3.0, 0.15), (6.0, 0.25), (12.0, 0.35)])
def test_one_release_shows_a_good_part_of_a_known_gaussian_law(mu, share):
    """The median of 100 audits, one release each, against the exact ε."""
    rng, truth = np.random.default_rng(1), gaussian.epsilon(mu, DELTA)
    shown = [joint_guesses(*gaussian_release(rng, mu)).epsilon(**HOW) for _ in range(100)]
    assert np.median(shown) >= share * truth
    assert np.mean(np.array(shown) > truth) <= 0.05


@pytest.mark.long
@pytest.mark.parametrize("mu", [0.5, 1.0, 3.0])
def test_no_more_than_the_promised_share_of_audits_is_above_the_truth(mu):
    """1,000 releases; the bound on μ is close, so that it does fail now and then."""
    rng, truth = np.random.default_rng(2), gaussian.epsilon(mu, DELTA)
    seen = [joint_guesses(*gaussian_release(rng, mu)) for _ in range(1000)]
    assert sum(s.epsilon(**HOW) > truth for s in seen) <= 50
    assert 10 <= sum(s.mu(confidence=CONFIDENCE) > mu for s in seen) <= 64  # P[Binomial(1000, 0.05) > 64] = 2 %


def output_perturbation_release(rng, claimed, *, noise, m=64):
    """Weights Σ x_i e_i of the rows that are in, clipped to the ball, and noise; scores of every row from the release."""
    coins = rng.random(m) < 0.5
    start = np.where(coins, 10.0, 0.0)
    start *= claimed.init_clip / np.linalg.norm(start)
    return start + noise * rng.normal(size=m), coins


@pytest.mark.long
@pytest.mark.parametrize("mu", [0.268, 2.0, 8.0])
def test_a_sound_mechanism_is_refuted_no_more_often_than_promised(mu):
    """1,000 releases of output perturbation, by ε or by μ."""
    rng, claimed = np.random.default_rng(6), OutputPerturbation(init_clip=mu / 2, noise_std=1.0)
    claim = guarantee(claimed, delta=DELTA)
    how = {"attack": "canaries", "relation": "retrained", "delta": DELTA, "confidence": CONFIDENCE}
    found = [
        Finding(evidence=joint_guesses(*output_perturbation_release(rng, claimed, noise=1.0)), **how)
        for _ in range(1000)
    ]
    assert sum(f.refutes(claim) for f in found) <= 50


def test_a_mechanism_that_does_nothing_is_refuted_at_10_by_one_release_of_64_rows():
    rng, claimed = np.random.default_rng(7), OutputPerturbation(init_clip=1.0, noise_std=10.0)
    seen = joint_guesses(*output_perturbation_release(rng, claimed, noise=1e-3))
    assert seen.epsilon(**HOW) > 10
    assert joint_guesses(*output_perturbation_release(rng, claimed, noise=10.0)).epsilon(**HOW) < 1


@pytest.mark.parametrize("make", [lambda rng, m: rng.normal(size=m), lambda rng, m: rng.standard_cauchy(m),
                                  lambda rng, m: rng.integers(3, size=m) * 1.0])  # fmt: skip
def test_a_certifier_is_refuted_no_more_often_than_promised_whatever_its_scores(make):
    """p-values of 1,500 releases that know nothing of the coins, at three levels."""
    rng = np.random.default_rng(3)
    p = np.array([joint_guesses(make(rng, 60), rng.random(60) < 0.5).log_p for _ in range(1500)])
    for level in (0.2, 0.05, 0.01):
        assert np.mean(p <= log(level)) <= level + 3 * sqrt(level / 1500)


def test_the_bound_holds_for_a_law_that_tells_all_or_nothing():
    """With chance q the release is the coins themselves, else noise: ε = log(q 2^m + 1 - q), attained at q = α."""
    m = 24
    told = JointGuesses(candidates=m, weights=(1,), guesses=(m,), correct=(m,))
    truth = log(0.05 * 2.0**m + 0.95)
    assert truth - 1e-5 < told.epsilon(delta=0.0, confidence=0.95) < truth


def test_a_few_that_stand_far_out_are_seen_by_their_distances():
    """20 of 144 stay as they were learned, and nothing else does: 20 guesses, all right."""
    rng = np.random.default_rng(4)
    coins, scores = rng.random(144) < 0.5, rng.normal(size=144)
    scores[np.flatnonzero(coins)[:20]] += 1000
    seen = joint_guesses(scores, coins)
    assert sum(seen.guesses) < 30
    assert seen.epsilon(**HOW) == pytest.approx(20 * log(2) + log(0.2 * (0.05 - DELTA)), abs=0.01)


def test_several_releases_are_tested_each_at_its_share():
    rng = np.random.default_rng(5)
    rows = [gaussian_release(rng, 12.0, 100) for _ in range(4)]
    scores, coins = (np.stack(part) for part in zip(*rows, strict=True))
    seen = joint_guesses(scores, coins)
    assert seen.share in (0.8 / 4, 0.2 / 4)
    assert seen.candidates == 100
    alone = [joint_guesses(*row).epsilon(**HOW) for row in rows]
    assert seen.epsilon(**HOW) == pytest.approx(max(alone) - log(4))


def test_equal_scores_say_nothing_of_one_another():
    coins = np.array([True, False] * 10)
    assert joint_guesses(np.zeros(20), coins).epsilon(**HOW) == 0
    steps = np.repeat([0.0, 1.0, 2.0], [2, 16, 2])
    assert sum(joint_guesses(steps, coins).guesses) <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": 10**400}, "candidates must be at most"),
        ({"guesses": (91,), "candidates": 90}, "nor these candidates=90"),
        ({"correct": (91,)}, "must not exceed guesses"),
        ({"weights": (0,)}, r"weights\[0\] must be a whole number of at least 1"),
        ({"weights": (2, 1), "guesses": (1, 1), "correct": (1, 1)}, "weights must rise"),
        ({"weights": (10**6,)}, "up to 1024"),
        ({"weights": (1, 2)}, "one for each"),
        ({"weights": ()}, "list of 1 to 64"),
        ({"guesses": 90}, "guesses must be a list"),
        ({"share": 0.0}, "share must be a finite number above 0"),
        ({"share": 1.5}, "share must be at most 1"),
        ({"share": float("nan")}, "share"),
    ],
)
def test_numbers_that_no_test_can_have_seen_are_refused_by_name(change, message):
    fields = {"candidates": 900, "weights": (1,), "guesses": (90,), "correct": (71,)} | change
    with pytest.raises(ValueError, match=message):
        JointGuesses(**fields)


@pytest.mark.parametrize("scores", [[1.0, inf], [1.0, float("nan")]])
def test_scores_without_an_order_are_refused(scores):
    with pytest.raises(ValueError, match="scores"):
        joint_guesses(np.array(scores), np.array([True, False]))
