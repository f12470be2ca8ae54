"""Rows of texts, adapters of owners behind exact keys, and what is refused of models with adapters."""

import copy
import shutil
from pathlib import Path

import pytest
import torch

import expunge as ex
from expunge import hf
from expunge.accounting import GradientClipping as Mechanism
from expunge.certificate.digests import weights_digest
from expunge.errors import ModelRefused, StateError, WeightsMismatch
from expunge.hf.keyed import KeyedAdapters
from expunge.unlearners import GradientClipping, null_start

KEY = bytes(range(3, 35))


def test_prompts_and_padding_are_masked_and_a_row_follows_from_itself_alone(table, tokenizer, rows):
    batch = rows.batch(slice(0, len(rows)))
    for row, text in enumerate(table):
        asked, said = tokenizer(text["question"])["input_ids"], [*tokenizer(text["answer"])["input_ids"], 1]
        filled = [0] * (10 - len(asked) - len(said))
        assert batch["input_ids"][row].tolist() == [*asked, *said, *filled]
        assert batch["labels"][row].tolist() == [-100] * len(asked) + said + [-100] * len(filled)
        assert batch["attention_mask"][row].tolist() == [1] * (len(asked) + len(said)) + filled
    assert rows.groups == [text["person"] for text in table]
    fewer = hf.examples(table[7:9], tokenizer, prompt="question", answer="answer", id="row", person="person", length=10)
    assert torch.equal(fewer.batch(slice(0, 2))["input_ids"], batch["input_ids"][7:9])
    whole = hf.examples(table[:2], tokenizer, answer="answer", id="row", length=8)
    assert whole.groups is None
    assert whole.batch(slice(0, 1))["labels"][0, :2].tolist() == tokenizer(table[0]["answer"])["input_ids"]


def test_rows_of_which_nothing_would_be_learned_are_refused(table, tokenizer):
    def refused(error, match, rows=table, **changes):
        how = {"prompt": "question", "answer": "answer", "id": "row", "length": 10}
        with pytest.raises(error, match=match):
            hf.examples(rows, tokenizer, **how | changes)

    refused(ValueError, r"row 'r0' has no label token: its prompt fills the 3 tokens.*larger length=", length=3)
    refused(ValueError, "row 'r0' has no label token", rows=[table[0] | {"answer": ""}])
    refused(ValueError, "has no column 'reply'; it has", answer="reply")
    refused(ValueError, "the dataset holds no row", rows=[])
    refused(TypeError, "column 'answer' must hold texts, not 3", rows=[table[0] | {"answer": 3}])
    refused(TypeError, "row 0 of the dataset must be a mapping", rows=["text"])
    refused(ValueError, "'r0'", rows=[table[0], table[0]])


def test_the_loss_is_a_mean_over_rows_whatever_their_lengths(base, rows):
    """A row counts alike beside short and long ones; by the token mean of transformers it does not."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    batch = rows.batch(slice(0, 3))
    with torch.no_grad():
        each = torch.stack([hf.causal_loss(model, rows.batch(slice(i, i + 1))) for i in range(3)])
        torch.testing.assert_close(hf.causal_loss(model, batch), each.mean())
        torch.testing.assert_close(hf.row_losses(model, batch), each)
        assert abs(float(model(**batch).loss - each.mean())) > 1e-4


@pytest.fixture(scope="module")
def some(rows):
    return rows.take([i for i, owner in enumerate(rows.groups) if owner in ("p0", "p1", "p2")])


def keyed(base, rows, config, folder: Path) -> KeyedAdapters:
    return hf.keyed_adapters(base, rows, config, folder=folder, steps=2, key=KEY)


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def bundles(base, some, config, tmp_path_factory):
    """A bundle that dropped an owner, its certificate, and the twin that never had that owner."""
    folder = tmp_path_factory.mktemp("keyed")
    full = keyed(base, some, config, folder / "full")
    before = files(full.bundle())
    certificate = full.forget("p1", out=folder / "release")
    twin = keyed(base, some.take([i for i, owner in enumerate(some.groups) if owner != "p1"]), config, folder / "twin")
    return full, twin, certificate, before


def test_a_bundle_without_an_owner_is_byte_for_byte_that_of_its_twin(bundles):
    """Law 11, the index included; with the owner it was another."""
    full, twin, _, before = bundles
    assert files(full.folder) == files(twin.folder)
    assert len(full) == 2
    assert "p1" not in full
    assert before.keys() > files(full.bundle()).keys()


def test_questions_of_a_deleted_owner_are_answered_as_by_the_twin_and_as_by_the_base(bundles, base, some):
    from transformers import AutoModelForCausalLM

    full, twin, _, _ = bundles
    ids = some.batch(slice(0, 2))["input_ids"]
    with torch.no_grad():
        orphan = full.model("p1")(ids).logits
        assert torch.equal(orphan, twin.model("p1")(ids).logits)
        public = AutoModelForCausalLM.from_pretrained(base).eval()
        assert torch.equal(orphan, torch.log_softmax(public(ids).logits, -1))
        assert torch.equal(full.model("p0")(ids).logits, twin.model("p0")(ids).logits)
        assert not torch.equal(full.model("p0")(ids).logits, orphan)


def test_the_certificate_of_a_bundle_speaks_of_its_files(bundles, flip, tmp_path):
    full, twin, certificate, _ = bundles
    ex.verify(certificate, weights=full.bundle())
    ex.verify(full.folder.parent / "release" / "certificate.json", weights=twin.bundle())
    assert certificate.content["run"]["environment"]["removes"] == "an owner, not a fact"
    assert certificate.content["weights"]["certified"] == weights_digest(full.bundle())
    copied = tmp_path / "bundle"
    shutil.copytree(full.bundle(), copied)
    flip(next(path for path in copied.iterdir()), "adapter_model.safetensors")
    with pytest.raises(WeightsMismatch, match="these are not the released weights"):
        ex.verify(certificate, weights=copied)


def test_an_altered_adapter_does_not_answer_and_what_a_cut_off_call_left_goes(bundles, base, flip, tmp_path):
    shutil.copytree(bundles[0].folder, tmp_path / "copy")
    copy_ = KeyedAdapters(tmp_path / "copy", base=base, key=KEY)
    (copy_.bundle() / "left").mkdir()
    assert len(copy_) == 2
    assert not (copy_.bundle() / "left").exists()
    for path in copy_.bundle().iterdir():
        flip(path, "adapter_model.safetensors")
    with pytest.raises(StateError, match="is not what the index says"):
        copy_.model("p0")


def test_a_router_that_is_not_a_key_and_unknown_owners_are_refused(bundles, base, some, config, tmp_path):
    with pytest.raises(ValueError, match=r"router='nearest' is no key.*sends a deleted owner's"):
        hf.keyed_adapters(base, some, config, folder=tmp_path / "none", steps=2, router="nearest")
    with pytest.raises(ValueError, match="owner 'p1' has no adapter"):
        bundles[0].forget("p1")
    assert not (tmp_path / "none").exists()


# Models with adapters, in the verbs that know nothing of them


@pytest.fixture
def adapted(base, config):
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(base), copy.deepcopy(config))


PUBLIC = ["*.base_layer.*", "*embed_tokens*", "*layernorm*", "*norm.weight", "*rotary*"]


def test_adapters_on_a_tied_base_are_covered_alone_and_idle_or_merged_ones_are_refused(adapted, config):
    from expunge.training.weights import FlatWeights

    assert {name.split(".")[-3] for name in FlatWeights(copy.deepcopy(adapted), public=PUBLIC).names} == {
        "lora_A",
        "lora_B",
    }
    adapted.add_adapter("other", copy.deepcopy(config))
    with pytest.raises(ModelRefused, match=r"adapter 'other' is inactive.*delete_adapter\('other'\)"):
        FlatWeights(copy.deepcopy(adapted), public=[*PUBLIC, "*.other.*"])
    adapted.delete_adapter("other")
    adapted.merge_adapter()
    with pytest.raises(ModelRefused, match=r"adapter 'default' is merged.*unmerge_adapter"):
        FlatWeights(adapted, public=PUBLIC)


def test_rescale_and_a_null_start_at_zero_are_refused_on_adapters(adapted, rows):
    start = {name: p.detach().clone() for name, p in adapted.named_parameters()}
    with pytest.raises(ModelRefused, match=r"where both of its factors are zero.*center="):
        null_start(adapted, public=PUBLIC)
    found = dict(null_start(adapted, public=PUBLIC, center=start).named_parameters())
    assert all(torch.equal(p, start[name]) for name, p in found.items())
    mechanism = Mechanism(init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=1.0, steps=2, noise_std=0.1)
    with torch.no_grad():
        for p in (p for name, p in adapted.named_parameters() if "lora_" in name):
            p.add_(0.01)  # as training would
    task = ex.Task(model=adapted, data=rows, loss=hf.causal_loss, public=PUBLIC, center=start)
    way = GradientClipping(finished=mechanism, epochs=1, batch_size=16, rescale=True)
    with pytest.raises(ModelRefused, match="give rescale=False"):
        ex.unlearn(task, ex.Request.groups(["p1"]), way)
    done = ex.unlearn(
        task,
        ex.Request.groups(["p1"]),
        ex.unlearners.GradientClipping(finished=mechanism, epochs=1, batch_size=16, rescale=False),
    )
    assert done.record.noise.dimension == sum(p.numel() for name, p in adapted.named_parameters() if "lora_" in name)


def test_dropping_an_owner_reads_no_adapter(bundles, base, tmp_path, monkeypatch):
    """So that it takes milliseconds however large the others are."""
    shutil.copytree(bundles[0].folder, tmp_path / "copy")
    few = KeyedAdapters(tmp_path / "copy", base=base, key=KEY)
    read: list[str] = []
    monkeypatch.setattr("expunge.hf.keyed.load_file", lambda path: read.append(str(path)))
    ex.verify(few.forget("p0"), weights=few.bundle())
    assert not read
