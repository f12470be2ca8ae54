"""Faults that were published, made again in a few lines: each is rejected, and its corrected version is not.

After the table "Negative controls" of the specification. A check that passes one of these checks nothing.
"""

from dataclasses import dataclass, replace
from math import exp, inf, log, log1p, sqrt
from typing import ClassVar

import pytest
import torch

from expunge import GradientClipping, OutputPerturbation, Relation, guarantee, issue, verify
from expunge.accounting import gaussian
from expunge.errors import ClaimRefused, MalformedCertificate, RunError
from expunge.randomness.secret import Secret
from expunge.testing import ContractViolation, check_executor, check_mechanism
from expunge.training.noise import Noise
from expunge.training.weights import clip_
from expunge.unlearners.gradient_clipping import noisy_steps as gradient_clipping
from forging import DELTA, certificate_of, forged, record_of

SIGMA = 0.002


def ends_of_a_diameter(m):
    """The adversary of the Gaussian mechanism: log δ(ε) that two models at the ends of a diameter attain."""
    return lambda epsilon: gaussian.log_delta_lower(epsilon, 2 * m.init_clip / m.noise_std * (1 - 1e-12))


@dataclass(frozen=True, kw_only=True)
class RenyiConversion(OutputPerturbation):
    """δ at ε by the conversion from Rényi divergence, orders up to 1000; `keeps_order` is the corrected version.

    It knows no μ and no lower bound.
    """

    keeps_order: bool

    def mu(self, relation=Relation.RETRAINED):
        return inf

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        renyi = super().mu(relation) ** 2 / 2
        bounds = (
            (a - 1) * ((a if self.keeps_order else 1) * renyi - epsilon + log1p(-1 / a)) - log(a)
            for a in range(2, 1001)
        )
        return min(0.0, *bounds)

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


def test_renyi_order_dropped_in_the_conversion():
    """Claims ε = 1.0036 for a shift of sqrt(2) σ; true is 6.57297."""
    wrong, right = (RenyiConversion(init_clip=1.0, noise_std=sqrt(2), keeps_order=keeps) for keeps in (False, True))
    true = OutputPerturbation(init_clip=1.0, noise_std=sqrt(2))
    assert guarantee(wrong, delta=DELTA).epsilon == pytest.approx(1.0036, abs=5e-5)
    assert guarantee(true, delta=DELTA).epsilon == pytest.approx(6.57297, abs=5e-6)
    assert 6.57297 < guarantee(right, delta=DELTA).epsilon < 7.1  # an upper bound, with what the conversion loses

    with pytest.raises(ContractViolation, match=r"^adversary: claims log_delta\(1, retrained\) = .*: no upper bound"):
        check_mechanism(wrong, attained=ends_of_a_diameter(true), epsilons=(1.0, 2.0))
    with pytest.raises(ContractViolation, match=r"^adversary: "):
        check_mechanism(wrong, attained=ends_of_a_diameter(true))
    check_mechanism(right, attained=ends_of_a_diameter(true))


def test_renyi_order_dropped_in_the_conversion_is_refused_by_verify():
    """A certificate that claims 1.0036 where the fields prove 6.57297 does not verify."""
    certificate = certificate_of(OutputPerturbation(init_clip=1.0, noise_std=sqrt(2)))

    def change(content):
        content["claim"]["epsilon"] = 1.0036

    with pytest.raises(ClaimRefused, match=r"states epsilon=1\.0036 .* prove only epsilon=6\.57297"):
        verify(forged(certificate, change))
    verify(forged(certificate, lambda content: None))


NOISY = GradientClipping(init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=1.0, steps=5, noise_std=SIGMA)


def mean_of_clipped_steps(start, gradient):
    """Algorithm 1 of the paper on a constant gradient, both clips binding: ρ^T x_0 - η Σ_j ρ^j g."""
    rho, eta = 0.9, 0.1
    return rho**5 * start / start.norm() - eta * sum(rho**j for j in range(5)) * gradient / gradient.norm()


def check_clipped_steps(executor):
    check_executor(executor, NOISY, mean=mean_of_clipped_steps)


def clipped_steps(*, repeat_noise=False, noise_in_gradient=False, clip_start=True):
    """The method, with its faults as switches."""

    def executor(mechanism, theta, gradient, batches, noise):
        if noise.count == 0 and clip_start:
            clip_(theta, mechanism.init_clip)
        vector = None
        for step in range(noise.count, mechanism.steps):
            g = clip_(gradient(theta, next(batches)), mechanism.grad_clip)
            if noise_in_gradient:
                noise.add_(g)
            theta.mul_(1 - mechanism.decay).add_(g, alpha=-mechanism.learning_rate)
            if repeat_noise:
                fresh = noise.add_(torch.zeros_like(theta))  # drawn and counted, so that the record looks right
                vector = fresh if vector is None else vector
                theta.add_(vector)
            elif not noise_in_gradient:
                noise.add_(theta, released=step + 1 == mechanism.steps)
            yield step + 1

    return executor


def test_the_noisy_steps_without_a_fault():
    """The corrected version of the next faults, and our own executor, keep the contract."""
    check_clipped_steps(clipped_steps())
    check_clipped_steps(gradient_clipping)


def test_one_noise_vector_for_all_steps():
    """The exact law sees it in the variance: repeated noise adds up, independent noise adds in squares."""
    with pytest.raises(ContractViolation, match=r"^law: .* the variance is z = \d+"):
        check_clipped_steps(clipped_steps(repeat_noise=True))


def test_one_noise_vector_for_all_steps_cannot_be_drawn():
    """A generator set back between the steps changes nothing, and a secret serves one noise."""
    generator, secret = torch.Generator().manual_seed(0), Secret.fresh()
    noise, first, second = Noise(SIGMA, generator), torch.zeros(1000), torch.zeros(1000)
    noise.add_(first)
    generator.manual_seed(0)
    noise.add_(second)
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.2
    Noise(SIGMA, secret)
    with pytest.raises(RunError, match="noise was drawn already, and would repeat"):
        Noise(SIGMA, secret)


def test_noise_added_to_the_gradient_and_multiplied_by_the_learning_rate():
    """The weights receive η σ instead of σ; the exact law sees a hundredth of the variance."""
    with pytest.raises(ContractViolation, match=r"^law: .* the variance is z = -\d+"):
        check_clipped_steps(clipped_steps(noise_in_gradient=True))


def test_start_never_clipped():
    """A start outside the ball leaves more of itself in the mean than the law allows."""
    with pytest.raises(ContractViolation, match=r"^law: .* the mean along the start is z = \d+"):
        check_clipped_steps(clipped_steps(clip_start=False))


@dataclass(frozen=True, kw_only=True)
class ClassicalFormula(OutputPerturbation):
    """σ = sqrt(2 log(1.25/δ)) Δ/ε, solved for δ at any ε; proven for ε ≤ 1 only."""

    def mu(self, relation=Relation.RETRAINED):
        return inf

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return min(0.0, log(1.25) - (epsilon / super().mu(relation)) ** 2 / 2)

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


@pytest.mark.parametrize(("claimed", "true"), [(1.0, 0.751), (10.0, 10.39)])
def test_classical_gaussian_formula_beyond_epsilon_1(claimed, true):
    """Its "1" is 0.751, wasteful; its "10" is 10.39, wrong."""
    fields = {"init_clip": 1.0, "noise_std": 2 * sqrt(2 * log(1.25 / DELTA)) / claimed}
    wrong, right = ClassicalFormula(**fields), OutputPerturbation(**fields)
    assert guarantee(wrong, delta=DELTA).epsilon == pytest.approx(claimed, rel=1e-9)
    assert guarantee(right, delta=DELTA).epsilon == pytest.approx(true, abs=0.005)

    with pytest.raises(ContractViolation, match=r"^adversary: .*: no upper bound"):
        check_mechanism(wrong, attained=ends_of_a_diameter(right))
    check_mechanism(right, attained=ends_of_a_diameter(right))
    if claimed <= 1:  # where it was proven it is an upper bound
        check_mechanism(wrong, attained=ends_of_a_diameter(right), epsilons=(0.0, 0.25, 0.5, 1.0))


@dataclass(frozen=True, kw_only=True)
class NewtonStep(OutputPerturbation):
    """x ← x - g/h + N(0, σ² I): on a quadratic loss of curvature h, the minimiser on the retained data."""

    curvature: float
    start_radius: ClassVar[float] = inf
    gradient_steps: ClassVar[int] = 1


def newton_step(sign):
    def executor(mechanism, theta, gradient, batches, noise):
        if noise.count == 0:
            g = clip_(gradient(theta, next(batches)), inf)  # refuses NaN
            theta.add_(g, alpha=sign / mechanism.curvature)
            noise.add_(theta, released=True)
            yield 1

    return executor


def test_newton_step_of_the_wrong_sign():
    """On a quadratic loss the mean of the right step is the retrained minimiser; the wrong one is as far beyond."""
    mechanism = NewtonStep(init_clip=1.0, noise_std=SIGMA, curvature=4.0)

    def retrained_minimiser(start, gradient):
        return start - gradient / 4.0

    check_executor(newton_step(-1), mechanism, mean=retrained_minimiser)
    with pytest.raises(ContractViolation, match=r"^law: .* the mean along the gradient is z = \d+"):
        check_executor(newton_step(+1), mechanism, mean=retrained_minimiser)


def logistic_minimiser(x, y, ridge=1.0, start=None, steps=50):
    """By Newton's method: (minimiser, gradient and Hessian at the start)."""
    w = torch.zeros(x.shape[1], dtype=x.dtype) if start is None else start.clone()
    first = None
    for _ in range(steps):
        p = torch.sigmoid(x @ w)
        gradient, hessian = x.T @ (p - y) + ridge * w, (x.T * (p * (1 - p))) @ x + ridge * torch.eye(x.shape[1])
        first = first or (gradient, hessian)
        w = w - torch.linalg.solve(hessian, gradient)
    return w, *first


def test_newton_step_of_the_wrong_sign_is_farther_from_retraining_than_doing_nothing():
    """Logistic regression, 60 of 300 examples forgotten."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, dtype=torch.float64, generator=generator)
    y = (x[:, 0] + 0.5 * torch.randn(300, dtype=torch.float64, generator=generator) > 0).double()
    y[:60] = 1 - y[:60]  # what is to be forgotten was labelled wrongly
    trained, _, _ = logistic_minimiser(x, y)
    retrained, gradient, hessian = logistic_minimiser(x[60:], y[60:], start=trained)
    step = torch.linalg.solve(hessian, gradient)
    nothing, right, wrong = (float((w - retrained).norm()) for w in (trained, trained - step, trained + step))
    assert right < nothing < wrong
    assert wrong > 1.3 * nothing


@dataclass(frozen=True, kw_only=True)
class OutputSimilarity(OutputPerturbation):
    """Certifies at ε where a measured similarity of outputs is at least 1 - e^-ε. Nothing is random, no σ enters."""

    name: ClassVar[str] = "output_similarity"
    similarity: float
    stricter_is_harder: bool = False

    def mu(self, relation=Relation.RETRAINED):
        return inf

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        threshold = exp(-epsilon) if self.stricter_is_harder else 1 - exp(-epsilon)
        return log(DELTA) if self.similarity >= threshold else 0.0

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


def similarity_of_unrelated_networks():
    """(cosine similarity of their probabilities, share of equal predictions) of two networks that share nothing."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inputs = torch.randn(500, 20)
        one, other = (
            torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.ReLU(), torch.nn.Linear(30, 10)) for _ in range(2)
        )
        with torch.no_grad():
            p, q = one(inputs).softmax(-1), other(inputs).softmax(-1)
    same = (p.argmax(-1) == q.argmax(-1)).float().mean()
    return float(torch.cosine_similarity(p, q).mean()), float(same)


def test_certificate_by_a_threshold_on_output_similarity():
    """A stricter ε is easier to pass; two unrelated networks pass it; turned round it is still no bound."""
    similarity, same = similarity_of_unrelated_networks()
    assert same < 0.3
    fields = {"init_clip": 1.0, "noise_std": 1.0, "similarity": similarity}
    wrong = OutputSimilarity(**fields)
    assert wrong.log_delta(0.1) == wrong.log_delta(1.0) == log(DELTA)  # "certified" at both

    with pytest.raises(ContractViolation, match=r"^monotone in epsilon: .* a stricter epsilon would be easier to pass"):
        check_mechanism(wrong, noise=None)
    # Without noise two different models are told apart with certainty: δ = 1 at every ε.
    with pytest.raises(ContractViolation, match=r"^adversary: .*: no upper bound"):
        check_mechanism(OutputSimilarity(**fields, stricter_is_harder=True), noise=None, attained=lambda epsilon: 0.0)
    check_mechanism(OutputPerturbation(init_clip=1.0, noise_std=1.0))


def test_certificate_by_a_threshold_on_output_similarity_is_refused_by_verify():
    """`verify` trusts the names of its table and no others."""
    certificate = certificate_of(OutputPerturbation(init_clip=1.0, noise_std=1.0))

    def change(content):
        content["run"]["mechanism"] = {"name": "output_similarity", "similarity": 0.9}

    with pytest.raises(MalformedCertificate, match="unknown mechanism 'output_similarity'"):
        verify(forged(certificate, change))
    verify(certificate)


@dataclass(frozen=True, kw_only=True)
class FreeNoise(OutputPerturbation):
    """The noise is what the command line says, and so is ε; neither knows of the other."""

    name: ClassVar[str] = "free_noise"
    epsilon: float

    def mu(self, relation=Relation.RETRAINED):
        return 1000.0  # says nothing

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return log(DELTA) if epsilon >= self.epsilon else 0.0

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return -inf


def test_noise_scale_a_free_constant_and_epsilon_never_computed():
    """No guarantee can be derived: the claim is the same whatever the noise, and no certificate can carry it."""
    wrong, right = (
        FreeNoise(init_clip=1.0, noise_std=0.01, epsilon=1.0),
        OutputPerturbation(init_clip=1.0, noise_std=0.01),
    )
    with pytest.raises(ContractViolation, match=r"^noise enters: .*: noise does not enter"):
        check_mechanism(wrong)
    with pytest.raises(ContractViolation, match=r"^adversary: .*: no upper bound"):
        check_mechanism(wrong, attained=ends_of_a_diameter(right))
    check_mechanism(right, attained=ends_of_a_diameter(right))

    with pytest.raises(RunError, match="FreeNoise is not in the table of mechanisms"):
        certificate_of(wrong)
    verify(certificate_of(right))


def test_noise_of_a_generator_that_can_be_inverted_gets_no_certificate():
    """The twister of torch, as every certificate of schema 1 had it; one of schema 2 cannot name it."""
    record = record_of(OutputPerturbation(init_clip=1.0, noise_std=2.0))
    twisted = replace(record.noise, stream="torch-mersenne", grid=0.0)
    with pytest.raises(RunError, match=r"stream"):
        issue(replace(record, noise=twisted), released=record.certified)
    issue(record, released=record.certified)
