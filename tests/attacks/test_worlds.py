"""The two-worlds audit refutes published faults in seconds, and sound mechanisms no more often than it says."""

from dataclasses import replace
from math import inf, log, sqrt

import pytest
import torch

from expunge import (
    BlockwiseGradientClipping,
    Budget,
    DPTraining,
    GradientClipping,
    ModelClipping,
    OutputPerturbation,
    ScheduledGradientClipping,
    calibrate,
    guarantee,
    interval,
)
from expunge.attacks import two_worlds
from expunge.jobs.digits_task import mechanisms
from expunge.training.noise import Noise
from expunge.training.weights import clip_

DELTA = 1e-5
# The published code's noise for a claim of 1.004: a shift of sqrt(2) standard deviations. One step, and ten.
PUBLISHED = GradientClipping(
    init_clip=0.01, grad_clip=100.0, learning_rate=1e-4, weight_decay=10.0, steps=1, noise_std=0.02827012911183817
)
PUBLISHED_10 = GradientClipping(
    init_clip=0.1, grad_clip=10.0, learning_rate=0.001, weight_decay=50.0, steps=10, noise_std=0.07725629623485533
)


def attack(mechanism, *, seed=0, **how):
    return two_worlds(mechanism, delta=DELTA, generator=torch.Generator().manual_seed(seed), **how).findings


def refuted(mechanism, findings, *, claimed=None):
    claim = guarantee(mechanism, delta=DELTA)
    if claimed is not None:
        claim = replace(claim, epsilon=claimed, mu=inf)
    return [f.attack for f in findings if f.refutes(claim)]


def test_the_published_claim_for_one_step_is_refuted_by_counts_and_by_the_fit():
    found = {f.attack: f for f in attack(PUBLISHED)}
    counts = found["two worlds, a loss that drives apart: output, threshold"]
    fit = found["two worlds, a loss that drives apart: output, Gaussian fit"]
    assert len(refuted(PUBLISHED, found.values(), claimed=1.004)) == 3
    assert 3 < counts.epsilon < 6.573
    assert 6.4 < fit.epsilon < 6.573
    assert refuted(PUBLISHED, found.values()) == []  # at its true ε it stands


def test_the_published_claim_for_ten_steps_is_refuted():
    assert refuted(PUBLISHED_10, attack(PUBLISHED_10), claimed=1.004)
    assert not refuted(PUBLISHED_10, attack(PUBLISHED_10))


class RepeatedNoise:
    """One noise vector for all steps, as in the reference code."""

    def __init__(self, std, generator):
        self.std, self.generator, self.count, self.vector = std, generator, 0, None

    def add_(self, theta, *, released=False, after):
        after.apply_(theta)
        if self.vector is None:
            self.vector = torch.randn(theta.shape, generator=self.generator, dtype=theta.dtype)
        self.count += 1
        return theta.add_(self.vector, alpha=self.std)


def proven_10():
    return calibrate(lambda s: replace(PUBLISHED_10, noise_std=s), Budget(epsilon=1.0, delta=DELTA))


def test_repeated_noise_is_refuted_at_the_published_scale_and_at_the_proven_one():
    assert refuted(PUBLISHED_10, attack(PUBLISHED_10, noise=RepeatedNoise))
    assert refuted(proven_10(), attack(proven_10(), noise=RepeatedNoise))
    assert not refuted(proven_10(), attack(proven_10()))


def test_the_loss_that_cancels_repeated_noise_sees_it_where_the_clip_is_wide():
    wide = replace(PUBLISHED_10, grad_clip=100.0, steps=2)
    wide = calibrate(lambda s: replace(wide, noise_std=s), Budget(epsilon=1.0, delta=DELTA))
    by_cancelling = "two worlds, a loss that cancels repeated noise: density ratio"
    assert by_cancelling in refuted(wide, attack(wide, noise=RepeatedNoise))
    assert not refuted(wide, attack(wide))


def noise_times_learning_rate(m, theta, gradient, batches, noise):
    """A third-party port: the start never clipped, the noise added to the gradient."""
    for step in range(m.steps):
        g = clip_(gradient(theta, next(batches)), m.grad_clip)
        noise.add_(g)
        theta.mul_(1 - m.decay).add_(g, alpha=-m.learning_rate)
        yield step + 1


def no_clip_of_the_gradient(m, theta, gradient, batches, noise):
    clip_(theta, m.init_clip)
    for step in range(m.steps):
        theta.mul_(1 - m.decay).add_(gradient(theta, next(batches)), alpha=-m.learning_rate)
        noise.add_(theta)
        yield step + 1


def noise_once(m, theta, gradient, batches, noise):
    clip_(theta, m.init_clip)
    for step in range(m.steps):
        g = clip_(gradient(theta, next(batches)), m.grad_clip)
        theta.mul_(1 - m.decay).add_(g, alpha=-m.learning_rate)
        if step == 0:
            noise.add_(theta)
        yield step + 1


def no_noise(m, theta, gradient, batches, noise):
    clip_(theta, m.init_clip)
    for step in range(m.steps):
        g = clip_(gradient(theta, next(batches)), m.grad_clip)
        theta.mul_(1 - m.decay).add_(g, alpha=-m.learning_rate)
        yield step + 1


@pytest.mark.parametrize("fault", [noise_times_learning_rate, no_clip_of_the_gradient, noise_once, no_noise])
def test_faulty_executors_are_refuted(fault):
    mechanism = proven_10()
    assert refuted(mechanism, attack(mechanism, executor=fault, replicates=20_000))


def test_the_classical_formula_beyond_epsilon_1_is_refuted():
    """A noise of 2 C0 sqrt(2 ln(1.25/delta))/epsilon, claimed at 30: a shift of 6.2 deviations, truly 44.8."""
    classical = OutputPerturbation(init_clip=1.0, noise_std=2 * sqrt(2 * log(1.25 / DELTA)) / 30)
    assert guarantee(classical, delta=DELTA).epsilon > 44
    assert refuted(classical, attack(classical), claimed=30.0)
    assert not refuted(classical, attack(classical))


def test_noise_of_half_the_scale_is_refuted():
    mechanism = calibrate(
        lambda s: OutputPerturbation(init_clip=1.0, noise_std=s), Budget(epsilon=1.0, delta=DELTA)
    )  # fmt: skip
    found = attack(mechanism, noise=lambda std, generator: Noise(std / 2, generator))
    assert any("Gaussian fit" in name for name in refuted(mechanism, found))


SOUND = [
    OutputPerturbation(init_clip=1.0, noise_std=2.0),
    PUBLISHED,
    PUBLISHED_10,
    ModelClipping(model_clip=1.0, learning_rate=0.1, steps=3, noise_std=1.0),
    ScheduledGradientClipping(
        init_clip=1.0, grad_clip=1.0, weight_decay=0.1, learning_rate=(0.5, 0.1), noise_std=(1.0, 2.0)
    ),
]


@pytest.mark.parametrize("mechanism", SOUND, ids=lambda m: f"{m.name} {m.gradient_steps}")
def test_sound_mechanisms_are_refuted_no_more_often_than_promised(mechanism):
    """200 audits at confidence 0.8 in all; some are tight, so that a wider bound would show."""
    wrong = sum(
        bool(refuted(mechanism, attack(mechanism, seed=k, replicates=1000, confidence=0.8))) for k in range(200)
    )
    assert wrong <= 200 * 0.2 + 3 * sqrt(200 * 0.2 * 0.8)


def test_a_finding_has_its_null_and_its_ceiling():
    for finding in attack(PUBLISHED_10, replicates=2000):
        assert finding.null_epsilon < 0.5
        assert finding.ceiling > 4
        assert finding.epsilon <= finding.ceiling


def test_the_findings_share_the_chance_of_being_wrong():
    assert sum(1 - f.confidence for f in attack(PUBLISHED_10, replicates=200, confidence=0.9)) == pytest.approx(0.1)


def test_a_gaussian_is_fitted_only_where_outputs_are_gaussian():
    fitted = [{f.attack for f in attack(m, replicates=200) if "fit" in f.attack} for m in (PUBLISHED, PUBLISHED_10)]
    assert fitted == [
        {"two worlds, a loss that drives apart: output, Gaussian fit"},
        {"two worlds, a flat loss: output, Gaussian fit"},
    ]


def test_seeds_repeat():
    first, again = (attack(PUBLISHED, replicates=500, seed=7) for _ in range(2))
    assert [f.evidence for f in first] == [f.evidence for f in again]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: two_worlds(PUBLISHED, replicates=99), ValueError, "replicates must be a whole number of at least 100"),
        (lambda: two_worlds(PUBLISHED, delta=0.0), ValueError, "delta"),
        (lambda: two_worlds(PUBLISHED, confidence=1.0), ValueError, "confidence"),
        (
            lambda: two_worlds(
                DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.1, steps=1, group_size=1)
            ),
            TypeError,
            "cannot run DPTraining",
        ),
    ],
)  # fmt: skip
def test_bad_input_is_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()


BLOCKWISE = {
    "grad_clip": 1.0, "learning_rate": 0.1, "weight_decay": 0.0, "steps": 1, "noise_std": 1.0, "blind": False,
}  # fmt: skip


def test_a_single_block_is_attacked_and_several_are_refused():
    one = BlockwiseGradientClipping(block_sizes=(1,), block_clips=(1.0,), **BLOCKWISE)
    assert not refuted(one, attack(one, replicates=2000))
    two = BlockwiseGradientClipping(block_sizes=(1, 1), block_clips=(1.0, 1.0), **BLOCKWISE)
    with pytest.raises(ValueError, match="add up to 2, but the model has 1"):
        attack(two, replicates=2000)


def test_what_an_attack_shows_lies_below_what_the_best_adversary_attains():
    """And that is what docs/audits.md says of the demo's mechanisms."""
    attained = {
        name: interval(m, delta=DELTA, tolerance=1e-3)[0]
        for name, m in mechanisms(Budget(epsilon=1.0, delta=DELTA)).items()
    }
    assert attained == {
        "gradient_clipping": pytest.approx(0.116, abs=5e-4), "model_clipping": pytest.approx(0.999, abs=1e-3),
        "output_perturbation": pytest.approx(0.999, abs=1e-3),
    }  # fmt: skip
    for name, mechanism in mechanisms(Budget(epsilon=1.0, delta=DELTA)).items():
        assert max(f.epsilon for f in attack(mechanism, replicates=20_000)) < attained[name]
