"""What has no guarantee gets none: kinds that prove no law, and answers that are no numbers."""

from dataclasses import dataclass
from math import inf, nan

import pytest

from expunge.accounting import (
    Budget,
    Kind,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Retrain,
    UndeclaredFeatures,
    calibrate,
    compose,
    delta_at,
    fewest_steps,
    gaussian,
    guarantee,
    interval,
    meets,
    remaining,
    requests_left,
)

BUDGET = Budget(epsilon=1.0, delta=1e-5)
ONCE = OutputPerturbation(init_clip=1.0, noise_std=8.0)


def of_kind(kind):
    @dataclass(frozen=True, kw_only=True)
    class Other(OutputPerturbation):
        pass

    Other.kind = kind
    return Other(init_clip=1.0, noise_std=2.0)


ASKED = {
    "guarantee": lambda m: guarantee(m, delta=1e-5),
    "delta_at": lambda m: delta_at(m, 1.0),
    "interval": lambda m: interval(m, delta=1e-5),
    "compose": lambda m: compose([ONCE, m], delta=1e-5),
    "remaining": lambda m: remaining(BUDGET, [m]),
    "requests_left": lambda m: requests_left(BUDGET, m),
    "requests_left after": lambda m: requests_left(BUDGET, ONCE, spent=[m]),
    "requests_left exact": lambda m: requests_left(BUDGET, Retrain(), spent=[m]),
    "meets": lambda m: meets(m, BUDGET),
    "calibrate": lambda m: calibrate(lambda s: type(m)(init_clip=1.0, noise_std=s), BUDGET),
    "fewest_steps": lambda m: fewest_steps(lambda n: m, BUDGET),
}


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
@pytest.mark.parametrize("kind", [Kind.BEHAVIOURAL, "empirical", "epsilon", "", None], ids=str)
def test_a_kind_that_proves_no_law_is_refused_wherever_a_bound_is_asked(ask, kind):
    """A measurement read as a profile would come back as a proof."""
    with pytest.raises(ValueError, match="kind"):
        ask(of_kind(kind))


@pytest.mark.parametrize("ask", ASKED.values(), ids=ASKED)
def test_a_mechanism_that_calls_itself_exact_while_its_profile_leaks_is_refused(ask):
    with pytest.raises(ValueError, match="says that something leaks"):
        ask(of_kind(Kind.EXACT))


@dataclass(frozen=True, kw_only=True)
class Silent(OutputPerturbation):
    """Answers with `said` where a bound was asked for."""

    said: float
    about: str = "both"

    def mu(self, relation=Relation.RETRAINED):
        return self.said if self.about in ("mu", "both") else super().mu(relation)

    def log_delta(self, epsilon, relation=Relation.RETRAINED):
        return self.said if self.about in ("log_delta", "both") else gaussian.log_delta_upper(epsilon, 0.25)

    def log_delta_lower(self, epsilon, relation=Relation.RETRAINED):
        return nan


@pytest.mark.parametrize("relation", list(Relation))
def test_what_is_no_number_is_read_as_everything_leaks(relation):
    silent = Silent(init_clip=1.0, noise_std=8.0, said=nan)
    proven = guarantee(silent, delta=1e-5, relation=relation)
    assert (proven.epsilon, proven.mu) == (inf, inf)
    assert delta_at(silent, 3.0, relation) == 1.0
    assert interval(silent, delta=1e-5, relation=relation) == (0.0, inf)
    assert not meets(silent, BUDGET, relation)
    for parts in (
        [silent],
        [silent, silent],
        [ONCE, silent],
        [silent, ModelClipping(model_clip=1.0, learning_rate=0.1, steps=3, noise_std=3.0)],
    ):
        joint = compose(parts, delta=1e-5, relation=relation)
        assert (joint.epsilon, joint.mu) == (inf, inf)
    assert remaining(BUDGET, [silent], relation=relation).retrain
    assert requests_left(BUDGET, silent, relation=relation, limit=3) == 0
    assert requests_left(BUDGET, ONCE, spent=[silent], relation=relation, limit=3) == 0


def test_one_half_that_is_no_number_leaves_the_other_half_standing():
    """A profile without a mu, or a mu without a profile: what is known is used, what is not is infinite."""
    no_mu = Silent(init_clip=1.0, noise_std=8.0, said=nan, about="mu")
    assert guarantee(no_mu, delta=1e-5).epsilon == pytest.approx(guarantee(ONCE, delta=1e-5).epsilon, rel=1e-9)
    assert guarantee(no_mu, delta=1e-5).mu == inf
    twice = compose([no_mu, no_mu], delta=1e-5)
    assert compose([ONCE, ONCE], delta=1e-5).epsilon <= twice.epsilon < 1.01 * compose([ONCE, ONCE], delta=1e-5).epsilon
    assert twice.mu == inf
    assert guarantee(Silent(init_clip=1.0, noise_std=8.0, said=-1.0, about="mu"), delta=1e-5).mu == inf


def test_the_empty_guarantee_leaks_everything():
    nothing = UndeclaredFeatures(head="exact_ridge")
    assert delta_at(nothing, 100.0) == 1.0
    assert interval(nothing, delta=1e-5)[0] == 0.0
    with pytest.raises(ValueError, match="'none'"):
        compose([nothing], delta=1e-5)


@pytest.mark.parametrize(("epsilon", "mu"), [(nan, 1.0), (1.0, nan), (nan, nan), (1.0, inf), (-1.0, 1.0), (1.0, -1.0)])
def test_a_gaussian_of_no_number_hides_nothing(epsilon, mu):
    assert gaussian.log_delta_upper(epsilon, mu) == 0.0


@pytest.mark.parametrize("epsilon", [nan, -1.0])
def test_an_epsilon_that_is_none_is_refused_by_name(epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        delta_at(ONCE, epsilon)


def test_a_budget_by_position_is_epsilon_then_delta():
    assert Budget(1.0, 1e-5) == BUDGET
    with pytest.raises(ValueError, match=r"delta must .* 3"):
        Budget(1e-5, 3.0)
