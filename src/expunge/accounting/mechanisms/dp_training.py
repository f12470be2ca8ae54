"""Training that is differentially private for groups: nothing is left to do at deletion."""

from dataclasses import dataclass
from math import inf, sqrt
from typing import TYPE_CHECKING, ClassVar

from expunge import _validate
from expunge.accounting import gaussian
from expunge.accounting.claims import Kind, Relation
from expunge.accounting.mechanisms import assumptions as assume

if TYPE_CHECKING:
    from expunge.accounting.losses import Source

__all__ = ["DPTraining"]

_MU_ROUNDING = 2.0**-50


@dataclass(frozen=True, kw_only=True)
class DPTraining:
    """T steps that each release Σ_{i in batch} clip(g_i, C) + N(0, (νC)² I), every example in the batch with probability q.

    What the optimiser makes of the noisy sums is post-processing. Any m examples or fewer are already unlearned: one step
    with them against without is dominated by Σ_j Binom(m, q)(j) N(jC, (νC)²) against N(0, (νC)²), and the steps compose.

    That step. Given who took part and their clipped gradients, the group adds v_S = Σ_{i in S} g_i, S its random subset.
    With X ~ N(0, I) the density ratio is L(X) = Σ_S w_S exp(⟨v_S, X⟩/(νC) - |v_S|²/2(νC)²), and δ(ε) in either direction
    is the mean of a convex function of it. Kahane's inequality: the mean of a convex function of Σ_S w_S exp(N_S - Var(N_S)/2) grows with
    every covariance of the Gaussians N_S. Here these are ⟨v_S, v_S'⟩/(νC)² ≤ |S| |S'|/ν², which is the case of m
    gradients that are all one vector of norm C. Fewer than m examples are m of which some have gradient 0.

    Args:
        sample_clip: C, the L2 radius for the gradient of each example alone.
        noise_multiplier: ν, the standard deviation of the noise, per coordinate of the sum, over C.
        sampling_rate: q in (0, 1], the chance of every example to be in a batch, independently.
        steps: T ≥ 1.
        group_size: m ≥ 1, the most examples that a forget set may hold.

    Source: Abadi et al. 2016, arXiv 1607.00133 (DP-SGD); Choquette-Choo et al. 2024, arXiv 2310.15526 (mixtures of
    Gaussians); Kahane 1985; Zhu, Dong & Wang 2022, arXiv 2106.08567 (dominating pairs compose adaptively); Doroshenko et
    al. 2022, arXiv 2207.04380 (discretisation).
    """

    name: ClassVar[str] = "dp_training"
    proof: ClassVar[str] = "docs/methods/dp_training.md#statement"
    kind: ClassVar[Kind] = Kind.EPSILON_DELTA
    theorem: ClassVar[str] = (
        "Composition (Zhu, Dong & Wang 2022, arXiv 2106.08567) of Poisson-sampled Gaussian sums, each dominated for a group by a "
        "binomial mixture of Gaussians (Choquette-Choo et al. 2024, arXiv 2310.15526), privacy losses rounded to the safe side."
    )
    covers: ClassVar[str] = assume.GROUP
    assumptions: ClassVar[tuple[str, ...]] = (
        assume.POISSON,
        assume.PER_EXAMPLE,
        assume.CONFIGURATION_PUBLIC,
        assume.SCALE_PUBLIC,
        assume.COINS_HIDDEN,
        assume.FORGET_SET_FIXED,
        assume.AFTERWARDS,
        assume.PSEUDORANDOM,
        assume.NOISE_GAUSSIAN,
        assume.REAL_ARITHMETIC,
        assume.ONE_TRAINING,
    )

    sample_clip: float
    noise_multiplier: float
    sampling_rate: float
    steps: int
    group_size: int

    def __post_init__(self) -> None:
        _validate.positive(
            sample_clip=self.sample_clip, noise_multiplier=self.noise_multiplier, sampling_rate=self.sampling_rate
        )
        if self.sampling_rate > 1:
            raise ValueError(f"sampling_rate must be at most 1: it is a probability, not {self.sampling_rate!r}")
        _validate.whole(steps=self.steps, group_size=self.group_size)

    @property
    def gradient_steps(self) -> int:
        """T."""
        return self.steps

    @property
    def noise_draws(self) -> int:
        """T: a step with an empty batch draws noise too."""
        return self.steps

    @property
    def noise_std(self) -> float:
        """ν C, of each noise vector as it is added to a sum of clipped gradients."""
        return self.noise_multiplier * self.sample_clip

    @property
    def start_radius(self) -> float:
        """Unbounded: the initialisation is public."""
        return inf

    @property
    def output_noise_std(self) -> float:
        """0: the noise reaches the weights through the optimiser, and the fields bound it by nothing better."""
        return 0.0

    @property
    def surviving_norm(self) -> float:
        """Unbounded: the data leave their mark in the weights, and the proof bounds its law and not its length."""
        return inf

    def mu(self, relation: Relation = Relation.RETRAINED) -> float:
        """The Gaussian m sqrt(T)/ν, rounded up: every covariance of the proof is at most m²/ν², as if all took part in every step.

        No smaller μ bounds the whole profile: for large ε the case that all took part decides. At a given ε `log_delta` is
        far below.
        """
        Relation(relation)
        return self.group_size * sqrt(self.steps) / self.noise_multiplier * (1 + _MU_ROUNDING)

    def log_delta(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """The composed mixture, in both directions; the Gaussian profile of `mu` where that is smaller."""
        plain = gaussian.log_delta_upper(epsilon, self.mu(relation))
        if self.sampling_rate == 1:
            return plain
        from expunge.accounting import sampling  # late: arrays, which other mechanisms need not wait for

        composed = sampling.log_delta_upper(
            epsilon=epsilon,
            sampling_rate=self.sampling_rate,
            group_size=self.group_size,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
        )
        return min(plain, composed)

    def losses(self) -> "tuple[Source, int] | None":
        """T copies of one Poisson-sampled step, so that several trainings compose step by step."""
        if self.sampling_rate == 1:
            return None
        from expunge.accounting import sampling

        return sampling.PoissonStep(self.sampling_rate, self.group_size, self.noise_multiplier), self.steps

    def log_delta_lower(self, epsilon: float, relation: Relation = Relation.RETRAINED) -> float:
        """What a linear loss shows in the final weights. For T = 1 it is the bound; a loss that counts steps shows more."""
        if self.sampling_rate == 1:
            return gaussian.log_delta_lower(epsilon, self.mu(relation) * (1 - 2 * _MU_ROUNDING))
        from expunge.accounting import sampling

        return sampling.log_delta_attained(
            epsilon=epsilon,
            sampling_rate=self.sampling_rate,
            group_size=self.group_size,
            noise_multiplier=self.noise_multiplier,
            steps=self.steps,
        )

    def certifier(self, relation: Relation = Relation.RETRAINED) -> str:
        """The same under both relations: there is no trained model to start from."""
        Relation(relation)
        return "the same private training on the retained data alone"
