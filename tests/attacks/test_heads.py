"""Heads that forget are not refuted by membership; heads that forget nothing, or nearly all, are."""

from dataclasses import replace

import pytest
import torch

from expunge import AnalyticHead, Examples, MeasuredResidual, Retrain, guarantee
from expunge.attacks import HeadArena, head_membership
from expunge.attacks.heads import bits, convex, differences, exact, joined

EXACT = guarantee(Retrain(), delta=1e-5)
CONVEX = MeasuredResidual(residual=1e-8, strong_convexity=1e-2, noise_std=1e-4, provenance="random features")


def rows(n, seed, name, d=60):
    """Random labels: only learning by heart helps."""
    coins = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=coins, dtype=torch.float64)
    return Examples(x, torch.randint(3, (n,), generator=coins), ids=[f"{name}{k}" for k in range(n)])


ARENA = HeadArena(
    retain=rows(80, 0, "r"), candidates=rows(40, 1, "c"), population=rows(60, 2, "p"), classes=3, runs=64, seed=1
)
FEW = replace(ARENA, retain=rows(50, 0, "r"), candidates=rows(40, 1, "c"), runs=16)


def seen(releases, arena=ARENA):
    return head_membership(arena, releases)


def refuted(found, claim=EXACT):
    return {f.attack.partition(": ")[2] for f in found.findings if f.refutes(claim)}


def test_an_exact_head_that_forgets_is_not_refuted():
    found = seen(exact(ARENA, ridge=0.5))
    assert refuted(found) == set()
    assert all(abs(found.details[name]["attack"]["auc"] - 0.5) < 0.05 for name in ("loss threshold", "LiRA", "U-LiRA"))
    assert found.details["retained"]["auc"] > 0.7
    assert found.details["accuracy"]["retained"] > 0.7


def test_an_exact_head_that_forgets_nothing_is_refuted_by_every_attack():
    found = seen(exact(ARENA, ridge=0.5, forget=lambda _head, _own: None))
    names = ("loss threshold", "LiRA", "U-LiRA", "RMIA")
    assert refuted(found) == {f"{name}{how}" for name in names for how in ("", ", one release")}
    assert abs(found.details["LiRA"]["null"]["auc"] - 0.5) < 0.05


def test_an_exact_head_that_forgets_all_but_three_rows_is_refuted():
    def most(head, own):
        rest = own.take([k for k, name in enumerate(own.ids) if name not in {"c0", "c1", "c2"}])
        head.forget(*rest.tensors, ids=rest.ids)

    assert "U-LiRA" in refuted(seen(exact(ARENA, ridge=0.5, forget=most)))


def test_an_exact_head_that_forgets_with_the_wrong_sign_is_refuted():
    def twice(head, own):
        head.learn(*own.tensors, ids=[f"again {name}" for name in own.ids])

    assert "U-LiRA" in refuted(seen(exact(ARENA, ridge=0.5, forget=twice)))


def test_an_exact_head_that_keeps_a_hundredth_of_each_row_is_refuted():
    def most(head, own):
        x, y = own.tensors
        head.forget(x, y, ids=own.ids)
        head.learn(0.1 * x, y, ids=[f"rest of {name}" for name in own.ids])

    assert "U-LiRA" in refuted(seen(exact(ARENA, ridge=0.5, forget=most)))


def test_heads_take_up_the_state_of_the_retained_rows_and_coins_decide_the_rest():
    releases = exact(ARENA, ridge=0.5)
    run = 5
    own = ARENA.candidates.take(ARENA.coins[run].nonzero().flatten())
    whole = AnalyticHead(ridge=0.5, classes=3)
    rows_in = joined(ARENA.retain, own)
    whole.learn(*rows_in.tensors, ids=rows_in.ids)
    assert torch.allclose(releases.before[0][run], whole.scores(ARENA.candidates.tensors[0]), atol=1e-5)
    never = AnalyticHead(ridge=0.5, classes=3)
    never.learn(*ARENA.retain.tensors, ids=ARENA.retain.ids)
    for part in (releases.after, releases.null):
        assert torch.allclose(part[1][run], never.scores(ARENA.population.tensors[0]), atol=1e-5)


def test_a_class_that_only_candidates_have_is_attacked_without_infinities():
    x, y = ARENA.candidates.tensors
    arena = replace(ARENA, candidates=Examples(x, y + 1, ids=ARENA.candidates.ids), classes=4, runs=16)
    found = seen(exact(arena, ridge=0.5), arena)
    assert refuted(found) == set()


@pytest.fixture(scope="module")
def convex_releases():
    return convex(FEW, CONVEX)


def test_a_convex_head_that_unlearns_is_not_refuted(convex_releases):
    found = seen(convex_releases, FEW)
    assert refuted(found, guarantee(CONVEX, delta=1e-5)) == set()
    assert found.details["runs"] == 16
    # Two runs may differ by twice the claim.
    assert {f.evidence.kind for f in found.findings} == {"one_run_via_certifier", "joint_guesses"}


def test_a_convex_head_whose_forgetting_is_skipped_is_refuted(convex_releases):
    def skipped(head, _rows, _own, coins):
        w = head.solution.weights
        return w + CONVEX.noise_std * torch.randn(w.shape, generator=coins, dtype=w.dtype)

    found = seen(convex(FEW, CONVEX, unlearn=skipped), FEW)
    assert {"LiRA", "U-LiRA"} <= refuted(found, guarantee(CONVEX, delta=1e-5))
    assert found.details["LiRA"]["attack"]["auc"] > 0.9


def test_released_and_never_learned_convex_heads_differ_by_noise_of_the_stated_scale(convex_releases):
    """Each score is x·(W + noise) + bias: a deviation of σ sqrt(|x|² + 1) about one mean, in both."""
    x = FEW.candidates.tensors[0]
    scale = CONVEX.noise_std * (x.square().sum(1) + 1).sqrt()[:, None]
    centre = convex_releases.null[0].mean(0)
    for part in (convex_releases.after, convex_releases.null):
        spread = ((part[0] - centre) / scale).square().mean().sqrt()
        assert 0.9 < spread < 1.1


def test_in_float64_a_forgotten_row_is_left_in_the_last_bits_and_with_a_grid_it_is_not():
    found = bits(ARENA, ridge=0.5)
    assert found["float64"]["differ"] > 0.5
    assert 0 < found["float64"]["largest"] <= found["float64"]["error_bound"] < 1e-9
    assert (found["grid"]["differ"], found["grid"]["largest"]) == (0.0, 0.0)


def test_bits_that_differ_are_counted():
    one = torch.tensor([1.0, 0.0, 2.0, 3.0], dtype=torch.float64)
    other = torch.tensor([1.0, -0.0, 2.0, torch.nextafter(torch.tensor(3.0).double(), torch.tensor(4.0).double())])
    found = differences(one, other.double())
    assert found == {"differ": 0.5, "largest": pytest.approx(2.0**-51)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"runs": 7}, "runs must be a whole number of at least 8"),
        ({"classes": 1}, "classes must be a whole number of at least 2"),
        ({"candidates": rows(40, 1, "r")}, "share a name"),
    ],
)
def test_a_bad_arena_of_heads_is_refused_by_name(fields, message):
    with pytest.raises(ValueError, match=message):
        replace(ARENA, **fields)
