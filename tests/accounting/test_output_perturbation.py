"""Output perturbation: one Gaussian, from which both relations follow."""

import pytest

from expunge.accounting import OutputPerturbation, Relation, delta_at


def test_center_has_half_the_mu_of_retrained_for_output_perturbation():
    mechanism = OutputPerturbation(init_clip=0.3, noise_std=0.7)
    assert mechanism.mu(Relation.RETRAINED) == pytest.approx(2 * 0.3 / 0.7, rel=1e-14)
    assert mechanism.mu(Relation.CENTER) == mechanism.mu(Relation.RETRAINED) / 2


def test_delta_at_of_a_noisy_mechanism_is_never_zero():
    assert delta_at(OutputPerturbation(init_clip=1e-3, noise_std=10.0), 100.0) >= 1e-300
