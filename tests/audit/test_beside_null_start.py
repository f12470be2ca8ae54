"""The cheapest audit: a certificate that holds for every start holds for the null start."""

import numpy as np
import pytest

from expunge import OutputPerturbation, guarantee
from expunge.audit.beside_null_start import null_start

CLAIM = guarantee(OutputPerturbation(init_clip=0.134, noise_std=1.0), delta=1e-5)  # μ = 0.268: (1, 1e-5)


def audit(trained, null, seed=0, **fields):
    return null_start(trained, null, delta=1e-5, generator=np.random.default_rng(seed), **fields)


def test_a_gap_that_no_certificate_allows_is_refuted_by_the_threshold():
    rng = np.random.default_rng(1)
    found = audit(rng.uniform(0.8, 0.9, 32), rng.uniform(0.1, 0.2, 32))
    assert [f.refutes(CLAIM) for f in found] == [True, True]
    assert all(f.null_epsilon == 0 for f in found)
    assert found[0].attack == "null start: accuracy, beyond a threshold"


def test_equal_starts_are_refuted_no_more_often_than_promised():
    rng = np.random.default_rng(2)
    wrong = sum(
        any(f.refutes(CLAIM) for f in audit(*rng.normal(0.8, 0.02, (2, 24)).clip(0, 1), seed=k, confidence=0.8))
        for k in range(200)
    )
    assert wrong <= 200 * 0.2


def test_a_gap_that_the_certificate_allows_is_refuted_no_more_often_than_promised():
    """Metrics that are functions of Gaussians at distance μ: as far apart as the certificate allows."""
    rng = np.random.default_rng(3)
    wrong = 0
    for k in range(200):
        far, near = rng.normal(0.268, 1, 60), rng.normal(0, 1, 60)
        wrong += any(
            f.refutes(CLAIM) for f in audit(1 / (1 + np.exp(-far)), 1 / (1 + np.exp(-near)), seed=k, confidence=0.8)
        )
    assert wrong <= 200 * 0.2


def test_four_runs_to_test_a_threshold_can_show_nothing():
    clear = audit(np.linspace(0.9, 1.0, 8), np.linspace(0.0, 0.1, 8))[0]
    assert clear.epsilon == clear.mu == clear.ceiling == 0


def test_the_two_findings_share_the_chance_of_being_wrong():
    found = audit(np.linspace(0.8, 0.9, 8), np.linspace(0.7, 0.8, 8), confidence=0.9)
    assert sum(1 - f.confidence for f in found) == pytest.approx(0.1)


def test_more_seeds_raise_the_ceiling():
    few, many = (audit(np.full(n, 0.9) - np.arange(n) / 1e4, np.full(n, 0.1) + np.arange(n) / 1e4) for n in (8, 80))
    assert [f.ceiling < m.ceiling for f, m in zip(few, many, strict=True)] == [True, True]


@pytest.mark.parametrize(
    ("trained", "null", "message"),
    [
        ([0.5] * 3, [0.5] * 9, "trained must hold the accuracy of at least 4 runs"),
        ([0.5] * 4, [[0.5] * 4], "null must hold"),
        ([0.5, float("nan"), 0.1, 0.2], [0.5] * 4, r"trained must lie in \[0, 1\], not nan at index 1"),
        ([0.5, 0.6, 0.1, 0.2], [0.5, 60.0, 0.1, 0.2], "not 60.0 at index 1"),
    ],
)
def test_bad_metrics_are_refused_by_name(trained, null, message):
    with pytest.raises(ValueError, match=message):
        audit(trained, null)
