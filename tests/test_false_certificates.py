"""Numbers that were called certificates and are none: each is refused, and what may be said instead is not.

More of the table "Negative controls" of the specification, beside test_negative_controls.py.
"""

from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import pytest
import torch

from expunge import Budget, Kind, OutputPerturbation, Relation, Replay, guarantee, issue, verify
from expunge.accounting import gaussian
from expunge.attacks import two_worlds
from expunge.errors import CertificateError, ClaimRefused, MalformedCertificate, RunError
from expunge.testing import ContractViolation, check_mechanism
from expunge.unlearners.output_perturbation import noisy_steps as output_perturbation
from forging import DELTA, certificate_of, forged, record_of

ETA, STEPS, BACK = 0.1, 60, 20


@dataclass(frozen=True, kw_only=True)
class RewindToDelete(OutputPerturbation):
    """Go back K steps, train on without the forgotten rows, add noise; μ by the bound (1 + η L)^K for L-smooth losses.

    Proven for a loss that is L-smooth everywhere. A network's is not: L is measured where training began.
    """

    name: ClassVar[str] = "rewind_to_delete"
    gradient: float
    smoothness: float
    share: float

    @property
    def sensitivity(self):
        """2 η G m/n Σ_t (1 + η L)^t over the first T - K steps, times (1 + η L)^K."""
        growth = 1 + ETA * self.smoothness
        apart = 2 * ETA * self.gradient * self.share * sum(growth**t for t in range(STEPS - BACK))
        return apart * growth**BACK

    def mu(self, relation=Relation.RETRAINED):
        return self.sensitivity / self.noise_std

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return gaussian.log_delta_upper(epsilon, self.mu(relation))

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


def gradient_of(weights, targets):
    """Of the mean over rows of (w₁ w₂ - y)²/2: a network of two layers of one unit, on x = 1."""
    w1, w2 = weights
    error = w1 * w2 - targets.mean()
    return torch.stack([error * w2, error * w1])


def hessian_of(weights, targets):
    w1, w2 = weights
    mixed = 2 * w1 * w2 - targets.mean()
    return torch.stack([torch.stack([w2 * w2, mixed]), torch.stack([mixed, w1 * w1])])


def descent(weights, targets, steps):
    for _ in range(steps):
        weights = weights - ETA * gradient_of(weights, targets)
    return weights


def test_rewind_to_delete_read_as_a_certificate_for_a_network():
    """With G and L of the first step the bound is far below the distance that two trainings really are apart."""
    kept, all_rows = torch.full((9,), 1.0), torch.cat([torch.full((9,), 1.0), torch.tensor([-8.0])])
    start = torch.tensor([0.05, 0.06])
    rewound = descent(descent(start, all_rows, STEPS - BACK), kept, BACK)
    apart = float((rewound - descent(start, kept, STEPS)).norm())
    gradient = float(gradient_of(start, all_rows).norm())
    smoothness = float(torch.linalg.matrix_norm(hessian_of(start, all_rows), 2))
    wrong = RewindToDelete(init_clip=1.0, noise_std=1.0, gradient=gradient, smoothness=smoothness, share=0.1)
    assert apart > 2 * wrong.sensitivity

    with pytest.raises(ContractViolation, match=r"^adversary: .*: no upper bound"):
        check_mechanism(
            wrong, noise=None, attained=lambda epsilon: gaussian.log_delta_lower(epsilon, apart * (1 - 1e-9))
        )
    with pytest.raises(RunError, match="RewindToDelete is not in the table of mechanisms"):
        certificate_of(wrong)
    assert guarantee(Replay(), delta=DELTA).kind is Kind.EXACT  # a replay that has the very same bits may say so


def test_rewind_to_delete_is_refused_by_verify():
    certificate = certificate_of(OutputPerturbation(init_clip=1.0, noise_std=1.0))

    def change(content):
        content["run"]["mechanism"] = {"name": "rewind_to_delete", "smoothness": 1.0, "steps": BACK}

    with pytest.raises(MalformedCertificate, match="unknown mechanism 'rewind_to_delete'"):
        verify(forged(certificate, change))


def test_epsilon_5000_with_delta_1():
    """(5000, 1) holds of anything, so it is no budget, no claim and no field of a certificate."""
    mechanism = OutputPerturbation(init_clip=1.0, noise_std=0.01)
    for refused in (
        lambda: Budget(epsilon=5000.0, delta=1.0),
        lambda: guarantee(mechanism, delta=1.0),
        lambda: issue(record_of(mechanism), released="sha256:" + "b" * 64, delta=1.0),
    ):
        with pytest.raises(ValueError, match=r"delta must be a number strictly between 0 and 1, not 1\.0"):
            refused()
    certificate = certificate_of(mechanism)
    for kind in ("epsilon_delta", "none", "exact"):

        def change(content, kind=kind):
            content["claim"] |= {"kind": kind, "epsilon": 5000.0, "delta": 1.0}

        with pytest.raises(CertificateError):
            verify(forged(certificate, change))
    verify(certificate)


def test_a_distance_treated_as_a_tunable_parameter():
    """Noise for a distance of 0.01 that no clip enforces: the start lies where it lies, and two starts are told apart."""
    tuned = OutputPerturbation(init_clip=0.01, noise_std=0.0746126327)
    claim = guarantee(tuned, delta=DELTA)
    assert claim.epsilon < 1.01

    def unclipped(_mechanism, theta, _gradient, _batches, noise):
        noise.add_(theta.clamp_(-1.0, 1.0))  # the trained weights are of size 1, whatever was tuned
        yield from ()

    def refuted(executor):
        coins = torch.Generator().manual_seed(0)
        seen = two_worlds(tuned, executor=executor, replicates=5000, generator=coins)
        return [finding for finding in seen.findings if finding.refutes(claim)]

    assert refuted(unclipped)
    assert not refuted(output_perturbation)


def test_a_distance_that_a_certificate_states_smaller_than_the_clip_that_was_run_is_refused():
    """The radius in the file is what is verified: a smaller one with the old claim contradicts nothing, a larger one does."""
    certificate = certificate_of(OutputPerturbation(init_clip=0.01, noise_std=0.0746126327))

    def change(content):
        content["run"]["mechanism"]["init_clip"] = 1.0

    with pytest.raises(ClaimRefused, match="prove only epsilon="):
        verify(forged(certificate, change))


@dataclass(frozen=True, kw_only=True)
class MeasuredLeakage(OutputPerturbation):
    """ε = log(AUC/(1 - AUC)) of a membership attack that was run: a lower bound, called an upper one."""

    name: ClassVar[str] = "measured_leakage"
    auc: float

    def mu(self, relation=Relation.RETRAINED):
        return inf

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return log(DELTA) if epsilon >= log(self.auc / (1 - self.auc)) else 0.0

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


def test_a_leakage_number_passed_into_the_certificate():
    """An attack that found little says nothing of the next one: with noise or without, the claim is the same."""
    fields = {"init_clip": 1.0, "noise_std": 0.05}
    wrong, right = MeasuredLeakage(**fields, auc=0.51), OutputPerturbation(**fields)
    with pytest.raises(ContractViolation, match=r"^noise enters: .*: noise does not enter"):
        check_mechanism(wrong)
    with pytest.raises(ContractViolation, match=r"^adversary: .*: no upper bound"):
        check_mechanism(wrong, attained=lambda epsilon: gaussian.log_delta_lower(epsilon, right.mu() * (1 - 1e-9)))
    with pytest.raises(RunError, match=r"the run proves nothing: epsilon=.*, mu=inf"):
        certificate_of(wrong)


@pytest.mark.parametrize("kind", ["empirical", Kind.BEHAVIOURAL])
def test_a_measured_number_is_no_kind_of_claim(kind):
    class Measured(OutputPerturbation):
        pass

    Measured.kind = kind
    with pytest.raises(ValueError, match=f"is of kind '{kind}', which proves no"):
        guarantee(Measured(init_clip=1.0, noise_std=1.0), delta=DELTA)
    certificate = certificate_of(OutputPerturbation(init_clip=1.0, noise_std=0.05))

    def change(content):
        content["claim"] |= {"kind": str(kind), "epsilon": 0.04}

    with pytest.raises(CertificateError):
        verify(forged(certificate, change))


def test_what_an_audit_found_cannot_take_the_place_of_a_proof():
    """The largest lower bound of an audit, written into the claim, is below what the fields prove: refused."""
    certificate = certificate_of(OutputPerturbation(init_clip=1.0, noise_std=0.5))

    def change(content):
        content["claim"]["epsilon"] = 0.04
        content["claim"]["mu"] = 0.01

    with pytest.raises(ClaimRefused, match=r"states epsilon=0\.04 .* prove only epsilon="):
        verify(forged(certificate, change))
