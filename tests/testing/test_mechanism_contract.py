"""Our mechanisms keep the contract, and mechanisms that are wrong in one place are told which one they break."""

import subprocess
import sys
from dataclasses import dataclass, field
from math import hypot, inf, nan
from typing import Any, ClassVar

import pytest

from expunge.accounting import (
    MECHANISMS,
    BlockwiseGradientClipping,
    DPTraining,
    ExactRidge,
    GradientClipping,
    GridRidge,
    Kind,
    MeasuredResidual,
    ModelClipping,
    OutputPerturbation,
    Prune,
    Relation,
    Replay,
    Retrain,
    ScheduledGradientClipping,
    UndeclaredFeatures,
    Unproven,
    gaussian,
)
from expunge.testing import ContractViolation, check_mechanism

SCHEDULES = {"steps": ("learning_rate", "noise_std")}


@dataclass(frozen=True)
class Case:
    """A setting, and what the contract is told about it."""

    mechanism: Any
    told: dict[str, Any] = field(default_factory=dict)


def gradient(c0, c1, eta, decay, steps, sigma):
    return GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma
    )


def scheduled(c0, c1, etas, decay, sigmas):
    return ScheduledGradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=etas, weight_decay=decay, noise_std=sigmas
    )


def blockwise(sizes, clips, c1, eta, decay, steps, blind, sigma):
    return BlockwiseGradientClipping(
        block_sizes=sizes, block_clips=clips, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps,
        noise_std=sigma, blind=blind,
    )  # fmt: skip


def model(c2, eta, decay, steps, sigma):
    return ModelClipping(model_clip=c2, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma)


def private(multiplier, rate, steps, group):
    return DPTraining(sample_clip=1.0, noise_multiplier=multiplier, sampling_rate=rate, steps=steps, group_size=group)


def residual(beta, convexity, noise):
    return MeasuredResidual(residual=beta, strong_convexity=convexity, noise_std=noise, provenance="public")


def exact(mu):
    """What two ends of a diameter attain, from the profile of the Gaussian mechanism."""
    return lambda epsilon: gaussian.log_delta_lower(epsilon, mu * (1 - 1e-12))


# Lower bounds of many steps cost 50 ms a step: these settings leave them out, the shorter ones have them.
LONG = {"lower": False}
# Gradients and weights in another unit, the curvature as it is.
RESIDUAL = {"lengths": ("residual", "noise_std")}
PRIVATE = {"noise": "noise_multiplier", "lengths": ("sample_clip",), "more_steps_prove": "less"}
# With sampling the privacy loss is rounded to a grid: the bounds meet less closely, the less the smaller δ is.
SAMPLED = PRIVATE | {"tight": 1e-3, "epsilons": (0.0, 0.1, 0.5, 1.0)}
MECHANISM_CASES = {
    GradientClipping: [
        Case(gradient(1.0, 1.0, 0.1, 0.0, 1, 0.7), {"attained": exact(2.2 / 0.7)}),
        Case(gradient(1.0, 2.0, 0.5, 2.0, 4, 0.9), {"attained": exact(2.0 / 0.9)}),
        Case(gradient(0.5, 1.0, 0.1, 3.0, 4, 0.4)),
        Case(gradient(1.0, 1.0, 0.01, 0.0, 3, 0.5)),
        Case(gradient(0.5, 1.0, 0.01, 20.0, 50, 0.25), LONG),
        Case(gradient(1.0, 1.0, 0.01, 0.0, 1000, 0.05), LONG),
        Case(gradient(1e-6, 1e-6, 0.01, 0.0, 10, 1e3), LONG),
        Case(gradient(1e3, 1.0, 0.01, 0.0, 10, 1.0), LONG),
    ],
    ScheduledGradientClipping: [
        Case(scheduled(1.0, 1.0, (0.1,), 0.0, (0.7,)), SCHEDULES | {"attained": exact(2.2 / 0.7)}),
        Case(scheduled(1.0, 1.0, (0.1, 0.2, 0.3), 1.0, (0.7, 0.5, 0.9)), SCHEDULES),
        Case(scheduled(0.5, 3.0, (0.5, 0.01, 0.1), 2.0, (0.3, 0.9, 0.1)), SCHEDULES),
        Case(scheduled(0.5, 1.0, tuple(0.1 / (t + 1) for t in range(100)), 0.0, (0.2,) * 100), SCHEDULES | LONG),
    ],
    BlockwiseGradientClipping: [
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.1, 2.0, 3, True, 0.7)),
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.1, 10.0, 2, True, 0.7)),
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.1, 0.0, 1, True, 0.7), {"attained": exact(hypot(2.2, 1.2) / 0.7)}),
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.1, 0.0, 1, False, 0.7), {"attained": exact(hypot(2.2, 1.2) / 0.7)}),
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.01, 20.0, 50, True, 0.7), LONG),
        # Where the gradient sees blocks without noise there is no minimum over prefixes: a step too many proves less.
        Case(blockwise((3, 5), (1.0, 0.5), 1.0, 0.1, 2.0, 3, False, 0.7), {"steps": None}),
    ],
    ModelClipping: [
        Case(model(1.0, 0.1, 0.0, 1, 0.7), {"attained": exact(2.0 / 0.7)}),
        Case(model(1.0, 0.1, 10.0, 2, 0.7)),
        Case(model(0.3, 0.1, 1.0, 10, 0.5)),
        Case(model(1.0, 0.1, 0.0, 300, 0.36)),
        Case(model(50.0, 0.1, 0.0, 3, 1.0)),
    ],
    OutputPerturbation: [
        Case(OutputPerturbation(init_clip=1.0, noise_std=2.0), {"attained": exact(1.0)}),
        Case(OutputPerturbation(init_clip=1e-3, noise_std=10.0), {"attained": exact(2e-4)}),
        Case(OutputPerturbation(init_clip=10.0, noise_std=0.5), {"attained": exact(40.0)}),
    ],
    DPTraining: [
        Case(private(3.0, 1.0, 100, 2), PRIVATE | {"tight": 1e-6, "attained": exact(20 / 3)}),
        Case(private(2.0, 0.3, 3, 2), SAMPLED),
        Case(private(2.0, 0.1, 10, 1), SAMPLED),
    ],
    Retrain: [Case(Retrain())],
    ExactRidge: [Case(ExactRidge(ridge=1.0, rounding=1e-9, provenance="trained on ImageNet"))],
    GridRidge: [Case(GridRidge(ridge=1.0, grid=0.25, target_grid=0.5, rounding=1e-9, provenance="trained on ImageNet"))],
    Replay: [Case(Replay()), Case(Replay(shards=8))],
    MeasuredResidual: [
        Case(residual(1e-6, 1e-4, 0.02), RESIDUAL | {"attained": exact(0.5)}),
        Case(residual(1e-10, 1e-5, 1e-4), RESIDUAL | {"attained": exact(0.1)}),
    ],
    UndeclaredFeatures: [Case(UndeclaredFeatures(head="measured_residual", noise_std=1.0))],
    Unproven: [Case(Unproven(method="scrub"))],
    Prune: [Case(Prune(layers=("linear", "relu", "linear"), input_shape=(4,), lowest=0.0, highest=1.0, patches=2, margin=0.1), {"noise": None, "steps": None})],
}  # fmt: skip


def test_every_mechanism_of_the_table_is_held_to_the_contract():
    assert set(MECHANISM_CASES) == set(MECHANISMS.values())


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, id=f"{family.name}-{k}")
        for family, of in MECHANISM_CASES.items()
        for k, case in enumerate(of)
    ],
)
def test_our_mechanisms_keep_the_contract(case):
    assert check_mechanism(case.mechanism, **case.told) is None


# Mechanisms that are wrong in one place: OutputPerturbation with that place replaced.


@dataclass(frozen=True, kw_only=True)
class Wrong:
    """Everything is delegated to OutputPerturbation, except what a subclass replaces."""

    name: ClassVar[str] = "wrong"
    kind: ClassVar[Kind] = Kind.EPSILON_DELTA
    theorem: ClassVar[str] = "none"
    covers: ClassVar[str] = "every forget set"
    assumptions: ClassVar[tuple[str, ...]] = ("none",)
    gradient_steps: ClassVar[int] = 0
    noise_draws: ClassVar[int] = 1
    init_clip: float = 1.0
    noise_std: float = 2.0

    def __post_init__(self):
        assert self.right.init_clip  # checks the fields

    @property
    def right(self):
        return OutputPerturbation(init_clip=self.init_clip, noise_std=self.noise_std)

    @property
    def start_radius(self):
        return self.init_clip

    @property
    def output_noise_std(self):
        return self.noise_std

    @property
    def surviving_norm(self):
        return self.init_clip

    def mu(self, relation=Relation.RETRAINED):
        return self.right.mu(relation)

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return self.right.log_delta(epsilon, relation)

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return self.right.log_delta_lower(epsilon, relation)

    def certifier(self, relation=Relation.RETRAINED):
        return self.right.certifier(relation)


def test_the_right_version_of_the_wrong_mechanisms_passes():
    check_mechanism(Wrong())


def wrong(**members):
    """`Wrong` with some members replaced, an instance."""
    return dataclass(frozen=True, kw_only=True)(type("Wrong", (Wrong,), members))()


def right_with(**fields):
    """The right mechanism at other fields: functions of the wrong one."""
    return property(
        lambda m: OutputPerturbation(
            **{"init_clip": m.init_clip, "noise_std": m.noise_std} | {name: f(m) for name, f in fields.items()}
        )
    )


def profile_at(factor, *, swap=False):
    """The right profile at ε times `factor`, or of the other relation."""
    other = {Relation.RETRAINED: Relation.CENTER, Relation.CENTER: Relation.RETRAINED}
    return lambda m, epsilon, r=Relation.RETRAINED: m.right.log_delta(factor * epsilon, other[r] if swap else r)


def number(value):
    return lambda m, epsilon, relation=None: value


def check_quietly(m):
    if not (m.init_clip > 0 and 0 < m.noise_std < inf):
        raise ValueError("invalid")


UNKNOWN = {"log_delta_lower": number(-inf)}
WRONG = [
    (wrong(theorem=" "), "protocol: theorem says nothing"),
    (wrong(assumptions=()), "protocol: assumptions is no filled tuple"),
    (wrong(certifier=lambda m, relation=None: ""), r"protocol: certifier\(retrained\) says nothing"),
    (wrong(kind="epsilon_delta"), "protocol: kind must be a Kind"),
    (wrong(gradient_steps=-1), "protocol: gradient_steps is no count: -1"),
    (wrong(start_radius=0.0), "protocol: start_radius must be above 0"),
    (wrong(kind=Kind.NONE), "claims nothing: a mechanism of kind 'none' has log_delta 0"),
    (wrong(kind=Kind.EXACT), "exact: an exact mechanism has log_delta -inf"),
    (wrong(log_delta=number(nan)), "range: log_delta"),
    (wrong(log_delta=number(0.1)), "range: log_delta"),
    (wrong(log_delta=number(-inf)), "range: log_delta"),
    (wrong(mu=lambda m, relation=None: nan), "range: mu"),
    (wrong(log_delta=lambda m, e, r=None: -1 / (1 + e)), "monotone in epsilon: .* a stricter epsilon would"),
    (wrong(log_delta=profile_at(1.01)), "lower bound: .*: no upper bound"),
    (wrong(log_delta_lower=profile_at(1.01)), "tight at one step: "),
    (wrong(log_delta=profile_at(1.0, swap=True), **UNKNOWN), "order of relations: "),
    (wrong(log_delta=profile_at(0.9), **UNKNOWN), "below the profile of mu: "),
    (wrong(right=right_with(noise_std=lambda m: 4 / m.noise_std)), "monotone in noise: "),
    (wrong(right=right_with(noise_std=lambda m: 2.0)), "noise enters: "),
    (wrong(right=right_with(init_clip=lambda m: m.init_clip**2)), "scale invariance: init_clip, noise_std times 0.37"),
    (wrong(right=right_with(init_clip=lambda m: abs(m.init_clip))), "bad input: init_clip=-1.0 .* it is accepted"),
    (wrong(__post_init__=check_quietly), "bad input: noise_std=0.0 .* names 'noise_std', not ValueError"),
]


@pytest.mark.parametrize(
    ("mechanism", "message"), WRONG, ids=[f"{k}-{m.split(':')[0]}" for k, (_, m) in enumerate(WRONG)]
)
def test_a_wrong_mechanism_is_told_which_contract_it_breaks(mechanism, message):
    with pytest.raises(ContractViolation, match=f"^{message}"):
        check_mechanism(mechanism)


def test_a_class_is_no_mechanism():
    with pytest.raises(ContractViolation, match=r"^protocol: a mechanism is an instance of a frozen dataclass"):
        check_mechanism(OutputPerturbation)  # pyright: ignore[reportArgumentType]


@dataclass(frozen=True, kw_only=True)
class WithASet(Wrong):
    layers: Any = frozenset({"a"})


def test_fields_that_json_does_not_keep_are_refused():
    with pytest.raises(ContractViolation, match=r"^protocol: its fields do not survive JSON"):
        check_mechanism(WithASet())
    with pytest.raises(ContractViolation, match=r"^protocol: its fields do not survive JSON"):
        check_mechanism(WithASet(layers=("a", "b")))  # comes back as a list
    check_mechanism(WithASet(layers="a"))


def test_an_adversary_from_elsewhere_is_believed_before_the_mechanism():
    with pytest.raises(ContractViolation, match=r"^adversary: claims log_delta"):
        check_mechanism(OutputPerturbation(init_clip=1.0, noise_std=2.0), attained=exact(1.01))


@dataclass(frozen=True, kw_only=True)
class TooSmall(GradientClipping):
    """Shifted interpolation with a μ that is too small."""

    factor: float

    def mu(self, relation=Relation.RETRAINED):
        return self.factor * super().mu(relation)


@pytest.mark.parametrize("steps", [1, 5])
def test_a_bound_for_many_steps_that_is_too_small_is_refuted_by_the_adversary(steps):
    fields = vars(gradient(1.0, 1.0, 0.01, 0.0, steps, 0.5))
    with pytest.raises(ContractViolation, match=r"^lower bound: .*: no upper bound"):
        check_mechanism(TooSmall(**fields, factor=0.95))
    check_mechanism(TooSmall(**fields, factor=1.0))


@dataclass(frozen=True, kw_only=True)
class GrowingWithSteps(Wrong):
    """As training: every step reveals more."""

    steps: int = 4
    gradient_steps: ClassVar[int] = 4

    @property
    def right(self):
        return OutputPerturbation(init_clip=self.init_clip, noise_std=self.noise_std / self.steps**0.5)


def test_steps_are_held_to_the_direction_that_is_stated():
    check_mechanism(GrowingWithSteps(), more_steps_prove="less")
    check_mechanism(GrowingWithSteps(), steps=None)
    with pytest.raises(ContractViolation, match=r"^monotone in steps: .* more steps should prove more"):
        check_mechanism(GrowingWithSteps())
    with pytest.raises(ContractViolation, match=r"^monotone in steps: .* more steps should prove less"):
        check_mechanism(model(1.0, 0.1, 0.0, 4, 0.7), more_steps_prove="less")


@pytest.mark.parametrize("name", [{"noise": "sigma"}, {"steps": "rounds"}, {"lengths": ("radius",)}])
def test_a_field_that_is_not_there_is_the_callers_mistake(name):
    with pytest.raises(ValueError, match="OutputPerturbation has no field"):
        check_mechanism(OutputPerturbation(init_clip=1.0, noise_std=2.0), **name)


def test_the_contract_of_mechanisms_needs_no_torch():
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from expunge.testing import check_mechanism, ContractViolation\n"
        "from expunge import OutputPerturbation, errors\n"
        "check_mechanism(OutputPerturbation(init_clip=1.0, noise_std=2.0))\n"
        "import expunge.testing\n"
        "try:\n    expunge.testing.check_executor\n"
        "except errors.MissingExtra as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "expunge.testing.check_executor needs torch: pip install 'expunge[torch]'"


def test_an_unknown_name_is_an_attribute_error():
    import expunge.testing

    with pytest.raises(AttributeError, match="no attribute 'check_everything'"):
        _ = expunge.testing.check_everything
