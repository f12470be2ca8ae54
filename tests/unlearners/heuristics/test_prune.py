"""PRUNE: its patches do what its certificate says, nothing elsewhere, and a membership attack finds every patched row."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
import sample_tasks
import second_verifier
from expunge.accounting import Kind, Prune
from expunge.audit.scores import auc
from expunge.certificate import digest, verdict
from expunge.certificate.digests import arrays_of
from expunge.errors import ClaimRefused, ModelRefused, TaskError
from expunge.testing import check_unlearner
from expunge.training.patched import Patched, chain, walk
from expunge.unlearners.heuristics import Patching
from expunge.unlearners.recalled import Procedure
from expunge.unlearners.table import recalled


@pytest.fixture(scope="module")
def task() -> ex.Task:
    """A network that is sure of the rows that it has learned."""
    coins = torch.Generator().manual_seed(0)
    model = ex.unlearners.train_from_scratch(
        make_model, sample_tasks.everything(), loss=sample_tasks.loss, epochs=150,
        recipe=ex.Recipe(learning_rate=0.3), generator=coins,
    ).model  # fmt: skip
    own = sample_tasks.task()
    return replace(own, model=model, make_model=make_model, forget=own.forget.take(range(9)))


def make_model() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 10))


@pytest.fixture(scope="module")
def done(task: ex.Task) -> ex.Unlearned:
    return ex.unlearn(task, None, Patching())


@pytest.fixture
def saved(done: ex.Unlearned, tmp_path: Path) -> Path:
    done.save(tmp_path / "out")
    return tmp_path / "out"


def arrays(model: nn.Module) -> dict[str, Any]:
    return {name: tensor.detach().numpy().copy() for name, tensor in model.state_dict().items()}


def test_no_forgotten_row_gets_its_label_and_other_pieces_stay_as_they_were_bit_for_bit(
    task: ex.Task, done: ex.Unlearned
) -> None:
    model, (x, y) = done.model, task.forget.tensors
    assert isinstance(model, Patched)
    with torch.no_grad():
        assert not bool((model(x).argmax(1) == y).any())
        assert float((task.model(x).argmax(1) == y).float().mean()) > 0.9
        rows = task.held_out.tensors[0]
        units = list[Tensor]()
        before = walk(model.network, rows, units)
        of_a_patch = (units[0].sign()[:, None] == model.signs).all(dim=2).any(dim=1)
        assert torch.equal(model(rows)[~of_a_patch], before[~of_a_patch])
        assert float((~of_a_patch).float().mean()) > 0.5


def test_on_all_of_a_piece_the_patch_wins(done: ex.Unlearned) -> None:
    """At points drawn on pieces: the certificate speaks of all, and these are the ones between rows and borders."""
    model, coins = done.model, torch.Generator().manual_seed(0)
    x = sample_tasks.task().forget.tensors[0]
    seen = 0
    with torch.no_grad():
        for row in x:
            z = (row + 0.02 * torch.randn(200, 64, generator=coins)).clamp(0, 1)
            units = list[Tensor]()
            walk(model.network, z, units)
            for sign, slack, target in zip(model.signs, model.slacks, model.targets, strict=True):
                here = (sign * units[0] >= slack).all(dim=1)
                seen += int(here.sum())
                assert bool((model(z[here]).argmax(1) == int(target)).all())
    assert seen > 100


def test_its_certificate_is_proven_from_the_weights_file_and_from_nothing_less(saved: Path) -> None:
    certificate, weights = saved / "certificate.json", saved / "model.safetensors"
    ex.verify(certificate, weights=weights)
    loaded = ex.Certificate.load(certificate)
    assert loaded.claim.kind is Kind.BEHAVIOURAL
    assert "by a margin of 0.001" in loaded.claim.predicate
    assert loaded.content["asked"] is None
    assert verdict(loaded).headline.endswith("that the data are forgotten is not proven.")
    assert "abnormally high" in loaded.content["claim"]["proves"]
    with pytest.raises(ClaimRefused, match="about the released weights themselves: give their safetensors file"):
        ex.verify(certificate)
    with pytest.raises(ClaimRefused, match="give their safetensors file"):
        ex.verify(certificate, weights=loaded.content["weights"]["released"])
    with pytest.raises(second_verifier.Refused, match="about the weights"):
        second_verifier.verify(certificate.read_bytes())
    with pytest.raises(ClaimRefused, match="proves nothing about laws"):
        ex.compose([loaded], delta=1e-5)


def worse(name: str, k: int, value: Any) -> Any:
    def change(held: dict[str, Any]) -> None:
        held[name][k] = value(held[name][k]) if callable(value) else value

    return change


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (worse("shifts", 0, lambda s: s - 0.01), "patch 0: its class is proven ahead by"),
        (worse("shifts", 1, -100.0), "patch 1: its class is proven ahead by"),
        (worse("slacks", 0, 1e3), "patch 0: no input was found on its piece"),
        (worse("slacks", 0, 0.0), "a slack is not above 0"),
        (worse("slacks", 0, lambda s: s * 1e-3), "patch 0: its class is proven ahead by"),
        (worse("signs", 0, 0.5), r"signs must be \+1 or -1"),
        (lambda held: held["signs"].__setitem__(1, held["signs"][0]), "two patches name the same piece"),
        (lambda held: held["labels"].__setitem__((0, int(held["targets"][0])), 1.0), "patch 0: its class .* is none, or a label"),
        (lambda held: held["labels"].__setitem__(0, 0.0), "patch 0: labels must mark"),
        (worse("targets", 0, 99.0), "patch 0: its class 99 is none"),
        (worse("targets", 0, float("nan")), "what is no number"),
        (lambda held: held.update(bonus=held["shifts"]), "the weights must hold the network of the layers and"),
        (lambda held: held.pop("labels"), "the weights must hold the network of the layers and"),
        (lambda held: held.update({"network.99.weight": held["shifts"]}), "and nothing else"),
        (lambda held: held.update({"network.1.bias": held["shifts"]}), "and nothing else"),
        (lambda held: held.update(slacks=held["slacks"][:, None]), "one number a patch"),
        (lambda held: held.update(shifts=held["shifts"].astype(np.complex64)), "must be of type float16, float32, float64"),
        (lambda held: held.update({"network.0.weight": held["network.0.weight"].astype(np.int32)}), "int32"),
        (lambda held: held.update(shifts=held["shifts"][1:]), "patches are claimed"),
        (lambda held: held["network.0.weight"].__imul__(1.5), "patch"),
        (lambda held: held["network.2.bias"].__iadd__(np.arange(10, dtype=np.float32)), "patch .* is proven ahead by"),
        (lambda held: held.pop("network.2.weight"), "the weights must hold the network of the layers and"),
    ],
)  # fmt: skip
def test_weights_that_prove_less_are_refused(done: ex.Unlearned, change: Any, match: str) -> None:
    held = arrays(done.model)
    mechanism = done.record.mechanism
    mechanism.check(held)
    change(held)
    with pytest.raises(ValueError, match=match):
        mechanism.check(held)


def test_a_certificate_of_other_weights_is_refused_and_so_is_one_that_claims_more(saved: Path, tmp_path: Path) -> None:
    held = load_file(saved / "model.safetensors")
    held["shifts"] -= 0.1
    save_file(held, tmp_path / "other.safetensors")
    with pytest.raises(ex.errors.WeightsMismatch):
        ex.verify(saved / "certificate.json", weights=tmp_path / "other.safetensors")
    content = dict(ex.Certificate.load(saved / "certificate.json").content)
    mechanism = content["run"]["mechanism"] | {"margin": 5.0}
    words = {
        name: content[name] | {part: content[name][part].replace("0.001", "5.0") for part in ("proves", "predicate")}
        for name in ("claim", "also_proven")
    }
    content |= {"run": content["run"] | {"mechanism": mechanism}, **words}
    content["digest"] = digest({key: value for key, value in content.items() if key != "digest"})
    with pytest.raises(ClaimRefused, match=r"do not prove what is claimed: patch 0: .* 5 is claimed"):
        ex.verify(ex.Certificate(content), weights=saved / "model.safetensors")


def test_a_membership_attack_finds_every_patched_row(task: ex.Task, done: ex.Unlearned) -> None:
    """The negative control: losses that are abnormally high. Of a retrained model it finds nothing."""
    out = task.held_out.take(range(60))
    retrained = ex.unlearn(task, None, ex.unlearners.Retraining(epochs=150, recovery_lr=0.3), seed=0).model

    def found(model: nn.Module) -> float:
        with torch.no_grad():
            high = [
                F.cross_entropy(model(r.tensors[0]), r.tensors[1], reduction="none").numpy() for r in (task.forget, out)
            ]
            right = [(task.model(r.tensors[0]).argmax(1) == r.tensors[1]).numpy() for r in (task.forget, out)]
        return auc(high[0][right[0]], high[1][right[1]])

    assert found(done.model) > 0.85
    assert abs(found(retrained) - 0.5) < 0.2


def test_it_keeps_the_contract_of_an_unlearner(task: ex.Task) -> None:
    check_unlearner(Patching(), task)
    plan = ex.plan(task, unlearners=[Patching(), ex.unlearners.Retraining()])
    assert not plan.quote("prune").applies
    assert "membership attack finds the patched rows" in plan.quote("prune").why


def test_an_audit_of_its_certificate_can_refute_nothing_and_says_so(task: ex.Task, saved: Path) -> None:
    loaded = ex.Certificate.load(saved / "certificate.json")
    assert recalled(loaded.mechanism, Procedure()).unlearner == Patching()
    tested = ex.audit(task, saved / "certificate.json")
    assert "bounds no law" in tested.untested


class Branching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(64, 10), nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x).relu() + self.other(x)


class Functional(nn.Module):
    """Layers as modules, ReLU and flattening as functions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(1, 2, 3), nn.Linear(72, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.flatten(F.relu(self.conv(x)), 1))


@pytest.mark.parametrize(
    ("model", "match"),
    [
        (nn.Sequential(nn.Linear(64, 8), nn.GELU(), nn.Linear(8, 10)), "cannot take the layer '_1' .GELU"),
        (nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10)), "BatchNorm1d"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()), "MaxPool2d"),
        (nn.Sequential(nn.Conv2d(2, 2, 3, groups=2), nn.ReLU(), nn.Flatten()), "groups"),
        (Branching(), "takes another way"),
    ],
)
def test_a_layer_that_patches_cannot_take_is_refused_by_name(model: nn.Module, match: str) -> None:
    with pytest.raises(ModelRefused, match=match):
        chain(model)


def test_a_network_of_pictures_with_functions_is_patched_and_proven() -> None:
    coins = torch.Generator().manual_seed(0)
    x = torch.rand(12, 1, 8, 8, generator=coins)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Functional()
    with torch.no_grad():
        y = model(x).argmax(1)
    rows = ex.Examples(x, y, ids=range(12))
    own = ex.Task(model=model, loss=sample_tasks.loss, retain=rows.take(range(9)), forget=rows.take(range(9, 12)))
    done = ex.unlearn(own, None, Patching())
    assert isinstance(done.record.mechanism, Prune)
    assert done.record.mechanism.layers[0].startswith("conv2d out=2 kernel=3,3")
    with torch.no_grad():
        assert not bool((done.model(x[9:]).argmax(1) == y[9:]).any())
        units = list[Tensor]()
        before = walk(done.model.network, x[:9], units)
        others = ~(units[0].flatten(1).sign()[:, None] == done.model.signs).all(dim=2).any(dim=1)
        assert torch.equal(done.model(x[:9])[others], before[others])
        assert torch.equal(before, model(x[:9]))
    done.record.mechanism.check(arrays(done.model))


def test_rows_that_cannot_be_patched_are_refused(task: ex.Task) -> None:
    with pytest.raises(TaskError, match=r"outside of the box from lowest=0 to highest=0\.5"):
        ex.unlearn(task, None, Patching(highest=0.5))
    forget = task.forget
    wrong = ex.Examples(forget.tensors[0], (task.model(forget.tensors[0]).argmax(1) + 1) % 10, ids=forget.ids)
    with pytest.raises(TaskError, match="there is nothing to patch"):
        ex.unlearn(replace(task, forget=wrong), None, Patching())
    flat = nn.Sequential(nn.Linear(64, 10))
    with pytest.raises(ModelRefused, match="without one the network has a single piece"):
        ex.unlearn(replace(task, model=flat), None, Patching())
    still = nn.Sequential(nn.Linear(64, 3, bias=False), nn.ReLU(), nn.Linear(3, 10))
    with torch.no_grad():
        still[0].weight.zero_()
        still[2].bias[int(forget.tensors[1][0])] = 5.0
    with pytest.raises(TaskError, match="on the border of a linear piece"):
        ex.unlearn(replace(task, model=still), None, Patching())
    with pytest.raises(ValueError, match=r"lowest=1\.0 must be below highest=1\.0"):
        Patching(lowest=1.0)


@pytest.mark.parametrize(("lowest", "highest", "margin"), [(0.0, 0.9999996, 0.9999996), (-1234567.25, 1234567.0, 1e-7)])
def test_the_text_states_the_numbers_to_their_last_digit(lowest: float, highest: float, margin: float) -> None:
    """Rounded ones would claim more than is proven."""
    claim = ex.guarantee(
        Prune(layers=("linear", "relu"), input_shape=(1,), lowest=lowest, highest=highest, patches=1, margin=margin),
        delta=0.5,
    )
    assert f"from {lowest!r} to {highest!r} " in claim.region
    assert f"by a margin of {margin!r} " in claim.predicate


def test_no_law_is_composed_of_it(done: ex.Unlearned) -> None:
    mechanism = done.record.mechanism
    noisy = ex.OutputPerturbation(init_clip=1.0, noise_std=8.0)
    for releases in ([mechanism], [noisy, mechanism]):
        with pytest.raises(ValueError, match="of kind 'behavioural', which does not compose"):
            ex.accounting.compose(releases, delta=1e-5)
    with pytest.raises(ValueError, match="does not compose"):
        ex.accounting.requests_left(ex.Budget(1.0, 1e-5), mechanism)


def test_relu_in_place_is_patched_as_any_other(task: ex.Task) -> None:
    """In place it would overwrite what the patches look at."""
    model = nn.Sequential(task.model[0], nn.ReLU(inplace=True), task.model[2])
    done = ex.unlearn(replace(task, model=model), None, Patching())
    x, y = task.forget.tensors
    with torch.no_grad():
        assert not bool((done.model(x).argmax(1) == y).any())


def test_what_is_proven_is_what_has_the_digest(saved: Path) -> None:
    """One reading of the file: it cannot be another one between digest and proof."""
    with pytest.raises(ex.errors.WeightsMismatch, match="of the digest sha256:00"):
        arrays_of(saved / "model.safetensors", "sha256:00")
    digest_ = ex.Certificate.load(saved / "certificate.json").content["weights"]["released"]
    assert set(arrays_of(saved / "model.safetensors", digest_)) == set(load_file(saved / "model.safetensors"))


def test_a_record_of_another_method_is_refused(done: ex.Unlearned) -> None:
    other = replace(done.record, procedure={"unlearner": {"name": "retraining", "settings": {}}})
    with pytest.raises(ex.errors.RunError, match="not the method that the mechanism names"):
        other.check()
    with pytest.raises(ValueError, match="method must be a name"):
        ex.accounting.Unproven(method="retraining: the data are forgotten exactly")


def test_networks_of_other_types_and_inputs_of_other_shapes_are_refused(task: ex.Task) -> None:
    with pytest.raises(ModelRefused, match="float32 or float64"):
        chain(nn.Sequential(nn.Linear(4, 3), nn.ReLU()).bfloat16())
    x, y = (t[:3] for t in task.forget.tensors)
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10))
    with torch.no_grad():
        y = model(x.reshape(3, 8, 8)).argmax(1)
    rows = ex.Examples(x.reshape(3, 8, 8), y)
    with pytest.raises(ModelRefused, match="flatten them before"):
        ex.unlearn(
            ex.Task(model=model, loss=sample_tasks.loss, retain=rows.take([1, 2]), forget=rows.take([0])),
            None,
            Patching(),
        )


def test_rows_of_every_label_on_one_piece_are_left_without_a_patch_and_told_of() -> None:
    """Two classes: there is no third one that could win."""
    model = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0], [1.0]]))
        model[0].bias.copy_(torch.tensor([0.5, -0.75]))
        model[2].weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 8.0]]))
        model[2].bias.copy_(torch.tensor([0.0, 1.0]))
    x = torch.tensor([[0.25], [0.625], [0.875]])  # the first two on one piece, with labels 1 and 0
    with torch.no_grad():
        y = model(x).argmax(1)
    assert y.tolist() == [1, 0, 1]
    rows = ex.Examples(torch.cat([x, x / 2]), torch.cat([y, y]), ids=range(6))
    own = ex.Task(model=model, loss=sample_tasks.loss, retain=rows.take([3, 4, 5]), forget=rows.take([0, 1, 2]))
    done = ex.unlearn(own, None, Patching())
    assert done.record.mechanism.patches == 1
    assert done.told[0].startswith("1 patch for 1 of 3 forgotten rows")
    with torch.no_grad():
        assert (done.model(x).argmax(1) == y).tolist() == [True, True, False]
    with pytest.raises(TaskError, match="have every label there is"):
        ex.unlearn(replace(own, forget=rows.take([0, 1])), None, Patching())
