"""What a certificate says to whoever is no engineer: numbers that no guess exceeds, and none where none is proven."""

from dataclasses import replace
from math import exp, floor

import mpmath as mp
import numpy as np
import pytest

from expunge import Certificate, GradientClipping, Kind, ModelClipping, OutputPerturbation, Relation, guarantee
from expunge.accounting.bounds import reading_of
from expunge.report import plain
from test_vectors import BY_NAME

VALID = {name: Certificate(v["certificate"]) for name, v in BY_NAME.items() if v["result"] == "valid"}
LIMITED = {
    name: c
    for name, c in VALID.items()
    if c.claim.kind is Kind.EPSILON_DELTA and c.mechanism.gradient_steps < 10**5  # their lower bounds go step by step
}


@pytest.mark.parametrize("mu", [0.05, 0.5, 1.0, 3.0])
def test_of_one_gaussian_release_it_is_the_exact_law_rounded_up(mu: float):
    """Two Gaussians μ apart: the best guess is right with probability Φ(μ/2)."""
    mechanism = OutputPerturbation(init_clip=1.0, noise_std=2.0 / mu)
    apart = plain.total_variation(mechanism, guarantee(mechanism, delta=1e-5))
    exact = mp.ncdf(mp.mpf(mu) / 2)
    assert exact <= (1 + apart) / 2 <= exact * (1 + 1e-8)


@pytest.mark.parametrize(("epsilon", "delta"), [(0.0, 1e-5), (1.0, 1e-5), (0.3, 0.2), (4.0, 0.01)])
def test_of_a_point_alone_it_is_the_largest_gap_of_two_rates_that_the_point_allows(epsilon: float, delta: float):
    """A mechanism that says nothing but its point: the gap is found by trying rates q, without the closed form."""

    class Point(OutputPerturbation):
        def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
            return 0.0

        def mu(self, relation: Relation = Relation.RETRAINED) -> float:
            return float("inf")

    claim = replace(
        guarantee(OutputPerturbation(init_clip=1.0, noise_std=2.0), delta=0.5), epsilon=epsilon, delta=delta
    )
    q = np.linspace(0, 1, 1_000_001)
    p = np.minimum(exp(epsilon) * q + delta, 1 - exp(-epsilon) * (1 - q - delta))
    largest = float((np.minimum(p, 1) - q).max())
    assert plain.total_variation(Point(init_clip=1.0, noise_std=2.0), claim) == pytest.approx(largest, abs=3e-6)


@pytest.mark.parametrize("name", sorted(LIMITED))
def test_no_certificate_promises_less_than_some_adversary_attains(name: str):
    certificate = LIMITED[name]
    claim = certificate.claim
    one, relation = reading_of(certificate.mechanism, delta=claim.delta, relation=claim.relation)
    attained = 50 * (1 + exp(one.log_delta_lower(0.0, relation)))
    cases = plain.right_guesses(certificate)
    assert cases is not None
    assert attained <= cases <= 100
    assert cases > 50
    assert cases * 10 == floor(cases * 10 + 0.5)  # a tenth


def test_the_sentence_carries_the_number_and_what_a_coin_reaches():
    mechanism_1 = "schema 1: gradient_clipping"  # (1, 1e-5)
    assert "is right in at most 55.4 of 100 cases. A coin is right in 50." in plain.guessing(VALID[mechanism_1])
    assert "is right in 50 of 100 cases" in plain.guessing(VALID["retrain, retrained"])
    assert "may be right in 100 of 100" in plain.guessing(VALID["undeclared_features, retrained"])
    assert plain.right_guesses(VALID["undeclared_features, retrained"]) is None
    assert "from noise around a public point" in plain.guessing(VALID["model_clipping, center"])


def test_what_is_kept_is_judged_by_total_variation_where_noise_is_to_hide_it():
    assert "next to nothing of the training is left" in plain.kept(VALID["schema 1: gradient_clipping"])
    assert "something of the training may be left" in plain.kept(VALID["output_perturbation, large mu, retrained"])
    for silent in ("retrain, retrained", "measured_residual, retrained", "dp_training, retrained", "replay, center"):
        assert plain.kept(VALID[silent]) == ""
    step = {"learning_rate": 0.1, "steps": 3, "noise_std": 1.0}
    assert plain.noise_hides(ModelClipping(model_clip=1.0, **step))
    assert plain.noise_hides(GradientClipping(init_clip=1.0, grad_clip=1.0, weight_decay=0.5, **step))
