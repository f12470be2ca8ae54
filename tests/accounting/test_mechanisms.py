"""What every mechanism of the closed table keeps; each has a file of its own for its theorem."""

from math import inf, log, nan

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
    delta_at,
    guarantee,
    numbers_of,
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
PATCHES = {
    "layers": ("linear", "relu", "linear"),
    "input_shape": (4,),
    "lowest": 0.0,
    "highest": 1.0,
    "patches": 2,
    "margin": 0.1,
}
WITHOUT_A_NUMBER = {
    ExactRidge: RIDGE,
    GridRidge: RIDGE | {"grid": 0.25},
    Replay: {},
    Retrain: {},
    UndeclaredFeatures: {"head": "exact_ridge"},
    Unproven: {"method": "scrub"},
    Prune: PATCHES,
}
BAD_CASES = [
    (family, field) for family, fields in VALID.items() for field, value in fields.items() if not isinstance(value, str)
]


@pytest.mark.parametrize(
    "nothing", [UndeclaredFeatures(head="exact_ridge"), Unproven(method="scrub")], ids=lambda m: m.name
)
def test_undeclared_features_and_methods_without_a_theorem_prove_nothing(nothing):
    proven = guarantee(nothing, delta=1e-5)
    assert (proven.kind, numbers_of(proven)) == (Kind.NONE, {"epsilon": None, "delta": None, "mu": None})
    assert delta_at(nothing, 100.0) == 1.0


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
