"""One run, many coins: right guesses bound ε from below, and guessing at random shows nothing."""

from math import exp, log

import numpy as np
import pytest

from expunge.audit.evidence import OneRun
from expunge.audit.one_training import one_run

HOW = {"delta": 0.0, "confidence": 0.95}


def responses(rng, n, epsilon, scale=1.0):
    """Randomised response at ε as scores: right with probability e^ε/(1 + e^ε), all equally sure."""
    members = rng.random(n) < 0.5
    told = np.where(rng.random(n) < 1 / (1 + exp(-epsilon)), members, ~members)
    return told * 2.0 - 1.0 + rng.random(n) * 1e-3 * scale, members


def test_random_scores_show_nothing_more_often_than_promised():
    rng = np.random.default_rng(0)
    shown = 0
    for _ in range(200):
        scores, practice = rng.normal(size=(2, 300))
        members, learned = rng.random((2, 300)) < 0.5
        shown += one_run(scores, members, practice=(practice, learned), **HOW).epsilon(**HOW) > 0
    assert shown <= 20  # 5 % of 200, four deviations


def test_randomised_response_is_bounded_close_to_its_epsilon():
    scores, members = responses(np.random.default_rng(1), 20_000, 2.0)
    assert 1.9 < one_run(scores, members, **HOW).epsilon(**HOW) < 2.0


def test_a_few_sure_scores_among_noise_are_found_by_practice():
    rng = np.random.default_rng(2)

    def make(n):
        members = rng.random(n) < 0.5
        sure = rng.random(n) < 0.05
        return np.where(sure, np.where(members, 9.0, -9.0), rng.normal(size=n)), members

    with_practice = one_run(*(own := make(4000)), practice=make(4000), **HOW).epsilon(**HOW)
    without = one_run(*own, **HOW).epsilon(**HOW)
    assert with_practice > 3 > without


@pytest.mark.parametrize("extreme", [True, False])
def test_practice_may_leave_one_side_unguessed(extreme):
    """The highest scores are members, and so are the lowest: to guess "out" is to be wrong. Or the other way round."""
    rng = np.random.default_rng(6)

    def make(n):
        scores = rng.normal(size=n)
        members = np.where(np.abs(scores) > 1.5, extreme, rng.random(n) < 0.5)
        return scores, members

    seen = one_run(*make(4000), practice=make(4000), **HOW)
    assert seen.correct == seen.guesses > 40


def test_several_runs_are_one_run_with_more_canaries():
    scores, members = responses(np.random.default_rng(3), 600, 1.0)
    assert one_run(scores.reshape(6, 100), members.reshape(6, 100), **HOW) == one_run(scores, members, **HOW)


def test_without_practice_all_are_guessed():
    scores, members = np.array([3.0, 1.0, 2.0, 0.0]), np.array([True, False, True, True])
    assert one_run(scores, members, **HOW) == OneRun(canaries=4, guesses=4, correct=3)
    assert log(3) > one_run(scores, members, **HOW).epsilon(**HOW)


@pytest.mark.parametrize(
    ("scores", "members", "message"),
    [
        ([1.0, 2.0], [True], r"scores have shape \(2,\), members \(1,\)"),
        ([1.0], [True], "at least 2 canaries"),
        ([1.0, float("nan")], [True, False], "NaN at index 1"),
        ([1.0, 2.0], [1, 0], "members must be bool"),
    ],
)
def test_bad_input_is_refused_by_name(scores, members, message):
    with pytest.raises(ValueError, match=message):
        one_run(np.array(scores), np.array(members), **HOW)
