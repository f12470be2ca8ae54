"""Schedules: the vector of their page, and the case of equal steps."""

from math import nan

import pytest

from clipped_steps import SETTINGS, gradient_clipping
from expunge.accounting import Relation, ScheduledGradientClipping

FIELDS = {
    "init_clip": 1.0, "grad_clip": 1.0, "learning_rate": (0.01, 0.02), "weight_decay": 0.1, "noise_std": (0.5, 0.6),
}  # fmt: skip


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
        ScheduledGradientClipping(**FIELDS | {field: value})
