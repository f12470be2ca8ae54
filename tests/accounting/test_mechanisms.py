"""Each mechanism against its vectors, its reductions and a plain reimplementation of its theorem."""

import itertools
from math import inf, log, nan

import mpmath
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
    Relation,
    Replay,
    Retrain,
    ScheduledGradientClipping,
    UndeclaredFeatures,
    delta_at,
    gaussian,
    guarantee,
    iteration,
)

GRADIENT = {
    "init_clip": 1.0, "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 0.0, "steps": 100, "noise_std": 0.5,
}  # fmt: skip
MODEL = {"model_clip": 1.0, "learning_rate": 0.01, "weight_decay": 0.0, "steps": 10, "noise_std": 1.0}
OUTPUT = {"init_clip": 1.0, "noise_std": 2.0}
SCHEDULED = {
    "init_clip": 1.0, "grad_clip": 1.0, "learning_rate": (0.01, 0.02), "weight_decay": 0.0, "noise_std": (0.5, 0.6),
}  # fmt: skip
BLOCKWISE = {
    "block_sizes": (2, 3), "block_clips": (1.0, 0.5), "grad_clip": 1.0, "learning_rate": 0.01, "weight_decay": 0.0,
    "steps": 10, "noise_std": 0.5, "blind": True,
}  # fmt: skip
PRIVATE = {"sample_clip": 1.0, "noise_multiplier": 5.0, "sampling_rate": 0.01, "steps": 50, "group_size": 4}
RIDGE = {"ridge": 1.0, "rounding": 1e-9, "provenance": "trained on ImageNet"}
RESIDUAL = {"residual": 1e-6, "strong_convexity": 1e-4, "noise_std": 0.02, "provenance": "trained on ImageNet"}
VALID = {
    GradientClipping: GRADIENT,
    ScheduledGradientClipping: SCHEDULED,
    BlockwiseGradientClipping: BLOCKWISE,
    ModelClipping: MODEL,
    OutputPerturbation: OUTPUT,
    DPTraining: PRIVATE,
    MeasuredResidual: RESIDUAL,
}
WITHOUT_A_NUMBER = {
    ExactRidge: RIDGE,
    GridRidge: RIDGE | {"grid": 0.25},
    Replay: {},
    Retrain: {},
    UndeclaredFeatures: {"head": "exact_ridge"},
}
BAD_CASES = [
    (family, field) for family, fields in VALID.items() for field, value in fields.items() if not isinstance(value, str)
]

SETTINGS = [
    # C0, C1, eta, lambda, T
    (0.1, 10.0, 0.001, 50.0, 10),
    (20.0, 10.0, 0.01, 50.0, 11),
    (1.0, 1.0, 0.01, 0.0, 100),
    (1.0, 1.0, 0.01, 0.0, 250),
    (0.5, 1.0, 0.01, 20.0, 50),
    (1.0, 1.0, 0.01, 1e-9, 400),
    (0.1, 1.0, 0.01, 50.0, 60),
    (3.0, 1.0, 0.1, 0.01, 200),
    (0.01, 5.0, 0.1, 1.0, 30),
    (1.0, 1.0, 0.5, 2.0, 7),
]


def gradient_clipping(c0, c1, eta, decay, steps, sigma):
    return GradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=eta, weight_decay=decay, steps=steps, noise_std=sigma
    )


def brute_force_mu(mechanism, reach=2):
    """The minimum over k of the closed form, summed term by term in 50 digits."""
    with mpmath.workdps(50):
        rho = 1 - mpmath.mpf(mechanism.learning_rate * mechanism.weight_decay)
        drift = reach * mpmath.mpf(mechanism.learning_rate) * mpmath.mpf(mechanism.grad_clip)
        distance = reach * mpmath.mpf(mechanism.init_clip)
        power, powers, squares, best = mpmath.mpf(1), mpmath.mpf(0), mpmath.mpf(0), mpmath.inf
        for _ in range(mechanism.steps):
            powers, squares, power = powers + power, squares + power**2, power * rho
            best = min(best, (power * distance + drift * powers) / mpmath.sqrt(squares))
        return best / mpmath.mpf(mechanism.noise_std)


@pytest.mark.parametrize(
    ("fields", "mu", "epsilon"),
    [
        ((0.1, 10, 0.001, 50, 10, 0.0772563), 1.41421349, 6.572970),
        ((20, 10, 0.01, 50, 11, 0.2567898), 1.41421356, 6.572970),
        ((1, 1, 0.01, 0, 100, 0.5), 0.8, 3.386933),
        ((0.5, 1, 0.01, 20, 50, 0.25), 0.24003083, 0.885917),
    ],
)
def test_gradient_clipping_matches_the_printed_vectors(fields, mu, epsilon):
    proven = guarantee(gradient_clipping(*fields), delta=1e-5)
    assert proven.mu == pytest.approx(mu, abs=6e-9)
    assert proven.epsilon == pytest.approx(epsilon, abs=6e-7)


def test_a_schedule_matches_the_vector_of_its_page():
    m = ScheduledGradientClipping(
        init_clip=0.5, grad_clip=1.0, learning_rate=[0.02, 0.01], weight_decay=10.0, noise_std=[0.3, 0.4]
    )
    assert m.mu() == pytest.approx(0.776 / 0.2329**0.5, rel=1e-12)
    assert m.output_noise_std == pytest.approx(0.2329**0.5, rel=1e-12)
    assert m.surviving_norm == pytest.approx(0.72 * 0.5, rel=1e-12)


@pytest.mark.parametrize("fields", SETTINGS)
def test_a_constant_schedule_proves_what_gradient_clipping_proves(fields):
    c0, c1, eta, decay, steps = fields
    constant = gradient_clipping(*fields, 0.5)
    schedule = ScheduledGradientClipping(
        init_clip=c0, grad_clip=c1, learning_rate=[eta] * steps, weight_decay=decay, noise_std=[0.5] * steps
    )
    for relation in Relation:
        assert schedule.mu(relation) == pytest.approx(constant.mu(relation), rel=1e-9)
        assert schedule.certifier(relation) == constant.certifier(relation)
    assert schedule.output_noise_std == pytest.approx(constant.output_noise_std, rel=1e-9)
    assert schedule.surviving_norm == pytest.approx(constant.surviving_norm, rel=1e-9, abs=1e-300)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("noise_std", [0.5], r"same length.*'learning_rate': 2, 'noise_std': 1"),
        ("noise_std", [0.5, 0.0], r"noise_std\[1\] must be above 0"),
        ("learning_rate", [0.01, nan], r"learning_rate\[1\].*nan"),
        ("learning_rate", [0.01, 200.0], r"learning_rate\[1\] \* weight_decay must be at most 1"),
    ],
)
def test_a_bad_schedule_is_refused_by_name_step_and_value(field, value, message):
    with pytest.raises(ValueError, match=message):
        ScheduledGradientClipping(**SCHEDULED | {"weight_decay": 0.1, field: value})


def test_model_clipping_matches_the_recursion_vector_at_r_2_and_epsilon_1():
    vector = [0.5098616600546702, 0.21603089417307073, 0.06485736719503979, 0.00954783916840509, 2.483030404745209e-4,
              2.6534110553665703e-8]  # fmt: skip
    for steps, delta in enumerate(vector, start=1):
        mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=1.0)
        assert delta_at(mechanism, 1.0) == pytest.approx(delta, rel=1e-9, abs=0)


@pytest.mark.parametrize(
    ("steps", "ratio", "unit"),
    [(1, 7.46, 0.01), (2, 2.33, 0.01), (3, 1.54, 0.01), (5, 1.06, 0.01), (10, 0.749, 0.001), (20, 0.592, 0.001),
     (50, 0.475, 0.001), (100, 0.420, 0.001), (300, 0.360, 0.001)],
)  # fmt: skip
def test_model_clipping_needs_the_printed_noise_for_epsilon_1_delta_1e_5(steps, ratio, unit):
    def proven(sigma):
        mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=sigma)
        return guarantee(mechanism, delta=1e-5).epsilon

    assert proven(ratio + unit / 2) <= 1.0 < proven(ratio - unit / 2)


@pytest.mark.parametrize("fields", [(1.0, 2.0, 0.1, 3.0, 0.7), (0.3, 1.0, 0.01, 0.0, 1.0), (2.0, 1.0, 0.5, 2.0, 0.9)])
@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_one_step_of_gradient_clipping_is_the_gaussian_mechanism_with_shift_rho_d_plus_s(fields, epsilon):
    c0, c1, eta, decay, sigma = fields
    mechanism = gradient_clipping(c0, c1, eta, decay, 1, sigma)
    shift = ((1 - eta * decay) * 2 * c0 + 2 * eta * c1) / sigma
    assert mechanism.mu() == pytest.approx(shift, rel=1e-13)
    assert mechanism.log_delta(epsilon) == pytest.approx(gaussian.log_delta(epsilon, shift), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 3.0])
def test_one_step_of_model_clipping_is_the_gaussian_mechanism_at_the_diameter(epsilon):
    mechanism = ModelClipping(model_clip=0.7, learning_rate=0.1, steps=1, noise_std=0.9)
    assert mechanism.log_delta(epsilon) == pytest.approx(gaussian.log_delta(epsilon, 1.4 / 0.9), rel=1e-11)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize(("relation", "reach"), [(Relation.RETRAINED, 2), (Relation.CENTER, 1)])
def test_gradient_clipping_mu_is_the_brute_force_minimum_over_prefixes_rounded_up(setting, relation, reach):
    mechanism = gradient_clipping(*setting, 0.37)
    truth = brute_force_mu(mechanism, reach)
    assert truth <= mpmath.mpf(mechanism.mu(relation)) <= truth * (1 + mpmath.mpf("1e-12"))


def test_more_steps_never_prove_less():
    mus = [gradient_clipping(1.0, 1.0, 0.05, 0.5, steps, 0.5).mu() for steps in range(1, 120)]
    assert all(later <= earlier * (1 + 1e-13) for earlier, later in itertools.pairwise(mus))


def test_without_decay_the_best_prefix_is_c0_over_eta_c1():
    assert iteration.best_prefix(distance=2.0, drift=0.02, decay=0.0, steps=1000) == 100


@pytest.mark.parametrize("setting", SETTINGS)
def test_center_has_half_the_mu_of_retrained_for_gradient_clipping(setting):
    mechanism = gradient_clipping(*setting, 0.37)
    assert mechanism.mu(Relation.CENTER) == pytest.approx(mechanism.mu(Relation.RETRAINED) / 2, rel=1e-14)


def test_center_has_half_the_mu_of_retrained_for_output_perturbation():
    mechanism = OutputPerturbation(init_clip=0.3, noise_std=0.7)
    assert mechanism.mu(Relation.RETRAINED) == pytest.approx(2 * 0.3 / 0.7, rel=1e-14)
    assert mechanism.mu(Relation.CENTER) == mechanism.mu(Relation.RETRAINED) / 2


def plain_recursion(steps, epsilon, shift):
    log_delta = 0.0
    for _ in range(steps):
        ratio = mpmath.expm1(epsilon) / mpmath.exp(log_delta)
        log_delta += gaussian.log_delta(float(mpmath.log1p(ratio)), shift)
    return log_delta


@pytest.mark.parametrize("steps", [1, 2, 3, 5])
@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0, 4.0])
def test_model_clipping_center_is_the_smaller_of_recursion_and_last_step(steps, epsilon):
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=steps, noise_std=1.3)
    recursion, last = plain_recursion(steps, epsilon, 2 / 1.3), gaussian.log_delta(epsilon, 1 / 1.3)
    assert mechanism.log_delta(epsilon) == pytest.approx(recursion, rel=1e-10)
    assert mechanism.log_delta(epsilon, Relation.CENTER) == pytest.approx(min(recursion, last), rel=1e-10)


def test_model_clipping_center_takes_each_branch_somewhere():
    one, many = (ModelClipping(model_clip=1.0, learning_rate=0.1, steps=t, noise_std=1.3) for t in (1, 6))
    assert one.log_delta(1.0, Relation.CENTER) < one.log_delta(1.0)
    assert many.log_delta(1.0, Relation.CENTER) == many.log_delta(1.0)


def test_the_mu_of_model_clipping_bounds_its_whole_profile():
    mechanism = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=4, noise_std=1.3)
    for relation in Relation:
        for epsilon in (0.0, 0.1, 1.0, 5.0, 20.0):
            bound = gaussian.log_delta_upper(epsilon, mechanism.mu(relation))
            assert mechanism.log_delta(epsilon, relation) <= bound


@pytest.mark.parametrize(
    "exact", [Retrain(), Replay(), ExactRidge(**RIDGE), GridRidge(**RIDGE, grid=0.25)], ids=lambda m: m.name
)
@pytest.mark.parametrize("relation", list(Relation))
def test_an_exact_mechanism_leaks_nothing(exact, relation):
    proven = guarantee(exact, delta=1e-5, relation=relation)
    assert (proven.epsilon, proven.delta, proven.mu, proven.kind) == (0.0, 0.0, 0.0, Kind.EXACT)
    assert exact.log_delta(0.0, relation) == -inf
    assert delta_at(exact, 0.0, relation) == 0.0


def test_undeclared_features_prove_nothing():
    proven = guarantee(UndeclaredFeatures(head="exact_ridge"), delta=1e-5)
    assert (proven.epsilon, proven.delta, proven.mu, proven.kind) == (0.0, 1.0, inf, Kind.NONE)
    assert delta_at(UndeclaredFeatures(head="exact_ridge"), 100.0) == 1.0


@pytest.mark.parametrize("relation", list(Relation))
def test_a_measured_residual_is_the_gaussian_mechanism_at_residual_over_convexity(relation):
    # 2e-6 / 1e-4 / 0.02 = 1, whose epsilon at 1e-5 is that of output perturbation with C0 = 1, sigma = 2.
    mechanism = MeasuredResidual(**RESIDUAL | {"residual": 2e-6})
    assert mechanism.mu(relation) == pytest.approx(1.0, rel=1e-12)
    assert guarantee(mechanism, delta=1e-5, relation=relation).epsilon == pytest.approx(4.377178, abs=1e-6)


@pytest.mark.parametrize("provenance", ["", " padded", "two\nlines", 7, None])
@pytest.mark.parametrize(
    ("family", "fields"), [(ExactRidge, RIDGE), (GridRidge, RIDGE | {"grid": 0.25}), (MeasuredResidual, RESIDUAL)]
)
def test_a_provenance_that_says_nothing_is_refused(family, fields, provenance):
    with pytest.raises((ValueError, TypeError), match="provenance"):
        family(**fields | {"provenance": provenance})


def test_delta_at_of_a_noisy_mechanism_is_never_zero():
    assert delta_at(OutputPerturbation(init_clip=1e-3, noise_std=10.0), 100.0) >= 1e-300


@pytest.mark.parametrize("family", list(VALID))
def test_the_guarantee_meets_its_own_delta(family):
    mechanism = family(**VALID[family])
    for relation in Relation:
        proven = guarantee(mechanism, delta=1e-5, relation=relation)
        assert mechanism.log_delta(proven.epsilon, relation) <= log(1e-5)
        assert mechanism.log_delta(proven.epsilon * (1 - 1e-6), relation) > log(1e-5)


def test_each_mechanism_is_in_the_table_under_its_name():
    assert {type_.name: type_ for type_ in (*VALID, *WITHOUT_A_NUMBER)} == dict(MECHANISMS)


@pytest.mark.parametrize(("family", "field"), BAD_CASES)
@pytest.mark.parametrize("bad", [-1, nan, inf, -inf])
def test_a_negative_or_non_finite_field_is_refused_by_name(family, field, bad):
    with pytest.raises((ValueError, TypeError), match=field):
        family(**VALID[family] | {field: bad})


@pytest.mark.parametrize(("family", "field"), [case for case in BAD_CASES if case[1] != "blind"])
@pytest.mark.parametrize("bad", [True, "1", None])
def test_a_field_that_is_no_number_is_refused_by_name(family, field, bad):
    with pytest.raises(TypeError, match=field):
        family(**VALID[family] | {field: bad})


MAY_BE_ZERO = {"weight_decay", "blind", "block_sizes", "block_clips"}  # the last three are no numbers


@pytest.mark.parametrize(("family", "field"), [case for case in BAD_CASES if case[1] not in MAY_BE_ZERO])
def test_zero_is_refused_where_the_proof_divides_by_it(family, field):
    with pytest.raises(ValueError, match=field):
        family(**VALID[family] | {field: 0})


@pytest.mark.parametrize("family", [GradientClipping, ModelClipping])
def test_eta_lambda_above_one_is_refused(family):
    with pytest.raises(ValueError, match=r"learning_rate \* weight_decay must be at most 1"):
        family(**VALID[family] | {"learning_rate": 0.5, "weight_decay": 2.01})


@pytest.mark.parametrize("family", [GradientClipping, ModelClipping])
@pytest.mark.parametrize(("steps", "error"), [(0, ValueError), (-3, ValueError), (1.5, TypeError), (2.0, TypeError)])
def test_steps_must_be_a_whole_number_of_at_least_one(family, steps, error):
    with pytest.raises(error, match="steps must be a whole number"):
        family(**VALID[family] | {"steps": steps})
