"""The buffer of samples is drawn anew whenever steps begin: no sample of an earlier training reaches the next."""

from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
import sample_tasks
from expunge.errors import ModelRefused
from expunge.policies import Langevin, PersistentEnergyMatching, cloning, persistent
from expunge.recovery import recover
from expunge.recovery.procedure import stated
from expunge.testing import check_recovery
from expunge.unlearners import GradientClipping
from policies import small

RECOVERY = PersistentEnergyMatching(epochs=1, recipe=small.RECIPE, langevin=Langevin(steps=3), buffer=100, renewed=0.1)
WAY = GradientClipping(steps=3, init_clip=0.5, batch_size=32, recovery=RECOVERY)


def coins(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def same(one: nn.Module, other: nn.Module) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def fresh_after_a_training(recovery: Any) -> bool:
    """Whether a recovery ends at the same bits after this very object trained another policy on the forgotten demonstrator."""
    retain = small.task().parts(small.ASTRAY).retain
    alone = recover(small.seeded(), retain, loss=cloning, recovery=recovery, generator=coins())
    astray = small.task().parts(small.ASTRAY).forget
    recover(small.seeded(seed=1), astray, loss=cloning, recovery=recovery, generator=coins(1))
    after = recover(small.seeded(), retain, loss=cloning, recovery=recovery, generator=coins())
    return same(alone, after)


def carrying(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: a buffer that outlives the steps which made it."""
    held: list[Tensor] = []
    plain = persistent._Chains.__init__

    def kept(chains: Any, *given: Any) -> None:
        plain(chains, *given)
        if held:
            chains.states = held[0]
        held[:] = [chains.states]

    monkeypatch.setattr(persistent._Chains, "__init__", kept)


def test_a_buffer_that_is_carried_over_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying(monkeypatch)
    assert not fresh_after_a_training(RECOVERY)


def first_sampled(task: ex.Task) -> Tensor:
    """The buffer as it is when the recovery behind a certified stage first draws of it."""
    seen: list[Tensor] = []
    plain = persistent._Chains.sampled

    def looked(chains: Any, model: nn.Module, number: int) -> Tensor:
        seen.append(chains.states.clone())
        return plain(chains, model, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(persistent._Chains, "sampled", looked)
        ex.unlearn(task, small.ASTRAY, WAY, seed=0)
    return seen[0]


def far_task() -> ex.Task:
    """The policy learned by the same object, on all demonstrators, of whom the one to forget stands 100 m away."""
    states, actions = small.shown().tensors
    gone = torch.tensor([group == "astray" for group in small.shown().groups or ()])
    rows = ex.Examples(states + 100.0 * gone[:, None], actions, ids=small.shown().ids, groups=small.shown().groups)
    trained = recover(small.seeded(), rows, loss=cloning, recovery=RECOVERY, generator=coins())
    return replace(small.task(), model=trained, data=rows, loss=cloning)


def test_after_a_certified_stage_the_buffer_lies_within_the_retained_states() -> None:
    states = first_sampled(far_task())
    retained = small.task().parts(small.ASTRAY).retain
    assert isinstance(retained, ex.Examples)
    low, high = retained.tensors[0].amin(0), retained.tensors[0].amax(0)
    assert states.shape == (100, 4)
    assert bool(((states >= low) & (states <= high)).all())


def test_one_that_is_carried_past_a_certified_stage_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    carrying(monkeypatch)
    assert float(first_sampled(far_task()).abs().max()) > 50


def test_a_recovery_knows_nothing_of_what_was_trained_before() -> None:
    """It ends at the same bits, and holds its settings alone."""
    assert fresh_after_a_training(RECOVERY)
    assert vars(RECOVERY).keys() == {field.name for field in fields(RECOVERY)}
    with pytest.raises(FrozenInstanceError):
        RECOVERY.buffer = 3  # pyright: ignore
    told = stated(RECOVERY)["settings"].values()
    assert all(isinstance(value, (int, float, str, bool, type(None))) for value in told)


def test_the_contract_of_a_recovery_is_kept() -> None:
    """Among it: interrupted runs end at the same bits, and forgotten rows and trained weights hidden in a copy are refused."""
    check_recovery(replace(RECOVERY, epochs=2), sample_tasks.task())


def test_samples_go_on_from_the_buffer() -> None:
    """With none renewed and no noise, the states that were drawn have moved downhill, and only these."""
    chains = persistent._Chains(
        torch.randn(20, 4), replace(RECOVERY, renewed=0.0, langevin=Langevin(steps=3, noise=0.0))
    )
    model, before = small.seeded(), chains.states.clone()
    moved = chains.sampled(model, 30)
    changed = (chains.states != before).any(1)
    assert int(changed.sum()) == 30
    assert {tuple(row) for row in moved.tolist()} == {tuple(row) for row in chains.states[changed].tolist()}
    expected = Langevin(steps=3, noise=0.0).moved(model, before[changed])
    assert torch.allclose(chains.states[changed], expected, atol=1e-6)


def test_with_the_loss_of_matching_the_term_is_counted_once() -> None:
    retain = small.task().parts(small.ASTRAY).retain
    one, other = (
        recover(small.seeded(), retain, loss=loss, recovery=RECOVERY, generator=coins())
        for loss in (cloning, small.LOSS)
    )
    assert same(one, other)


def test_settings_out_of_range_are_refused() -> None:
    for wrong, said in (({"epochs": 0}, "epochs"), ({"buffer": 31}, "buffer"), ({"renewed": 1.5}, "renewed")):
        with pytest.raises(ValueError, match=said):
            replace(RECOVERY, **wrong)
    mixing = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    with pytest.raises(ModelRefused, match="'1' takes its statistics"):
        recover(mixing, small.shown(), loss=cloning, recovery=RECOVERY)
