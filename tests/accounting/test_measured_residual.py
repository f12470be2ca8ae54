"""A measured residual: one Gaussian, whose shift is the residual over the convexity."""

import pytest

from expunge.accounting import MeasuredResidual, Relation, guarantee

FIELDS = {"residual": 2e-6, "strong_convexity": 1e-4, "noise_std": 0.02, "provenance": "trained on ImageNet"}


@pytest.mark.parametrize("relation", list(Relation))
def test_a_measured_residual_is_the_gaussian_mechanism_at_residual_over_convexity(relation):
    # 2e-6 / 1e-4 / 0.02 = 1, whose epsilon at 1e-5 is that of output perturbation with C0 = 1, sigma = 2.
    mechanism = MeasuredResidual(**FIELDS)
    assert mechanism.mu(relation) == pytest.approx(1.0, rel=1e-12)
    assert guarantee(mechanism, delta=1e-5, relation=relation).epsilon == pytest.approx(4.377178, abs=1e-6)


@pytest.mark.parametrize("provenance", ["", " padded", "two\nlines", 7, None])
def test_a_provenance_that_says_nothing_is_refused(provenance):
    with pytest.raises((ValueError, TypeError), match="provenance"):
        MeasuredResidual(**FIELDS | {"provenance": provenance})
