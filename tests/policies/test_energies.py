"""Laws of cloning and of energy-based distribution matching, each against its closed form."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
from expunge.errors import ModelRefused, TaskError
from expunge.policies import EnergyMatching, Langevin, by_demonstrator, cloning, energy, occupancy_gap
from expunge.training.loss import backward
from policies import small

STATES, ACTIONS = 6, 3


class Tabular(nn.Module):
    """One row of logits a state; a state is a row of the identity."""

    def __init__(self, logits: Tensor | None = None) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(STATES, ACTIONS, dtype=torch.float64) if logits is None else logits)

    def forward(self, states: Tensor) -> Tensor:
        return states @ self.table


# Cloning


def counted(rows: ex.Examples) -> Tensor:
    """How often each action was taken in each state."""
    states, actions = rows.tensors
    return states.T @ nn.functional.one_hot(actions, ACTIONS).double()


def solved(rows: ex.Examples) -> Tensor:
    """The policy at the optimum of `cloning`: its own gradient, under Newton's steps, a block a state."""
    model, batch, seen = Tabular(), rows.batch(slice(None)), counted(rows).sum(1) / len(rows)
    for _ in range(50):
        model.zero_grad()
        backward(cloning, model, batch)
        assert model.table.grad is not None
        policy = model.table.detach().softmax(1)
        curvature = seen[:, None, None] * (torch.diag_embed(policy) - policy[:, :, None] * policy[:, None, :])
        step = torch.linalg.pinv(curvature, hermitian=True, rtol=1e-12) @ model.table.grad[:, :, None]
        with torch.no_grad():
            model.table -= step[:, :, 0]
    return model.table.detach().softmax(1)


def tabular_demonstrations() -> ex.Examples:
    coins = torch.Generator().manual_seed(0)
    states = torch.eye(STATES, dtype=torch.float64)[torch.randint(STATES, (900,), generator=coins)]
    actions = torch.randint(ACTIONS, (900,), generator=coins)
    odd = torch.arange(900) >= 600
    actions[odd & (torch.rand(900, generator=coins) < 0.8)] = 2
    return ex.Examples(states, actions, ids=range(900), groups=["ann"] * 300 + ["bob"] * 300 + ["odd"] * 300)


def test_forgetting_a_demonstrator_of_a_tabular_policy_is_subtraction_of_counts() -> None:
    """At the optimum of the cross-entropy a policy is the shares of the counts, to 1e-10; those of R are those of D less F's."""
    rows = tabular_demonstrations()
    parts = ex.Task(model=Tabular(), data=rows, loss=cloning).parts(ex.Request.groups(["odd"]))
    assert isinstance(parts.retain, ex.Examples)
    assert isinstance(parts.forget, ex.Examples)
    assert set(parts.forget.groups or ()) == {"odd"}
    left = counted(rows) - counted(parts.forget)
    assert torch.equal(left, counted(parts.retain))
    for counts, found in ((counted(rows), solved(rows)), (left, solved(parts.retain))):
        assert float((found - counts / counts.sum(1, keepdim=True)).abs().max()) < 1e-10
    assert float((solved(rows) - solved(parts.retain)).abs().max()) > 0.1  # the one who leaves was another


def test_a_batch_may_have_named_fields() -> None:
    model, (states, actions) = small.seeded(), small.shown().tensors
    assert torch.equal(cloning(model, {"actions": actions, "states": states}), cloning(model, (states, actions)))


def test_a_row_that_is_a_demonstrator_counts_as_the_mean_of_its_steps() -> None:
    model, rows = small.seeded(), small.shown()
    each = [
        cloning(model, rows.take([group == name for group in rows.groups or ()]).batch(slice(None))).item()
        for name in small.WHO
    ]
    together = cloning(model, by_demonstrator(rows).batch(slice(None)))
    assert together.item() == pytest.approx(sum(each) / 3, rel=1e-6)


# Energies


def test_the_gradient_of_the_gap_is_that_of_the_log_likelihood_with_the_partition_function_summed() -> None:
    """Six states, ρ ∝ exp(-E): with samples in exact proportion to ρ, ∇L = ∇(-mean log ρ(demonstrated)), to 1e-12."""
    shares = torch.tensor([1, 2, 3, 4, 6, 8])  # of 24
    coins = torch.Generator().manual_seed(0)
    logits = torch.randn(STATES, ACTIONS, generator=coins, dtype=torch.float64)
    model = Tabular(logits - logits.logsumexp(1, keepdim=True) + shares.double().log()[:, None])
    whole = torch.eye(STATES, dtype=torch.float64)
    shown = whole[[0, 0, 1, 5, 3]]
    occupancy_gap(model, shown, whole.repeat_interleave(shares, dim=0)).backward()
    found, model.table.grad = model.table.grad, None
    negative_energy = -energy(model, whole)
    (negative_energy.logsumexp(0) - (shown @ negative_energy).mean()).backward()  # log Z - mean log of the numerator
    assert found is not None
    assert model.table.grad is not None
    assert float((found - model.table.grad).abs().max()) < 1e-12
    assert float(found.abs().max()) > 0.05


class Quadratic(nn.Module):
    """Two actions whose logsumexp is -k |s|²/2: energies of a spring."""

    def __init__(self, stiffness: float) -> None:
        super().__init__()
        self.stiffness = nn.Parameter(torch.tensor(stiffness, dtype=torch.float64))

    def forward(self, states: Tensor) -> Tensor:
        value = -self.stiffness * (states**2).sum(1, keepdim=True) / 2
        return torch.cat([value, value], dim=1) - torch.log(torch.tensor(2.0))


@pytest.mark.parametrize("steps", [1, 20])
def test_langevin_steps_are_their_closed_form_under_known_noise(steps: int) -> None:
    """On a spring s_k = (1 - rate k)^K s_0 + noise Σ (1 - rate k)^(K-1-j) z_j."""
    torch.manual_seed(3)
    noise = [torch.randn(5, 4, dtype=torch.float64) for _ in range(steps)]
    start = torch.randn(5, 4, dtype=torch.float64)
    torch.manual_seed(3)
    found = Langevin(steps=steps, rate=0.03, noise=0.2).moved(Quadratic(2.0), start)
    shrink = 1 - 0.03 * 2.0
    expected = shrink**steps * start + 0.2 * sum(shrink ** (steps - 1 - j) * z for j, z in enumerate(noise))
    assert float((found - expected).abs().max()) < 1e-13
    assert not found.requires_grad


def test_samples_move_towards_low_energy_and_pass_no_gradient_to_the_policy() -> None:
    model = small.seeded()
    start = torch.randn(200, 4)
    moved = Langevin(steps=20, rate=0.05, noise=0.0).moved(model, start)
    assert energy(model, moved).mean().item() < energy(model, start).mean().item() - 0.01
    assert all(p.grad is None for p in model.parameters())


def test_a_policy_in_a_stack_of_runs_is_sampled_alike() -> None:
    """There it is a function, and gradients are taken as functions too: the same states under the same coins."""
    model, start = small.seeded(), torch.randn(20, 4)
    found: list[Tensor] = []
    for policy in (model, lambda states: model(states)):
        torch.manual_seed(0)
        found.append(Langevin().moved(policy, start))  # pyright: ignore[reportArgumentType]
    assert torch.allclose(*found, atol=1e-6)


def test_the_objective_is_cross_entropy_and_the_gap_and_its_square() -> None:
    model, batch = small.seeded(), small.shown().batch(slice(0, 50))
    torch.manual_seed(5)
    found = EnergyMatching()(model, batch)
    torch.manual_seed(5)
    low, high = batch[0].amin(0), batch[0].amax(0)  # pyright: ignore
    sampled = Langevin().moved(model, low + (high - low) * torch.rand(50, 4))
    gap = model(sampled).logsumexp(1).mean() - model(batch[0]).logsumexp(1).mean()  # pyright: ignore
    assert found.item() == pytest.approx((cloning(model, batch) + gap + gap**2).item(), abs=1e-6)
    assert abs(gap.item()) > 1e-3


def test_the_loss_has_no_memory() -> None:
    """The same weights, batch and coins give the same bits, whatever it saw in between."""
    loss, model, batch = EnergyMatching(), small.seeded(), small.shown().batch(slice(0, 50))
    torch.manual_seed(0)
    first = loss(model, batch)
    for k in range(5):
        loss(small.seeded(seed=k), small.shown().batch(slice(50 * k, 50 * k + 50)))
    torch.manual_seed(0)
    assert torch.equal(loss(model, batch), first)
    assert vars(loss).keys() == {"langevin"}


# Refused


class Gaussian(nn.Module):
    """A policy of continuous actions: means and deviations."""

    def forward(self, states: Tensor) -> tuple[Tensor, Tensor]:
        return states[:, :1], states[:, 1:2]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Gaussian(), "policy Gaussian gives no scores for actions.*not tuple"),
        (nn.Linear(4, 1), r"policy Linear .*shape \(8, actions\).*not a tensor of shape \(8, 1\)"),
        (nn.Flatten(0), r"policy Flatten .*not a tensor of shape \(32,\)"),
    ],
)
@pytest.mark.parametrize("loss", [cloning, EnergyMatching()], ids=["cloning", "matching"])
def test_a_policy_without_probabilities_is_refused_by_name(model: nn.Module, said: str, loss: Any) -> None:
    with pytest.raises(ModelRefused, match=said):
        loss(model, (torch.randn(8, 4), torch.zeros(8).long()))


def test_what_has_no_energies_is_refused() -> None:
    states, actions = torch.randn(8, 4), torch.zeros(8).long()
    with pytest.raises(ModelRefused, match="'1' takes its statistics from a batch"):
        EnergyMatching()(nn.Sequential(nn.Linear(4, 2), nn.BatchNorm1d(2)), (states, actions))
    with pytest.raises(TaskError, match="whole numbers"):
        cloning(nn.Linear(4, 2), (states, states[:, 0]))
    with pytest.raises(TaskError, match="states, actions"):
        cloning(nn.Linear(4, 2), {"x": states, "labels": actions})
    with pytest.raises(TaskError, match="real numbers"):
        EnergyMatching()(nn.Embedding(8, 2), (actions, actions))
    for wrong in ({"steps": 0}, {"rate": 0.0}, {"noise": -1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            Langevin(**wrong)
