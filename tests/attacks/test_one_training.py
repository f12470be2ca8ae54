"""From one training with coins: what remembers is refuted, what forgets is not."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from expunge import Examples, OutputPerturbation, Recipe, Retrain, guarantee, recover, retrain, unlearn
from expunge.attacks import canaries
from expunge.attacks.one_training import losses
from expunge.audit import OneRun

RECIPE = Recipe(learning_rate=0.5, batch_size=20, weight_decay=0.0)
EXACT = guarantee(Retrain(), delta=1e-5)
NOISY = OutputPerturbation(init_clip=0.01, noise_std=0.0746126327)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def rows(n, seed):
    """Random labels: only learning by heart helps."""
    coins = torch.Generator().manual_seed(seed)
    return Examples(torch.randn(n, 300, generator=coins), torch.randint(2, (n,), generator=coins))


RETAIN, CANDIDATES = rows(60, 0), rows(200, 1)


def joined(own):
    if own is None:
        return RETAIN
    return Examples(*(torch.cat(pair) for pair in zip(RETAIN.tensors, own.tensors, strict=True)))


def learn(own):
    coins = torch.Generator().manual_seed(2)
    return retrain(lambda: nn.Linear(300, 2), joined(own), loss=loss, epochs=30, recipe=RECIPE, generator=coins).model


def attacked(forget, **how):
    fields = {"score": partial(losses, loss=loss), "generator": torch.Generator().manual_seed(3)}
    return canaries(learn, forget, CANDIDATES, **fields | how)


def by_noise(model, _own):
    coins = torch.Generator().manual_seed(4)
    done = unlearn(model, RETAIN, NOISY, loss=loss, generator=coins)
    return recover(done.model, RETAIN, loss=loss, epochs=3, recipe=RECIPE, generator=coins)


def test_a_model_that_was_only_fine_tuned_is_refuted():
    seen = attacked(lambda model, _own: recover(model, RETAIN, loss=loss, epochs=1, recipe=RECIPE))
    assert seen.findings[0].refutes(EXACT)
    assert seen.details["auc"] > 0.75


@pytest.mark.parametrize("forget", [by_noise, lambda _model, _own: learn(None)], ids=["noise", "retraining"])
def test_a_model_that_unlearned_is_not_refuted(forget):
    seen = attacked(forget)
    assert not seen.findings[0].refutes(guarantee(NOISY, delta=1e-5))
    assert abs(seen.details["auc"] - 0.5) < 0.12


def test_the_bound_is_that_of_all_guesses_together_and_the_null_guesses_other_coins():
    found = attacked(lambda model, _own: model).findings[0]
    assert found.evidence.candidates == found.null.candidates == 200
    assert found.epsilon > 35
    assert found.null_epsilon < 2


def test_for_a_claim_about_each_candidate_alone_half_of_them_choose_how_many_to_guess():
    """Private training for a group of one record does not cover a hundred."""
    found = attacked(lambda model, _own: model, kind=OneRun).findings[0]
    assert found.evidence.canaries == found.null.canaries == 100
    assert found.evidence.correct / found.evidence.guesses > 0.9
    assert found.null_epsilon < 0.5


def test_fair_coins_are_not_guessed_more_often_than_the_confidence_allows():
    """Scores that know nothing: at most one audit in twenty may show an epsilon above 0."""
    candidates = Examples(torch.zeros(40, 1))

    def refuted(seed):
        noise = torch.Generator().manual_seed(seed)
        blind = canaries(
            lambda _own: nn.Linear(1, 1), lambda model, _own: model, candidates,
            score=lambda _m, e: torch.randn(len(e), generator=noise), generator=torch.Generator().manual_seed(seed + 10_000),
        )  # fmt: skip
        return blind.findings[0].epsilon > 0

    count = sum(refuted(seed) for seed in range(400))
    assert count <= 33  # P[Binomial(400, 0.05) > 33] = 0.3 %


def test_only_the_candidates_that_are_in_are_learned_and_forgotten():
    asked = []
    canaries(
        lambda own: asked.append(own.ids) or nn.Linear(300, 2), lambda model, own: asked.append(own.ids) or model,
        CANDIDATES, score=partial(losses, loss=loss), generator=torch.Generator().manual_seed(5),
    )  # fmt: skip
    assert asked[0] == asked[1]
    assert 70 < len(asked[0]) < 130


def ridge(examples, sign, start=None):
    """One Newton step on ridge regression, which is exact where the sign is right; by default from zero."""
    x, y = examples.tensors[0].double(), examples.tensors[1].double() * 2 - 1
    w = torch.zeros(300, dtype=torch.float64) if start is None else start
    hessian = x.T @ x + torch.eye(300)
    return w - sign * torch.linalg.solve(hessian, hessian @ w - x.T @ y)


def head(w):
    model = nn.Linear(300, 1, bias=False).double()
    model.weight.data = w[None]
    return model


@pytest.mark.parametrize(("sign", "is_refuted"), [(1, False), (-1, True)])
def test_a_newton_step_of_the_wrong_sign_is_refuted_and_one_of_the_right_sign_is_not(sign, is_refuted):
    """Published as verifiable unlearning: what should go is there twice."""
    noise = torch.Generator().manual_seed(6)

    def forget(model, _own):
        w = ridge(RETAIN, sign, start=model.weight[0].detach())
        return head(w + 1e-3 * torch.randn(300, generator=noise, dtype=torch.float64))

    def score(model, examples):
        x, y = examples.tensors
        return model(x.double())[:, 0] * (y * 2 - 1)

    seen = canaries(
        lambda own: head(ridge(joined(own), 1)), forget, CANDIDATES, score=score,
        generator=torch.Generator().manual_seed(3),
    )  # fmt: skip
    assert seen.findings[0].refutes(guarantee(NOISY, delta=1e-5)) is is_refuted


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (torch.zeros(200), "all scores are 0"),
        (torch.zeros(3), "not shape"),
        (torch.full((200,), float("nan")), "score is nan for candidate 0"),
        (torch.tensor([0.0] * 7 + [float("inf")] + [1.0] * 192), "score is inf for candidate 7"),
    ],
)
def test_scores_that_cannot_be_ranked_are_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        attacked(lambda model, _own: model, score=lambda _model, _examples: scores)


def test_too_few_candidates_are_refused():
    with pytest.raises(ValueError, match="candidates must be a whole number of at least 20, not 19"):
        canaries(
            learn, by_noise, CANDIDATES.take(range(19)), score=partial(losses, loss=loss),
            generator=torch.Generator(),
        )  # fmt: skip


def test_the_score_is_minus_the_loss_of_each_example_alone():
    model = nn.Linear(300, 2)
    x, y = CANDIDATES.tensors
    with torch.no_grad():
        expected = -F.cross_entropy(model(x), y, reduction="none")
    np.testing.assert_allclose(losses(model, CANDIDATES, loss=loss), expected, rtol=1e-5)
