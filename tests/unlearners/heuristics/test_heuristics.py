"""Heuristics: what each of them does to the weights, exactly where that can be said, and what it reads."""

from dataclasses import replace
from math import exp, gamma, log, log1p, pi, sqrt
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import expunge as ex
import sample_tasks
from expunge.accounting import Kind
from expunge.certificate import digest, verdict
from expunge.errors import NonFinite
from expunge.testing import check_unlearner
from expunge.training.task import accuracy
from expunge.unlearners import Run
from expunge.unlearners.heuristics import (
    BEHAVIOURAL,
    HEURISTICS,
    FineTune,
    GradientAscent,
    GradientDifference,
    Heuristic,
    InformationPenalty,
    JustInTime,
    NegativePreference,
    NegGradPlus,
    Patching,
    Saliency,
    Scrub,
    SelectiveDampening,
)
from expunge.unlearners.heuristics.base import Material
from expunge.unlearners.heuristics.jit import steepness
from expunge.unlearners.heuristics.npo import log_likelihoods, preference_loss
from expunge.unlearners.heuristics.scrub import distillation
from expunge.unlearners.options import HEURISTICS as NAMES
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import heuristic, made, recalled, repeated

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)


def run(way: Heuristic, task: ex.Task, seed: int = 0) -> nn.Module:
    return way.forget(task, BUDGET, ex.Relation.RETRAINED, Run(seed=seed)).model


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().reshape(-1) for p in model.parameters()])


def loss_on(model: nn.Module, rows: ex.Examples) -> float:
    with torch.no_grad():
        return float(sample_tasks.loss(model, rows.tensors))


def gradient(model: nn.Module, rows: Any) -> Tensor:
    found = torch.autograd.grad(sample_tasks.loss(model, rows), list(model.parameters()))
    return torch.cat([g.reshape(-1) for g in found])


@pytest.mark.parametrize("kind", HEURISTICS, ids=lambda kind: kind.name)
def test_each_keeps_the_contract_of_an_unlearner_and_claims_nothing(kind: type[Heuristic]) -> None:
    """It leaves the task as it was, repeats under a seed, is of kind none, and meets no budget in a plan."""
    task = sample_tasks.task()
    check_unlearner(kind(), task)
    plan = ex.plan(task, unlearners=[kind(), ex.unlearners.Retraining()])
    quote = plan.quote(kind.name)
    assert not quote.applies
    assert quote.guarantee == "none"
    assert quote.steps > 0
    assert plan.name == "retrain"
    done = ex.unlearn(task, None, kind(), seed=0)
    assert done.record.mechanism.kind is Kind.NONE
    assert done.record.mechanism.method == kind.name


@pytest.mark.parametrize("kind", HEURISTICS, ids=lambda kind: kind.name)
def test_each_takes_as_many_steps_as_it_says(kind: type[Heuristic]) -> None:
    way, task = kind(), sample_tasks.task()
    material = Material(sample_tasks.make_model(), task.loss, task.retain, task.forget, way.batch_size, 0)
    assert sum(1 for _ in way.steps(material)) == way.total(material)


@pytest.mark.parametrize("kind", [GradientAscent, JustInTime], ids=lambda kind: kind.name)
def test_what_reads_the_forgotten_rows_alone_does_not_depend_on_the_others(kind: type[Heuristic]) -> None:
    task = sample_tasks.task()
    other = ex.Examples(*(t.flip(0) for t in task.retain.tensors), ids=task.retain.ids)
    assert torch.equal(flat(run(kind(), task)), flat(run(kind(), replace(task, retain=other))))


def test_fine_tuning_does_not_depend_on_the_forgotten_rows() -> None:
    task = sample_tasks.task()
    fewer = replace(task, forget=task.forget.take(range(3)))
    assert torch.equal(flat(run(FineTune(epochs=1), task)), flat(run(FineTune(epochs=1), fewer)))


def test_gradient_ascent_is_one_step_up_the_loss_of_the_forgotten_rows() -> None:
    task = sample_tasks.task()
    found = run(GradientAscent(learning_rate=0.1, batch_size=30), task)
    expected = flat(task.model) + 0.1 * gradient(task.model, task.forget.tensors)
    assert torch.allclose(flat(found), expected, atol=1e-6)
    assert loss_on(found, task.forget) > loss_on(task.model, task.forget)


def test_neggrad_plus_weighs_both_losses() -> None:
    task = sample_tasks.task()
    task = replace(task, retain=task.retain.take(range(30)))
    found = run(NegGradPlus(epochs=1, alpha=0.7, learning_rate=0.1, momentum=0.0, batch_size=30), task)
    step = 0.7 * gradient(task.model, task.retain.tensors) - 0.3 * gradient(task.model, task.forget.tensors)
    assert torch.allclose(flat(found), flat(task.model) - 0.1 * step, atol=1e-6)


def test_scrub_stays_where_it_is_without_a_loss_of_its_own() -> None:
    """At the trained model the distance from it has no gradient; with the loss of R it moves."""
    task = sample_tasks.task()
    still = run(Scrub(gamma=0.0, momentum=0.0), task)
    assert torch.allclose(flat(still), flat(task.model), atol=1e-6)
    assert not torch.allclose(flat(run(Scrub(momentum=0.0), task)), flat(task.model), atol=1e-4)


def test_scrub_climbs_the_distance_from_the_trained_model_on_the_forgotten_rows() -> None:
    """Two epochs of one batch each, against their formula: a step down L_R and KL on R, then up KL on F, then down again."""
    task = sample_tasks.task()
    task = replace(task, retain=task.retain.take(range(30)))
    way = Scrub(epochs=2, ascents=2, learning_rate=0.1, alpha=0.5, gamma=0.9, momentum=0.0, batch_size=30)
    student = sample_tasks.make_model()
    student.load_state_dict(task.model.state_dict())

    def move(rows: ex.Examples, *, own: float, apart: float) -> None:
        with torch.no_grad():
            wanted = task.model(rows.tensors[0])
        objective = own * sample_tasks.loss(student, rows.tensors)
        objective += apart * distillation(student(rows.tensors[0]), wanted, temperature=4.0)
        found = torch.autograd.grad(objective, list(student.parameters()))
        with torch.no_grad():
            for parameter, g in zip(student.parameters(), found, strict=True):
                parameter -= 0.1 * g

    for _ in range(2):
        move(task.forget, own=0.0, apart=-1.0)
        move(task.retain, own=0.9, apart=0.5)
    assert torch.allclose(flat(run(way, task)), flat(student), atol=1e-6)


def test_gradient_difference_weighs_both_losses() -> None:
    task = sample_tasks.task()
    task = replace(task, retain=task.retain.take(range(30)))
    found = run(GradientDifference(retention=0.5, learning_rate=0.1, batch_size=30), task)
    step = 0.5 * gradient(task.model, task.retain.tensors) - gradient(task.model, task.forget.tensors)
    assert torch.allclose(flat(found), flat(task.model) - 0.1 * step, atol=1e-6)


def test_negative_preference_begins_as_gradient_ascent() -> None:
    """At the trained model its gradient is that of log π, whatever β is."""
    task = sample_tasks.task()
    expected = flat(task.model) + 0.1 * gradient(task.model, task.forget.tensors)
    for beta in (1e-3, 0.1, 10.0):
        found = run(NegativePreference(beta=beta, learning_rate=0.1, batch_size=30), task)
        assert torch.allclose(flat(found), expected, atol=1e-6)


def test_negative_preference_is_bounded_and_lets_unlikely_rows_alone() -> None:
    """From 2 log 2/β at the start down to 0, where its gradient is 0; near β = 0 it is the log ratio itself."""
    ratios = torch.tensor([0.0, -5.0, -500.0], dtype=torch.float64, requires_grad=True)
    losses = torch.stack([preference_loss(r, beta=2.0) for r in ratios])
    assert torch.allclose(losses, torch.tensor([log(2.0), log1p(exp(-10.0)), 0.0], dtype=torch.float64))
    (slopes,) = torch.autograd.grad(losses.sum(), ratios)
    assert slopes.tolist() == pytest.approx([1.0, 2 / (1 + exp(10.0)), 0.0])
    small = preference_loss(ratios.detach()[1:2], beta=1e-6)
    assert float(small) - 2 * log(2.0) / 1e-6 == pytest.approx(-5.0, abs=1e-3)


class Tiny(nn.Module):
    """A causal transformer of one layer over 11 tokens; its output has logits, as in Hugging Face's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(11, 16), nn.Parameter(torch.zeros(6, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 11)

    def forward(self, tokens: Tensor) -> Any:
        mask = nn.Transformer.generate_square_subsequent_mask(tokens.shape[1])
        seen = self.layer(self.embed(tokens) + self.place[: tokens.shape[1]], src_mask=mask, is_causal=True)
        return SimpleNamespace(logits=self.head(seen))


def next_tokens(model: nn.Module, batch: Any) -> Tensor:
    logits = model(batch["input_ids"]).logits
    return nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def texts(count: int, seed: int) -> ex.Examples:
    tokens = torch.randint(11, (count, 6), generator=torch.Generator().manual_seed(seed))
    return ex.Examples(input_ids=tokens, labels=tokens.clone(), ids=[f"{seed}-{k}" for k in range(count)])


@pytest.mark.parametrize("way", [
    GradientDifference(epochs=10, learning_rate=0.05), NegativePreference(epochs=10, learning_rate=0.05, retention=1.0),
    NegativePreference(epochs=10, learning_rate=0.05),
], ids=["gradient difference", "with retention", "alone"])  # fmt: skip
def test_a_language_model_finds_the_forgotten_texts_less_likely(way: Heuristic) -> None:
    """A tiny transformer that knew its texts by heart; those retained stay likelier than those forgotten."""
    torch.manual_seed(0)
    model, retain, forget = Tiny(), texts(24, 1), texts(8, 2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    everything = retain + forget
    for _ in range(150):
        optimizer.zero_grad()
        next_tokens(model, everything.batch(torch.arange(32))).backward()
        optimizer.step()
    task = ex.Task(model=model, retain=retain, forget=forget, loss=next_tokens)
    found = run(way, task)
    with torch.no_grad():
        kept, lost, before = (
            float(next_tokens(m, rows.batch(torch.arange(len(rows)))))
            for m, rows in ((found, retain), (found, forget), (model, forget))
        )
    assert lost > before + 0.3
    assert lost > kept


def test_likelihoods_are_those_of_cross_entropy() -> None:
    """Sums over positions, shifted or not, without what is ignored."""
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(3, 5, 7, generator=generator), torch.randint(7, (3, 5), generator=generator)
    labels[0, 2] = -100

    def expected(s: Tensor, y: Tensor) -> Tensor:
        return -nn.functional.cross_entropy(s.transpose(1, 2), y, reduction="none").sum(1)

    assert torch.allclose(log_likelihoods(scores, labels, next_token=False), expected(scores, labels))
    assert torch.allclose(log_likelihoods(scores, labels, next_token=True), expected(scores[:, :-1], labels[:, 1:]))
    flat_ones = log_likelihoods(scores[:, 0], labels[:, 0], next_token=True)
    assert torch.allclose(flat_ones, scores[:, 0].log_softmax(1).gather(1, labels[:, :1])[:, 0])
    with pytest.raises(TypeError, match="none of labels"):
        log_likelihoods(scores, labels[:, :4], next_token=True)


def test_distillation_is_a_divergence() -> None:
    """0 for equal scores, a constant added to a row changes nothing, and it is KL in double precision."""
    a, b = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(distillation(a, a, temperature=4.0)) == pytest.approx(0, abs=1e-15)
    p, q = (b / 2).softmax(1), (a / 2).softmax(1)
    expected = 4 * float((p * (p / q).log()).sum()) / 5
    assert float(distillation(a, b + 3, temperature=2.0)) == pytest.approx(expected)


def test_dampening_is_the_ratio_of_two_fishers_of_single_rows() -> None:
    """With batches of one row; weights that are not selected keep their bits."""
    task = sample_tasks.task()
    task = replace(task, retain=task.retain.take(range(20)), forget=task.forget.take(range(5)))
    way = SelectiveDampening(alpha=2.0, dampening=0.5, batch_size=1)
    found, before = flat(run(way, task)), flat(task.model)

    def fisher(rows: ex.Examples) -> Tensor:
        x, y = rows.tensors
        return torch.stack([gradient(task.model, (x[[k]], y[[k]])).square() for k in range(len(y))]).mean(0)

    forgotten, everything = fisher(task.forget), fisher(task.retain + task.forget)
    chosen = forgotten > 2 * everything
    expected = torch.where(chosen, before * (0.5 * everything / forgotten).clamp(max=1), before)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert 0 < int(chosen.sum()) < len(before)
    assert torch.equal(found[~chosen], before[~chosen])


def test_salun_moves_the_chosen_share_of_the_weights_alone() -> None:
    """Those whose gradient on F is largest, over all layers."""
    task = sample_tasks.task()
    before, found = flat(task.model), flat(run(Saliency(share=0.1, epochs=1, batch_size=30), task))
    size = gradient(task.model, task.forget.tensors).abs()
    least = size.topk(round(0.1 * len(size))).values[-1]
    moved = found != before
    assert not bool(moved[size < 0.99 * least].any())
    assert 0.05 * len(size) < int(moved.sum()) <= 0.1 * len(size) + 1


@pytest.mark.parametrize("d", [3, 7, 64])
def test_steepness_of_a_linear_function_ignores_the_data(d: int) -> None:
    """E |w·ξ|/|ξ| = |w| Γ(d/2)/(√π Γ((d+1)/2)), at any x; its full gradient shrinks w, the detached one is 0 in the mean."""
    generator = torch.Generator().manual_seed(d)
    layer = nn.Linear(d, 1, bias=False).double()
    x = torch.randn(200_000, d, generator=generator, dtype=torch.float64)
    moved = x + 0.3 * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    w = layer.weight.detach()[0]
    c = gamma(d / 2) / (sqrt(pi) * gamma((d + 1) / 2))
    full, detached = (steepness(layer, x, moved, detached=how) for how in (False, True))
    assert float(full.detach()) == pytest.approx(c * float(w.norm()), rel=0.01)
    assert float(detached.detach()) == pytest.approx(float(full.detach()))
    (whole,) = torch.autograd.grad(full, layer.weight)
    assert torch.allclose(whole[0], c * w / w.norm(), atol=0.01)
    (half,) = torch.autograd.grad(detached, layer.weight)
    assert float(half.norm()) < 6 * sqrt(d / (200_000 * 0.09 * (d - 2)))  # six deviations: E 1/|ξ|² is 1/(0.09 (d - 2))


def test_jit_refuses_inputs_that_are_no_real_numbers() -> None:
    task = sample_tasks.task()

    def whole(rows: ex.Examples) -> ex.Examples:
        return ex.Examples((rows.tensors[0] * 16).long(), rows.tensors[1], ids=rows.ids)

    model = nn.Sequential(nn.Embedding(17, 2), nn.Flatten(), nn.Linear(128, 10))
    with pytest.raises(TypeError, match=r"jit perturbs an input of real numbers.*int64"):
        run(JustInTime(), replace(task, model=model, retain=whole(task.retain), forget=whole(task.forget)))


def test_public_parts_are_left_alone() -> None:
    task = replace(sample_tasks.task(), public=["0.*"])
    for kind in HEURISTICS:
        found = run(kind(), task)
        assert torch.equal(found[0].weight, task.model[0].weight)
        assert all(p.requires_grad for p in found.parameters())
    assert not torch.equal(run(GradientAscent(), task)[2].weight, task.model[2].weight)


@pytest.mark.parametrize(
    ("rows", "size", "parts"), [(30, 20, [15, 15]), (21, 20, [11, 10]), (1, 20, [1]), (30, 64, [30])]
)
def test_every_forgotten_row_is_in_every_pass(rows: int, size: int, parts: list[int]) -> None:
    """In batches of nearly one size: none holds a single row where there are two, which BatchNorm could not take."""
    task = sample_tasks.task()
    task, seen = replace(task, forget=task.forget.take(range(rows))), list[Tensor]()

    def loss(model: nn.Module, batch: Any) -> Tensor:
        seen.append(batch[0])
        return sample_tasks.loss(model, batch)

    run(GradientAscent(epochs=2, batch_size=size), replace(task, loss=loss))
    assert [len(x) for x in seen] == 2 * parts
    for epoch in (seen[: len(parts)], seen[len(parts) :]):
        found = torch.cat(epoch)
        assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, task.forget.tensors[0].tolist()))
    assert len(parts) == 1 or not torch.equal(seen[0], seen[len(parts)])


@pytest.mark.parametrize("kind", HEURISTICS, ids=lambda kind: kind.name)
def test_public_statistics_stay_as_they_are(kind: type[Heuristic]) -> None:
    """Those of a BatchNorm layer that the task declares public, its parameters too; others move."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))
    heuristic = (
        SelectiveDampening(alpha=0.5) if kind is SelectiveDampening else kind()
    )  # what it selects by default is nothing
    found = run(heuristic, replace(sample_tasks.task(), model=model, public=["1.*"]))
    for name, tensor in model[1].state_dict().items():
        assert torch.equal(found[1].state_dict()[name], tensor), name
    assert not torch.equal(flat(found), flat(model))
    assert found.training == model.training
    assert found[1].training == model[1].training


def test_a_model_that_is_destroyed_is_not_returned() -> None:
    with pytest.raises(NonFinite):
        run(GradientAscent(epochs=400, learning_rate=1e30), sample_tasks.task())


@pytest.mark.parametrize(
    ("kind", "wrong", "field"),
    [
        (NegGradPlus, {"alpha": 1.0}, "alpha"),
        (Scrub, {"epochs": 1, "ascents": 2}, "ascents=2 must be at most epochs=1"),
        (Saliency, {"share": 1.5}, "share"),
        (JustInTime, {"noise": 0.0}, "noise"),
        (SelectiveDampening, {"alpha": -1.0}, "alpha"),
        (FineTune, {"epochs": 0}, "epochs"),
        (InformationPenalty, {"forget_size": 0}, "forget_size"),
        (InformationPenalty, {"gamma": -1.0}, "gamma"),
        (InformationPenalty, {"from_labels": False, "reference": -0.1}, "reference"),
        (InformationPenalty, {"reference": 0.1}, r"reference=0.1 would do nothing"),
        (GradientAscent, {"batch_size": 0}, "batch_size"),
    ],
)
def test_settings_out_of_range_are_named(kind: type[Heuristic], wrong: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        kind(**wrong)


def test_fine_tuning_keeps_what_the_retained_rows_teach() -> None:
    task = sample_tasks.task()
    assert accuracy(run(FineTune(), task), task.retain) >= accuracy(task.model, task.retain) - 0.02


def test_audits_and_comparisons_take_heuristics() -> None:
    """An audit finds what it finds and refutes nothing, as nothing is claimed; a comparison shows them beside the others."""
    task = sample_tasks.task()
    tested = ex.audit(task, Scrub(epochs=1, ascents=1))
    assert tested.audit.findings
    assert "bounds no law" in tested.untested
    found = ex.compare(
        task, unlearners={"scrub": Scrub(epochs=1, ascents=1), "retrain": ex.unlearners.Retraining(epochs=1)}, seeds=1,
        controls=False,
    )  # fmt: skip
    assert [curve.label for curve in found.curves][:1] == ["scrub"]


def test_its_certificate_says_what_was_run_and_that_nothing_is_proven(tmp_path: Path) -> None:
    done = ex.unlearn(sample_tasks.task(), None, Scrub(epochs=1, ascents=1))
    certificate = done.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    assert certificate.claim.kind is Kind.NONE
    assert certificate.content["asked"] is None
    assert certificate.record.procedure["unlearner"]["settings"]["ascents"] == 1
    told = verdict(certificate)
    assert told.headline == "Nothing is proven about this model."
    assert told.meaning.startswith("No theorem speaks of the method that was run")
    with pytest.raises(ex.errors.ClaimRefused, match="proves nothing"):
        ex.compose([certificate], delta=1e-5)


def test_a_certificate_that_claims_more_of_a_heuristic_is_refused(tmp_path: Path) -> None:
    """Whoever writes ε into it, and the digest anew."""
    content = dict(ex.unlearn(sample_tasks.task(), None, FineTune()).save(tmp_path / "out").content)
    content["claim"] = content["claim"] | {"kind": "epsilon_delta", "epsilon": 1.0, "delta": 1e-5, "mu": 1.0}
    content["digest"] = digest({key: value for key, value in content.items() if key != "digest"})
    with pytest.raises(ex.errors.ClaimRefused, match="'unproven' proves 'none'"):
        ex.verify(ex.Certificate(content))


def test_a_budget_that_would_do_nothing_is_refused() -> None:
    ways: dict[str, Any] = {"scrub": Scrub(), "prune": Patching(), "function": lambda _model, _retain, _forget: None}
    for name, way in ways.items():
        with pytest.raises(ValueError, match=rf"budget=.* would do nothing: no \(ε, δ\) is proven of '{name}'"):
            ex.unlearn(sample_tasks.task(), None, way, budget=BUDGET)


def test_an_audit_of_its_certificate_runs_it_again_with_its_settings(tmp_path: Path) -> None:
    way = Scrub(epochs=1, ascents=1, gamma=0.5)
    ex.unlearn(sample_tasks.task(), None, way).save(tmp_path / "out")
    loaded = ex.Certificate.load(tmp_path / "out" / "certificate.json")
    procedure = Procedure(unlearner=loaded.record.procedure["unlearner"])
    assert recalled(loaded.mechanism, procedure).unlearner == way
    tested = ex.audit(sample_tasks.task(), tmp_path / "out" / "certificate.json")
    assert "bounds no law" in tested.untested


@pytest.mark.parametrize("kind", [*HEURISTICS, *BEHAVIOURAL], ids=lambda kind: kind.name)
def test_what_a_record_states_makes_it_again_and_every_option_can_be_typed(kind: type[Heuristic]) -> None:
    assert repeated(kind().stated) == kind()
    typed = [f"{name}={str(value).lower()}" for name, value in kind().stated["settings"].items()]
    assert heuristic(kind.name, typed) == kind()


def test_the_command_line_knows_their_names_and_options() -> None:
    assert tuple(kind.name for kind in (*HEURISTICS, *BEHAVIOURAL)) == NAMES
    assert heuristic("jit", ["noise=0.5", "detached=false", "epochs=2"]) == JustInTime(
        noise=0.5, detached=False, epochs=2
    )
    for setting in ("noise", "nois=1", "noise=x", "epochs=1.5", "detached=yes", "noise=-1"):
        with pytest.raises(ValueError, match=r"noise|epochs|detached"):
            heuristic("jit", [setting])
    with pytest.raises(ValueError, match=r"takes no --epochs.*--set NAME=VALUE"):
        made("scrub", {"epochs": 3})
