"""Composition: exact laws of several releases, the chord construction, what is left of a budget, groups."""

from dataclasses import dataclass, replace
from math import exp, hypot, log, sqrt

import numpy as np
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from expunge.accounting import (
    Budget,
    DPTraining,
    Kind,
    ModelClipping,
    OutputPerturbation,
    Relation,
    Retrain,
    compose,
    composition,
    gaussian,
    group_epsilon_delta,
    group_mu,
    guarantee,
    losses,
    remaining,
    requests_left,
)
from expunge.accounting.chords import Chords
from expunge.accounting.mechanisms import assumptions
from patience import patience

ONCE = OutputPerturbation(init_clip=1.0, noise_std=8.0)
MODEL = ModelClipping(model_clip=0.5, learning_rate=0.1, steps=3, noise_std=0.8)
BUDGET = Budget(epsilon=2.0, delta=1e-5)


@pytest.mark.parametrize("relation", list(Relation))
def test_gaussian_releases_compose_by_the_root_of_the_sum_of_squares(relation):
    parts = [replace(ONCE, noise_std=s) for s in (3.0, 5.0, 9.0)]
    mu = hypot(*(p.mu(relation) for p in parts))
    joint = compose(parts, delta=1e-5, relation=relation)
    assert joint.mu == pytest.approx(mu, rel=1e-9)
    assert joint.epsilon == pytest.approx(gaussian.epsilon(mu, 1e-5), rel=1e-9)
    assert joint.relation is relation


class Foreign:
    """Another's class around a mechanism: what it proves is known by its numbers alone."""

    def __init__(self, mechanism):
        self.mechanism = mechanism

    def __getattr__(self, name):
        return getattr(self.mechanism, name)


@pytest.mark.parametrize("others", [[], [MODEL] * 2])
def test_releases_that_are_gaussian_by_construction_compose_as_by_their_profiles(others):
    parts = [replace(ONCE, noise_std=s) for s in (3.0, 5.0, 5.0, 9.0)]
    by_numbers = [Foreign(part) for part in parts]
    known = compose([*parts, *others], delta=1e-5)
    assert known.mu == pytest.approx(compose([*by_numbers, *others], delta=1e-5).mu, rel=1e-12)
    assert known.epsilon == pytest.approx(compose([*by_numbers, *others], delta=1e-5).epsilon, rel=1e-6)
    assert known.epsilon > compose([*parts[1:], *others], delta=1e-5).epsilon


@pytest.mark.parametrize("mechanism", [ONCE, MODEL, replace(MODEL, steps=40, noise_std=0.3)], ids=str)
def test_one_release_composes_to_its_own_guarantee(mechanism):
    assert compose([mechanism], delta=1e-5).epsilon == pytest.approx(guarantee(mechanism, delta=1e-5).epsilon, rel=1e-9)


@pytest.mark.parametrize("times", [1, 2, 3, 10])
@pytest.mark.parametrize("mu", [0.1, 1.0, 4.0])
def test_the_chord_construction_lies_above_the_exact_composition_and_close(mu, times):
    """On Gaussian profiles, whose composition is known exactly."""
    source = Chords(composition._Gaussian(mu), -60.0)
    for delta in (1e-2, 1e-5, 1e-10):
        epsilon = gaussian.epsilon(mu * sqrt(times), delta)
        assert log(delta) - 1e-9 <= losses.composed([(source, times)], epsilon) < log(delta) + 0.01
    pair = source.pair(source.spacing())
    assert float(np.exp(pair.present.log_mass).sum()) + pair.lost == pytest.approx(1, abs=1e-8)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.5, 3.0])
def test_the_worst_pairs_of_model_clipping_stay_below_their_composition(epsilon):
    """Two releases by the tight two-point adversary, their joint δ summed over the product of both laws."""
    joint = composition._Joint.of([composition._Part(MODEL, 2, Relation.RETRAINED)], 0.0, -60.0)
    c2, sigma = MODEL.model_clip, MODEL.noise_std
    worst = 0.0
    for at in (0.0, 0.2, 0.5):  # thresholds of the adversary
        up, down = 1.0, 0.0
        for _ in range(MODEL.steps - 1):
            p, q = norm.cdf((c2 - at) / sigma), norm.cdf((-c2 - at) / sigma)
            up, down = up * p + (1 - up) * q, down * p + (1 - down) * q
        edges = np.linspace(-c2 - 8 * sigma, c2 + 8 * sigma, 2001)
        cells = np.diff(norm.cdf((edges[:, None] - [c2, -c2]) / sigma), axis=0)
        laws = [cells @ [w, 1 - w] for w in (up, down)]
        products = [np.multiply.outer(law, law) for law in laws]
        worst = max(worst, float(np.maximum(products[0] - exp(epsilon) * products[1], 0).sum()))
    bound = exp(joint.log_delta(epsilon))
    assert worst < bound
    assert epsilon > 0.5 or worst > 0.2 * bound  # further out another threshold would be worse


def test_model_clipping_composes_far_below_its_mu():
    joint = compose([MODEL, MODEL], delta=1e-5)
    assert guarantee(MODEL, delta=1e-5).epsilon < joint.epsilon < 0.7 * gaussian.epsilon(joint.mu, 1e-5)


def test_a_mixture_of_kinds_lies_between_its_parts_and_their_sum():
    joint = compose([MODEL, ONCE, Retrain(), ONCE], delta=2e-5)
    parts = [guarantee(MODEL, delta=1e-5).epsilon, compose([ONCE, ONCE], delta=1e-5).epsilon]
    assert max(parts) < joint.epsilon < sum(parts)
    assert joint.kind is Kind.EPSILON_DELTA


def test_the_chord_of_a_profile_that_is_not_convex_is_its_convex_minorant():
    """A true profile is convex in e^ε; a bound that is not is still dominated after its dents are filled from below."""

    def dented(epsilon):
        return gaussian.log_delta_upper(epsilon, 1.0) + (0.3 if 1.0 < epsilon < 1.5 else 0.0)

    for epsilon in (0.5, 1.2, 3.0):
        found = losses.composed([(Chords(dented, -60.0), 1)], epsilon)
        assert gaussian.log_delta_upper(epsilon, 1.0) <= found <= dented(epsilon) + 1e-3


def test_retraining_alone_is_exact_and_beside_others_adds_nothing():
    alone = compose([Retrain(), Retrain()], delta=1e-5)
    assert (alone.kind, alone.epsilon, alone.delta, alone.mu) == (Kind.EXACT, 0.0, 0.0, 0.0)
    assert compose([ONCE, Retrain()], delta=1e-5).epsilon == compose([ONCE], delta=1e-5).epsilon


def test_the_joint_guarantee_states_independence_and_not_one_release():
    stated = compose([ONCE, MODEL], delta=1e-5).assumptions
    assert assumptions.ONE_RELEASE not in stated
    assert assumptions.INDEPENDENT_RELEASES in stated
    assert len(set(stated)) == len(stated)


@pytest.mark.parametrize("relation", list(Relation))
@pytest.mark.parametrize("spent", [[], [ONCE] * 3, [MODEL], [MODEL, ONCE]], ids=len)
def test_what_is_left_can_be_spent_and_no_more(spent, relation):
    budget = Budget(epsilon=4.0, delta=1e-5)
    left = remaining(budget, spent, relation=relation)
    assert not left.retrain
    reach = 2 if relation is Relation.RETRAINED else 1
    last = OutputPerturbation(init_clip=1.0, noise_std=reach / left.mu)
    assert compose([*spent, last], delta=1e-5, relation=relation).epsilon <= 4.0 * (1 + 1e-9)
    more = OutputPerturbation(init_clip=1.0, noise_std=reach / (1.001 * left.mu))
    assert compose([*spent, more], delta=1e-5, relation=relation).epsilon > 4.0
    assert left.epsilon == pytest.approx(gaussian.epsilon(left.mu, 1e-5), rel=1e-9)


def test_a_spent_budget_says_retrain():
    left = remaining(BUDGET, [ONCE] * 5)
    assert (left.mu, left.epsilon, left.retrain) == (0.0, 0.0, True)
    assert requests_left(BUDGET, ONCE, spent=[ONCE] * 5) == 0


def test_requests_are_counted_until_the_budget_is_spent():
    budget = Budget(epsilon=4.0, delta=1e-5)
    count = requests_left(budget, ONCE, spent=[MODEL], limit=50)
    assert 1 < count < 50
    assert compose([MODEL, *[ONCE] * count], delta=1e-5).epsilon <= 4.0
    assert compose([MODEL, *[ONCE] * (count + 1)], delta=1e-5).epsilon > 4.0
    assert requests_left(BUDGET, ONCE) == 4
    assert requests_left(BUDGET, ONCE, spent=[ONCE, ONCE]) == 2
    assert requests_left(BUDGET, Retrain(), limit=7) == 7


def test_groups_keep_every_factor():
    assert group_mu(0.5, 3) == pytest.approx(1.5)
    epsilon, delta = group_epsilon_delta(0.2, 1e-8, 5)
    assert epsilon == pytest.approx(1.0)
    assert delta == pytest.approx(1e-8 * sum(exp(0.2 * j) for j in range(5)))  # the lemma, term by term
    assert group_epsilon_delta(0.0, 1e-8, 5)[1] == pytest.approx(5e-8)
    assert group_epsilon_delta(10.0, 1e-5, 100)[1] == 1.0


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_group_of_a_gaussian_is_bounded_by_the_lemma_and_met_by_mu(size):
    """The lemma is looser than the exact profile of a group, never tighter."""
    mu, epsilon = 0.4, 0.7
    lemma_epsilon, lemma_delta = group_epsilon_delta(epsilon, exp(gaussian.log_delta_upper(epsilon, mu)), size)
    assert exp(gaussian.log_delta(lemma_epsilon, group_mu(mu, size))) <= lemma_delta


def test_an_iterator_composes_as_what_it_yields():
    """It can be read only once: what was read to check it must not be missing from the sum."""
    assert compose((ONCE for _ in range(3)), delta=1e-5) == compose([ONCE] * 3, delta=1e-5)
    assert remaining(BUDGET, iter([ONCE] * 3)) == remaining(BUDGET, [ONCE] * 3)
    assert remaining(BUDGET, iter([ONCE] * 5)).retrain
    assert requests_left(BUDGET, ONCE, spent=iter([ONCE, ONCE])) == 2
    with pytest.raises(ValueError, match="at least one"):
        compose(iter([]), delta=1e-5)


ONCE = OutputPerturbation(init_clip=1.0, noise_std=8.0)


@pytest.mark.parametrize("given", [{ONCE}, frozenset({ONCE}), {ONCE: 2}, {ONCE: 2}.keys(), "ab", [None], [type(ONCE)]])
def test_what_loses_count_of_equal_releases_or_holds_no_mechanism_does_not_compose(given):
    """Two equal releases in a set would be one, in a mapping with counts one each."""
    budget = Budget(epsilon=2.0, delta=1e-5)
    for call in (
        lambda: compose(given, delta=1e-5),
        lambda: remaining(budget, given),
        lambda: requests_left(budget, ONCE, spent=given),
    ):
        with pytest.raises(TypeError, match=r"mechanisms must (be a list with|hold finished) "):
            call()


def test_a_mu_below_the_smallest_number_is_not_stated_as_zero():
    """Zero is what exact methods state."""
    hardly = OutputPerturbation(init_clip=1e-300, noise_std=1e300)
    assert compose([hardly] * 3, delta=1e-5).mu >= 1e-290


def test_kinds_that_prove_nothing_do_not_compose():
    @dataclass(frozen=True)
    class Measured(OutputPerturbation):
        kind = Kind.BEHAVIOURAL

    with pytest.raises(ValueError, match="'behavioural', which proves no"):
        compose([Measured(init_clip=1.0, noise_std=1.0)], delta=1e-5)
    with pytest.raises(ValueError, match="at least one"):
        compose([], delta=1e-5)


@pytest.mark.parametrize(("field", "value"), [("delta", 0.0), ("delta", 1.0), ("delta", float("nan"))])
def test_a_bad_delta_is_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        compose([ONCE], delta=value)


@pytest.mark.parametrize("size", [0, -1])
def test_a_bad_group_is_refused_by_name(size):
    with pytest.raises(ValueError, match="size"):
        group_mu(1.0, size)
    with pytest.raises(ValueError, match="size"):
        group_epsilon_delta(1.0, 1e-5, size)


def test_a_profile_that_proves_nothing_composes_to_what_its_mu_proves():
    """It came back as infinite where the μ printed beside it proves a finite ε."""
    for noise in (1e-4, 0.05):
        hopeless = compose([replace(MODEL, noise_std=noise)] * 2, delta=1e-5)
        assert hopeless.epsilon <= gaussian.epsilon(hopeless.mu, 1e-5) * (1 + 1e-9)


PARTS = st.lists(
    st.one_of(
        st.builds(lambda c, s: OutputPerturbation(init_clip=c, noise_std=s), st.floats(0.01, 3), st.floats(0.3, 30)),
        st.builds(
            lambda c, t, s: ModelClipping(model_clip=c, learning_rate=0.1, steps=t, noise_std=s),
            st.floats(0.01, 3), st.integers(1, 40), st.floats(0.1, 10),
        ),
        st.just(DPTraining(sample_clip=1.0, noise_multiplier=2.0, sampling_rate=0.05, steps=20, group_size=1)),
    ),
    min_size=1, max_size=4,
)  # fmt: skip


@settings(max_examples=12, deadline=None, derandomize=True, database=None)
@given(parts=PARTS, relation=st.sampled_from(list(Relation)), log_delta=st.floats(-70, -0.1))
def test_what_is_composed_is_never_above_what_its_own_mu_proves(parts, relation, log_delta):
    joint = compose(parts, delta=exp(log_delta), relation=relation)
    assert joint.epsilon <= gaussian.epsilon(joint.mu, exp(log_delta)) * (1 + 1e-9)
    assert joint.epsilon >= max(guarantee(p, delta=exp(log_delta), relation=relation).epsilon for p in parts) * (
        1 - 1e-9
    )


WIDE = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=2, noise_std=1.0)
WORST = replace(WIDE, steps=12, noise_std=0.4)


@pytest.mark.parametrize("times", [1, 2, 4, 8])
@pytest.mark.parametrize(("mechanism", "delta"), [(WIDE, 1e-5), (WORST, 0.1)], ids=["few steps", "many"])
def test_against_the_centre_one_certifier_is_named_for_all_releases_alike(mechanism, times, delta):
    """Either noise around the centre, or the same steps from it. The least of both profiles at each ε is no profile.

    Composing that least came out up to 5 % below what either proves.
    """
    joint = compose([mechanism] * times, delta=delta, relation=Relation.CENTER)
    steps = compose([mechanism] * times, delta=delta)
    alone = OutputPerturbation(init_clip=1.0, noise_std=mechanism.noise_std)
    noise = compose([alone] * times, delta=delta, relation=Relation.CENTER)
    least = min(steps, noise, key=lambda g: g.epsilon)
    assert joint.epsilon == pytest.approx(least.epsilon, rel=1e-12)
    assert joint.mu == pytest.approx(least.mu, rel=1e-12)


def test_the_least_of_two_profiles_composes_below_what_either_proves():
    """The fault that the test above guards against, shown: a mechanism that hides its two certifiers."""

    @dataclass(frozen=True, kw_only=True)
    class Mixed(OutputPerturbation):
        def log_delta(self, epsilon, relation=Relation.RETRAINED):
            return WORST.log_delta(epsilon, Relation.CENTER)

        def mu(self, relation=Relation.RETRAINED):
            return 1e3

    joint = compose([WORST] * 8, delta=0.1, relation=Relation.CENTER)
    assert compose([Mixed(init_clip=1.0, noise_std=1.0)] * 8, delta=0.1).epsilon < 0.99 * joint.epsilon


def test_releases_may_have_certifiers_of_different_words_but_one_each():
    """Few steps are best held against noise, many against the same steps: together neither word serves both."""
    few, many = replace(WIDE, steps=1, noise_std=4.0), replace(WIDE, steps=30, noise_std=2.0)
    joint = compose([few, many], delta=1e-5, relation=Relation.CENTER)
    noise = OutputPerturbation(init_clip=1.0, noise_std=4.0)
    beside = compose([noise, OutputPerturbation(init_clip=1.0, noise_std=2.0)], delta=1e-5, relation=Relation.CENTER)
    assert joint.epsilon < min(compose([few, many], delta=1e-5).epsilon, beside.epsilon)


DP = DPTraining(sample_clip=1.0, noise_multiplier=1.0, sampling_rate=0.01, steps=100, group_size=1)


def test_private_trainings_compose_step_by_step():
    """Two trainings of T steps are one of 2T: no profile of a profile, and as fast."""
    twice = guarantee(replace(DP, steps=250), delta=1e-5).epsilon
    assert compose([DP, replace(DP, steps=150)], delta=1e-5).epsilon == pytest.approx(twice, rel=1e-9)
    assert compose([DP], delta=1e-5).epsilon == guarantee(DP, delta=1e-5).epsilon


def test_private_training_beside_other_releases_lies_just_above_what_another_library_gives():
    losses_of = privacy_loss_distribution
    peer = losses_of.from_gaussian_mechanism(1.0, sampling_prob=0.01).self_compose(100)
    peer = peer.compose(losses_of.from_gaussian_mechanism(2.0, sampling_prob=0.05).self_compose(50))
    peer = peer.compose(losses_of.from_gaussian_mechanism(4.0))
    other = DPTraining(sample_clip=1.0, noise_multiplier=2.0, sampling_rate=0.05, steps=50, group_size=1)
    for delta in (1e-3, 1e-5, 1e-8):
        ours = compose([DP, OutputPerturbation(init_clip=1.0, noise_std=8.0), other], delta=delta).epsilon
        assert peer.get_epsilon_for_delta(delta) * (1 - 2e-3) < ours < 1.01 * peer.get_epsilon_for_delta(delta)


def test_ten_thousand_releases_and_two_trainings_are_counted_in_seconds():
    """They took more than 60 and 154 seconds of processor time."""
    with patience(6):
        small = ModelClipping(model_clip=1.0, learning_rate=0.1, steps=10, noise_std=8.0)
        assert requests_left(BUDGET, small) == 10_000
        assert compose([DP] * 2, delta=1e-5).epsilon < 1
        assert compose([ONCE] * 10_000, delta=1e-5).mu == pytest.approx(25, rel=1e-9)


def test_many_equal_releases_agree_with_the_exact_gaussian():
    """A thousand copies through the grid against the closed form: 0.1 % above it at most."""

    @dataclass(frozen=True, kw_only=True)
    class Profiled(OutputPerturbation):
        def mu(self, relation=Relation.RETRAINED):
            return 1e3  # so that only the profile can say so

        def log_delta(self, epsilon, relation=Relation.RETRAINED):
            return gaussian.log_delta_upper(epsilon, 0.05)

    part = Profiled(init_clip=1.0, noise_std=40.0)
    for times in (2, 30, 1000):
        exact = gaussian.epsilon(0.05 * sqrt(times), 1e-6)
        assert exact * (1 - 1e-9) <= compose([part] * times, delta=1e-6).epsilon <= exact * 1.001


@pytest.mark.parametrize("delta", [1e-20, 1e-40, 1e-100])
def test_a_delta_below_where_profiles_once_ended_is_answered_too(delta):
    joint = compose([MODEL, MODEL], delta=delta)
    assert joint.epsilon < 0.9 * gaussian.epsilon(joint.mu, delta)


@pytest.mark.parametrize("wrong", ["abc", [1], [OutputPerturbation], [None]])
def test_what_is_no_finished_mechanism_is_refused_by_name(wrong):
    """A text is a collection of texts, and a class is no mechanism: a TypeError and no AttributeError."""
    for ask in (
        lambda: compose(wrong, delta=1e-5),
        lambda: remaining(Budget(epsilon=1.0, delta=1e-5), wrong),
        lambda: requests_left(
            Budget(epsilon=1.0, delta=1e-5), OutputPerturbation(init_clip=1.0, noise_std=8.0), spent=wrong
        ),
    ):
        with pytest.raises(TypeError, match="finished mechanisms"):
            ask()


@dataclass(frozen=True, kw_only=True)
class Said(OutputPerturbation):
    """A Gaussian profile whose instances say of themselves what they are told to."""

    said: float | None = None
    sort: Kind = Kind.EPSILON_DELTA
    stated: tuple[str, ...] = ()

    @property
    def kind(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.sort

    @property
    def assumptions(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.stated

    def mu(self, relation=Relation.RETRAINED):
        return super().mu(relation) if self.said is None else self.said


MANY = [Said(init_clip=1.0, noise_std=800.0 + k % 7) for k in range(300)]


def test_gaussian_releases_count_alike_whether_equal_or_one_object_and_between_others():
    equal, same = compose(MANY, delta=1e-5), compose([MANY[k % 7] for k in range(300)], delta=1e-5)
    root = sqrt(sum(m.mu() ** 2 for m in MANY))
    assert equal.mu == pytest.approx(root * (1 + 1e-10), rel=1e-14) == pytest.approx(same.mu, rel=1e-14)
    between = compose([*MANY[:9], MODEL, *MANY[9:]], delta=1e-5)
    assert between.epsilon == pytest.approx(compose([MODEL, *MANY], delta=1e-5).epsilon, rel=1e-9)
    assert between.epsilon > equal.epsilon


@pytest.mark.parametrize("said", [float("nan"), -1.0, float("inf")])
def test_one_release_that_says_no_number_leaves_nothing_proven_of_all(said):
    joint = compose([*MANY, replace(MANY[0], said=said), *MANY], delta=1e-5)
    assert joint.mu == joint.epsilon == float("inf")


def test_a_release_whose_mu_vanishes_is_not_exact():
    assert compose([replace(MANY[0], said=0.0)], delta=1e-5).kind is Kind.EPSILON_DELTA


def test_every_release_is_asked_for_its_own_kind_and_assumptions():
    with pytest.raises(ValueError, match="of kind 'none'"):
        compose([*MANY, replace(MANY[0], sort=Kind.NONE), *MANY], delta=1e-5)
    held = compose([*MANY, replace(MANY[0], stated=("one more",)), *MANY], delta=1e-5).assumptions
    assert held[:1] == ("one more",)
