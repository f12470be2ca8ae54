"""Weights are held against what the run covered, tensor by tensor, when a certificate is issued and when it is verified."""

import copy
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.certificate.digests import weights_digest
from expunge.certificate.format import digest
from expunge.certificate.record import RunRecord
from expunge.errors import RunError, WeightsMismatch
from expunge.jobs.released import opened
from expunge.unlearners.plain import Plain

GRADIENT = ex.GradientClipping(
    init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.0, steps=3, noise_std=0.5
)
COINS = torch.Generator().manual_seed(0)
DATA = (torch.randn(64, 8, generator=COINS), torch.randint(3, (64,), generator=COINS))
MODEL = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


def loss(model: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(model(batch[0]).float(), batch[1])


def issue(record: RunRecord, released: object) -> ex.Certificate:
    return ex.issue(record, released=released, unchecked="a test")


@pytest.fixture(scope="module")
def done() -> ex.Unlearned:
    return ex.unlearn(MODEL, DATA, GRADIENT, loss=loss, batch_size=16, buffers="reset", public=["0.bias"])


def test_the_record_names_every_tensor_of_the_file(done: ex.Unlearned, tmp_path: Path) -> None:
    """Covered, estimated and public: together they are the file's tensors."""
    ex.save_weights(done.model, tmp_path / "m.safetensors")
    names = {name for name, _ in done.record.layers} | set(done.record.estimated) | set(done.record.public)
    assert names == set(load_file(tmp_path / "m.safetensors"))
    ex.verify(issue(done.record, done.model), weights=tmp_path / "m.safetensors", certified_weights=done.model)


FAULTS = {
    "a further tensor": (lambda t: t | {"bank": torch.ones(4, 8)}, "'bank' is neither covered"),
    "a layer less": (lambda t: {k: v for k, v in t.items() if k != "2.weight"}, "'2.weight' is missing"),
    "statistics less": (lambda t: {k: v for k, v in t.items() if k != "1.running_var"}, "'1.running_var' is missing"),
    "another size": (
        lambda t: t | {"2.weight": torch.ones(2, 2)},
        "'2.weight' has 4 coordinates, and the run covered 24",
    ),
}


@pytest.mark.parametrize(("change", "words"), FAULTS.values(), ids=FAULTS.keys())
def test_weights_of_other_tensors_are_neither_certified_nor_verified(
    done: ex.Unlearned, tmp_path: Path, change: Any, words: str
) -> None:
    """By `issue` as a RunError; by `verify` as a WeightsMismatch, also where the digest is right."""
    path = tmp_path / "m.safetensors"
    save_file(change({name: t.clone() for name, t in done.model.state_dict().items()}), path)
    with pytest.raises(RunError, match=words):
        issue(done.record, path)
    with pytest.raises(WeightsMismatch, match=words):
        ex.verify(issue(done.record, weights_digest(path)), weights=path)


def test_public_and_empty_tensors_may_be_left_out_or_added(done: ex.Unlearned, tmp_path: Path) -> None:
    """A public part need not be handed out with the rest; a tensor without coordinates says nothing."""
    tensors = {name: t.clone() for name, t in done.model.state_dict().items() if name != "0.bias"}
    save_file(tensors | {"nothing": torch.empty(0)}, tmp_path / "m.safetensors")
    ex.verify(issue(done.record, tmp_path / "m.safetensors"), weights=tmp_path / "m.safetensors")


def test_certified_weights_are_of_the_dtype_of_the_run_and_released_ones_may_be_smaller(done: ex.Unlearned) -> None:
    """Half precision after the run is post-processing; a record that names another dtype is a contradiction."""
    half = copy.deepcopy(done.model).half()
    ex.verify(issue(done.record, half), weights=half)
    with pytest.raises(RunError, match="is F32, and the run's weights are bfloat16"):
        issue(replace(done.record, weights_dtype="bfloat16"), done.model)


@pytest.mark.parametrize(
    "metadata", [{"note": "rows of the forgotten"}, {"format": "pt", "note": "x"}, {"format": "xy"}]
)
def test_a_file_with_metadata_is_refused(done: ex.Unlearned, tmp_path: Path, metadata: dict[str, str]) -> None:
    """No digest reaches it: the file may say anything there and still have the certificate's digest."""
    path = tmp_path / "m.safetensors"
    save_file({name: t.clone() for name, t in done.model.state_dict().items()}, path, metadata=metadata)
    with pytest.raises(RunError, match="metadata"):
        issue(done.record, path)
    with pytest.raises(WeightsMismatch, match="metadata"):
        ex.verify(issue(done.record, done.model), weights=path)
    with pytest.raises(WeightsMismatch, match="metadata"):
        ex.verify(issue(done.record, done.model), weights=str(path))


def test_a_file_may_say_that_torch_wrote_it(done: ex.Unlearned, tmp_path: Path) -> None:
    """As every file of `save_pretrained` does, in these very words."""
    path = tmp_path / "m.safetensors"
    save_file({name: t.clone() for name, t in done.model.state_dict().items()}, path, metadata={"format": "pt"})
    ex.verify(issue(done.record, path), weights=path)


def start_with_new_statistics(model: nn.Module) -> nn.Module:
    other = copy.deepcopy(model)
    other(DATA[0] + 1)
    return other


def one_layer_of_the_start(model: nn.Module, done: ex.Unlearned) -> nn.Module:
    other = copy.deepcopy(done.model)
    other[2].load_state_dict(model[2].state_dict())
    return other


def test_the_trained_weights_are_not_certified_as_unlearned(done: ex.Unlearned, tmp_path: Path) -> None:
    """As a module, a file, a digest, with other statistics, or in one layer: a RunError."""
    ex.save_weights(MODEL, tmp_path / "m.safetensors")
    for slip in (
        MODEL, tmp_path / "m.safetensors", str(tmp_path / "m.safetensors"), weights_digest(MODEL),
        start_with_new_statistics(MODEL), one_layer_of_the_start(MODEL, done),
    ):  # fmt: skip
        with pytest.raises(RunError, match="before the run"):
            issue(done.record, slip)
    issue(done.record, ex.recover(done.model, DATA, loss=loss, epochs=1, recipe=ex.Recipe(learning_rate=0.01)))


def in_type(*types: torch.dtype) -> nn.Module:
    model = copy.deepcopy(MODEL)
    for dtype in types:
        model = model.to(dtype)
    return model


@pytest.mark.parametrize(
    "types",
    [
        (torch.float16,), (torch.bfloat16,), (torch.float64,), (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
    ],
)  # fmt: skip
def test_the_trained_weights_in_another_type_are_not_certified_as_unlearned(
    done: ex.Unlearned, types: tuple[torch.dtype, ...]
) -> None:
    """`model.half()` where `released.half()` was meant: a RunError; what was unlearned passes in every type."""
    with pytest.raises(RunError, match="before the run"):
        issue(done.record, in_type(*types))
    issue(done.record, copy.deepcopy(done.model).to(types[0]))


def test_what_is_known_of_the_start_is_written_nowhere(done: ex.Unlearned) -> None:
    """A digest of the trained weights would let a reader test guesses of them: not in record, certificate or repr."""
    assert done.record.start
    texts = [json.dumps(done.record.to_dict()), issue(done.record, done.model).to_json(), repr(done.record), repr(done)]
    for found in done.record.start.values():
        assert not any(digest in text for text in texts for digest in found)
    again = RunRecord.from_dict(done.record.to_dict())
    assert not again.start
    assert again == done.record


def test_a_constant_part_that_start_and_release_share_is_no_slip() -> None:
    """A normalisation layer at one before the run and brought back to one by recovery is not the trained layer."""
    model = nn.Sequential(nn.Linear(8, 32), nn.LayerNorm(32), nn.Linear(32, 3))
    done = ex.unlearn(model, DATA, GRADIENT, loss=loss, batch_size=16)
    still = ex.Recipe(learning_rate=1e-30, weight_decay=0.0)
    released = ex.recover(done.model, DATA, loss=loss, epochs=1, recipe=still, rescale=True)
    assert torch.equal(released[1].weight, model[1].weight)
    issue(done.record, released)


def test_retrained_models_name_their_statistics(tmp_path: Path) -> None:
    """An exact certificate covers the same tensors, none beside them."""
    done = ex.retrain(lambda: copy.deepcopy(MODEL), DATA, loss=loss, epochs=1)
    assert done.record.estimated == ("1.running_mean", "1.running_var", "1.num_batches_tracked")
    ex.verify(issue(done.record, done.model), weights=done.model)
    save_file({**{k: v.clone() for k, v in done.model.state_dict().items()}, "more": torch.ones(1)}, tmp_path / "m")
    with pytest.raises(RunError, match="'more' is neither"):
        issue(done.record, tmp_path / "m")


def test_a_raw_tensor_in_weights_certified_by_an_earlier_version_is_told(done: ex.Unlearned, tmp_path: Path) -> None:
    """Schema 1: extra state was written beside the noised layers, and the digest agreed. Statistics and metadata pass."""
    tensors = {name: t.clone() for name, t in done.model.state_dict().items()}
    save_file(tensors, tmp_path / "sound", metadata={"format": "pt"})
    save_file(tensors | {"2._extra_state": torch.ones(4)}, tmp_path / "raw")
    golden = json.loads((Path(__file__).parents[1] / "certificates/v1/gradient_clipping.json").read_text())
    for name in ("sound", "raw"):
        found = weights_digest(tmp_path / name)
        content = json.loads(json.dumps(golden))
        content["run"] |= {
            "layers": [list(layer) for layer in done.record.layers], "buffers": "reset", "public": ["0.bias"], "certified": found,
        }  # fmt: skip
        content["run"]["noise"]["dimension"] = sum(size for _, size in done.record.layers)
        content["weights"] = {"certified": found, "released": found}
        content["recovery"] = "none: the released weights are the certified weights"
        content["digest"] = digest({key: value for key, value in content.items() if key != "digest"})
        certificate = ex.Certificate(content)
        ex.verify(certificate)
        if name == "sound":
            ex.verify(certificate, weights=tmp_path / name)
        else:
            with pytest.raises(WeightsMismatch, match=r"'2\._extra_state' is neither"):
                ex.verify(certificate, weights=tmp_path / name)


def opened_as(layers: tuple[tuple[str, int], ...], done: ex.Unlearned, path: Path) -> dict[str, float]:
    """The accuracies of a file that a record of these layers covers, opened in a task of the model."""
    rows = ex.Examples(*DATA)
    task = ex.Task(model=MODEL, retain=rows, forget=rows.take([0]), held_out=rows, loss=loss)
    return opened(task, replace(done.record, layers=layers), path, Plain(lambda model, _retain, _forget: model))


def test_released_weights_are_opened_in_the_model_of_the_task_and_several_models_are_not(
    done: ex.Unlearned, tmp_path: Path
) -> None:
    path = tmp_path / "m.safetensors"
    ex.save_weights(done.model, path)
    own = done.record.layers
    assert set(opened_as(own, done, path)) == {"held_out", "forget"}
    shards = tuple((f"{k}.{name}", size) for k in range(3) for name, size in own)
    assert opened_as(shards, done, tmp_path / "nowhere") == {}
    for wrong in (shards[:-1], (*shards[:-1], ("2.2.weight", 25)), (("other", own[0][1]), *own[1:])):
        with pytest.raises(WeightsMismatch, match="layers are not those of the task's model"):
            opened_as(wrong, done, path)
