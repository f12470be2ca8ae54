"""Bounds lie below the truth as often as they say, close to it, and agree with slower formulas."""

from math import exp, inf, log, sqrt

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import brentq

from expunge.accounting import gaussian
from expunge.audit.evidence import EVIDENCE, Counts, GaussianFit, Means, OneRun, OneRunViaCertifier

DELTA, CONFIDENCE = 1e-5, 0.95


@pytest.mark.parametrize(("yes", "total"), [(0, 10), (3, 10), (10, 10), (250, 1000), (1, 100_000)])
def test_rates_are_scipys_clopper_pearson_limits(yes, total):
    p_low, q_high = Counts(positives=total, true_positives=yes, negatives=total, false_positives=yes).rates(CONFIDENCE)
    limits = stats.binomtest(yes, total).proportion_ci(2 * CONFIDENCE - 1 + (1 - CONFIDENCE), method="exact")
    assert p_low == pytest.approx(limits.low, rel=1e-7, abs=1e-9)
    assert q_high == pytest.approx(limits.high, rel=1e-7)


def test_epsilon_from_counts_is_the_larger_of_the_two_log_ratios():
    p, q = (c := Counts(positives=1000, true_positives=400, negatives=1000, false_positives=20)).rates(CONFIDENCE)
    assert c.epsilon(delta=DELTA, confidence=CONFIDENCE) == pytest.approx(log((p - DELTA) / q))
    p, q = (c := Counts(positives=1000, true_positives=980, negatives=1000, false_positives=600)).rates(CONFIDENCE)
    assert c.epsilon(delta=DELTA, confidence=CONFIDENCE) == pytest.approx(log((1 - q - DELTA) / (1 - p)))


def test_no_difference_shows_nothing():
    even = Counts(positives=1000, true_positives=500, negatives=1000, false_positives=500)
    assert even.epsilon(delta=DELTA, confidence=CONFIDENCE) == 0
    assert even.mu(confidence=CONFIDENCE) == 0
    less = Counts(positives=1000, true_positives=100, negatives=1000, false_positives=900)
    assert less.epsilon(delta=DELTA, confidence=CONFIDENCE) == 0


@pytest.mark.parametrize("n", [1, 10, 1000, 10**6])
def test_the_ceiling_of_counts_is_the_rule_of_three(n):
    """0 of n: the 97.5 % limit is 1 - 0.025^(1/n), on both sides."""
    ceiling = Counts(positives=n, true_positives=0, negatives=n, false_positives=0).ceiling(
        delta=0.0, confidence=CONFIDENCE
    )
    miss = 1 - 0.025 ** (1 / n)
    assert ceiling == pytest.approx(max(log((1 - miss) / miss), 0), rel=1e-6)


def test_counts_of_a_gaussian_shift_stay_below_its_truth_at_least_as_often_as_promised():
    """μ = 1, the threshold where ε is clearest at δ = 1e-2; 2,000 audits of 500 samples."""
    rng, mu, delta, n = np.random.default_rng(1), 1.0, 1e-2, 500
    truth, threshold = gaussian.epsilon(mu, delta), 1.8
    p, q = stats.norm.sf(threshold - mu), stats.norm.sf(threshold)
    wrong = wrong_mu = 0
    for yes, false in zip(rng.binomial(n, p, 2000), rng.binomial(n, q, 2000), strict=True):
        seen = Counts(positives=n, true_positives=int(yes), negatives=n, false_positives=int(false))
        wrong += seen.epsilon(delta=delta, confidence=0.8) > truth
        wrong_mu += seen.mu(confidence=0.8) > mu
    assert wrong <= 2000 * 0.2
    assert 0 < wrong_mu <= 2000 * 0.2  # close to the truth: it does fail now and then


def test_hoeffding_limits_cover_what_they_promise_and_are_those_of_a_direct_search():
    seen = Means(p_mean=0.8, p_runs=30, q_mean=0.6, q_runs=20)
    p, q = seen.rates(CONFIDENCE)

    def kl(a, b):
        return a * log(a / b) + (1 - a) * log((1 - a) / (1 - b))

    cost = log(2 / 0.05)
    assert q == pytest.approx(brentq(lambda x: 20 * kl(0.6, x) - cost, 0.6, 1 - 1e-12), rel=1e-9)
    assert p == pytest.approx(brentq(lambda x: 30 * kl(0.8, x) - cost, 1e-12, 0.8), rel=1e-9)
    rng, wrong = np.random.default_rng(2), 0
    for sample in rng.beta(8, 2, (2000, 30)).mean(1):  # mean 0.8
        wrong += Means(p_mean=sample, p_runs=30, q_mean=0.5, q_runs=1).rates(0.8)[0] > 0.8
    assert wrong <= 2000 * 0.1


def test_means_at_the_ends_of_the_interval_have_limits_too():
    seen = Means(p_mean=1.0, p_runs=8, q_mean=0.0, q_runs=8)
    p, q = seen.rates(CONFIDENCE)
    assert p == pytest.approx(0.025 ** (1 / 8), rel=1e-6)
    assert q == pytest.approx(1 - 0.025 ** (1 / 8), rel=1e-6)
    assert seen.ceiling(delta=0.0, confidence=CONFIDENCE) == seen.epsilon(delta=0.0, confidence=CONFIDENCE)


def fit(p, q):
    degrees = len(p) + len(q) - 2
    pooled = sqrt(((len(p) - 1) * p.var(ddof=1) + (len(q) - 1) * q.var(ddof=1)) / degrees)
    return GaussianFit(p_mean=p.mean(), p_samples=len(p), q_mean=q.mean(), q_samples=len(q), std=pooled)


@pytest.mark.parametrize("mu", [0.3, sqrt(2), 5.0])
@pytest.mark.parametrize("n", [10, 300])
def test_the_gaussian_fit_covers_the_truth_exactly_as_often_as_it_says(mu, n):
    rng = np.random.default_rng(3)
    wrong = sum(fit(rng.normal(mu, 1, n), rng.normal(0, 1, n)).mu(confidence=0.8) > mu for _ in range(400))
    assert abs(wrong - 80) < 4 * sqrt(400 * 0.2 * 0.8)


@pytest.mark.parametrize(("t", "degrees"), [(0.5, 8), (3.0, 20), (40.0, 198), (300.0, 100_000), (-2.0, 50)])
def test_the_noncentral_limit_is_that_of_scipys_distribution(t, degrees):
    n = (degrees + 2) // 2
    seen = GaussianFit(p_mean=t / sqrt(n / 2), p_samples=n, q_mean=0.0, q_samples=n, std=1.0)
    mu = seen.mu(confidence=0.9)
    if mu > 0:
        assert stats.nct.sf(t, degrees, mu * sqrt(n / 2)) == pytest.approx(0.1, rel=1e-4)
    else:
        assert stats.t.sf(t, degrees) >= 0.1


def test_the_gaussian_fit_gives_the_epsilon_of_its_shift_from_below_and_has_no_ceiling():
    seen = fit(*np.random.default_rng(4).normal([[sqrt(2)], [0.0]], 1.0, (2, 50_000)))
    epsilon = seen.epsilon(delta=DELTA, confidence=CONFIDENCE)
    assert 6.4 < epsilon < 6.573
    assert epsilon <= gaussian.epsilon(seen.mu(confidence=CONFIDENCE), DELTA)
    assert seen.ceiling(delta=DELTA, confidence=CONFIDENCE) == inf


def chance_by_the_papers_loop(m, r, v, epsilon, delta):
    """Appendix D of arXiv 2305.08846."""
    q = 1 / (1 + exp(-epsilon))
    masses = stats.binom.pmf(range(v), r, q)
    most = max((masses[v - i :].sum() / i for i in range(1, v + 1)), default=0.0)
    return min(stats.binom.sf(v - 1, r, q) + 2 * m * delta * most, 1.0)


@pytest.mark.parametrize(("m", "r", "v"), [(1000, 100, 80), (1000, 1000, 600), (50, 50, 50), (200, 40, 39), (10, 5, 0)])
@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_the_one_run_bound_is_where_the_papers_p_value_crosses_alpha(m, r, v, delta):
    seen = OneRun(canaries=m, guesses=r, correct=v)
    for epsilon in (0.0, 0.5, 2.0):
        assert seen._chance(epsilon, delta) == pytest.approx(chance_by_the_papers_loop(m, r, v, epsilon, delta))
    bound = seen.epsilon(delta=delta, confidence=CONFIDENCE)
    if bound:
        assert chance_by_the_papers_loop(m, r, v, bound, delta) <= 0.05
        assert chance_by_the_papers_loop(m, r, v, bound * (1 + 1e-6), delta) >= 0.05
    else:
        assert chance_by_the_papers_loop(m, r, v, 0.0, delta) > 0.05


@pytest.mark.parametrize("delta", [0.0, 1e-5, 1e-3])
def test_through_a_certifier_the_one_run_bound_is_that_of_two_steps(delta):
    """P ≤ e^ε C + δ and C ≤ e^ε Q + δ: the canary's coin moves the output by (2ε, (1 + e^ε) δ)."""
    counts = {"canaries": 200, "guesses": 100, "correct": 95}
    bound = OneRunViaCertifier(**counts).epsilon(delta=delta, confidence=CONFIDENCE)
    assert bound > 0

    def chance(epsilon):
        return chance_by_the_papers_loop(200, 100, 95, 2 * epsilon, (1 + exp(epsilon)) * delta)

    assert chance(bound) <= 0.05 <= chance(bound * (1 + 1e-6))
    plain = OneRun(**counts)
    if delta == 0:
        assert 2 * bound == pytest.approx(plain.epsilon(delta=0.0, confidence=CONFIDENCE), rel=1e-6)
    assert OneRunViaCertifier(**counts).ceiling(delta=delta, confidence=0.95) < plain.ceiling(
        delta=delta, confidence=0.95
    )


def test_two_outputs_at_either_side_of_a_certifier_are_refuted_by_one_run_and_not_through_the_certifier():
    """N(1, 1) and N(-1, 1), each 1-GDP to N(0, 1): the expected guesses above 3.3 and below -3.3 of four million coins."""
    claim, delta = gaussian.epsilon(1.0, 1e-9), 1e-9
    right, wrong = (round(4e6 * stats.norm.sf(3.3 - mean)) for mean in (1, -1))
    counts = {"canaries": 4_000_000, "guesses": right + wrong, "correct": right}
    assert OneRun(**counts).epsilon(delta=delta, confidence=CONFIDENCE) > claim
    assert OneRunViaCertifier(**counts).epsilon(delta=delta, confidence=CONFIDENCE) < 0.6 * claim


def test_randomised_response_is_not_refuted_by_one_run_more_often_than_promised():
    """ε = 1 exactly: the case where Theorem 3.1 is tight for δ = 0."""
    rng, truth = np.random.default_rng(5), 1.0
    correct = rng.binomial(500, 1 / (1 + exp(-truth)), 400)
    bounds = [OneRun(canaries=500, guesses=500, correct=int(c)).epsilon(delta=0.0, confidence=0.9) for c in correct]
    wrong = sum(b > truth for b in bounds)
    assert 0 < wrong <= 40 + 4 * sqrt(400 * 0.1 * 0.9)


def test_more_canaries_raise_the_ceiling_of_one_run():
    ceilings = [
        OneRun(canaries=m, guesses=1, correct=0).ceiling(delta=DELTA, confidence=CONFIDENCE) for m in (10, 100, 1000)
    ]
    assert ceilings == sorted(ceilings)
    assert ceilings[0] == pytest.approx(-log(0.05 ** (-1 / 10) - 1), abs=0.02)


def test_every_kind_of_evidence_is_in_the_table_under_its_name():
    assert set(EVIDENCE) == {"counts", "means", "gaussian_fit", "one_run", "one_run_via_certifier", "joint_guesses"}
    assert all(cls.kind == name and cls.assumes for name, cls in EVIDENCE.items())


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Counts(positives=0, true_positives=0, negatives=1, false_positives=0), ValueError, "positives"),
        (lambda: Counts(positives=5, true_positives=6, negatives=1, false_positives=0), ValueError, "true_positives=6"),
        (lambda: Counts(positives=5, true_positives=2.0, negatives=1, false_positives=0), TypeError, "true_positives"),
        (lambda: Means(p_mean=1.1, p_runs=3, q_mean=0.1, q_runs=3), ValueError, r"p_mean must lie in \[0, 1\]"),
        (lambda: Means(p_mean=float("nan"), p_runs=3, q_mean=0.1, q_runs=3), ValueError, "p_mean"),
        (lambda: GaussianFit(p_mean=0.0, p_samples=1, q_mean=0.0, q_samples=9, std=1.0), ValueError, "p_samples"),
        (lambda: GaussianFit(p_mean=0.0, p_samples=9, q_mean=0.0, q_samples=9, std=0.0), ValueError, "std"),
        (lambda: GaussianFit(p_mean=inf, p_samples=9, q_mean=0.0, q_samples=9, std=1.0), ValueError, "p_mean"),
        (lambda: OneRun(canaries=5, guesses=6, correct=1), ValueError, "guesses=6"),
        (lambda: OneRun(canaries=5, guesses=3, correct=4), ValueError, "correct=4"),
        (lambda: OneRun(canaries=5, guesses=3, correct=1).epsilon(delta=1.0, confidence=0.9), ValueError, "delta"),
        (lambda: OneRun(canaries=5, guesses=3, correct=1).epsilon(delta=0.1, confidence=1.0), ValueError, "confidence"),
        (
            lambda: OneRun(canaries=5, guesses=3, correct=1).epsilon(delta=0.1, confidence=0.3),
            ValueError,
            "at least 0.5",
        ),
    ],
)
def test_bad_input_is_refused_by_name(make, error, message):
    with pytest.raises(error, match=message):
        make()
