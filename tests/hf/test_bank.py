"""Adapters on shards of persons: the laws of forgetting, of serving and of what a certificate speaks of."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import expunge as ex
from expunge import hf
from expunge.certificate.digests import weights_digest
from expunge.errors import ModelRefused, RunError, WeightsMismatch
from expunge.hf import AdapterBank
from expunge.testing import check_unlearner
from expunge.trace.schedule import name_tags
from expunge.trace.shards import shard_key
from expunge.unlearners import Replaying


@pytest.fixture(scope="module")
def once(base, rows, config, train, tmp_path_factory):
    """Trained once; every test gets a copy of the folder."""
    folder = tmp_path_factory.mktemp("trained") / "bank"
    return train(base, rows, config, folder)


@pytest.fixture
def bank(once, base, tmp_path):
    shutil.copytree(once.shards.folder, tmp_path / "bank")
    return AdapterBank(tmp_path / "bank", base=base, key=once.shards.key)


def cell(bank, person):
    return bank.shards.plan.cell(bank.shards.key, person)


def in_slice(bank, rows, stage):
    return next(person for person in dict.fromkeys(rows.groups) if cell(bank, person)[1] == stage)


@torch.no_grad()
def parted(model, scale=0.5):
    """The same experts, far apart, with most of the prior on adapters: a few steps of training hardly part them."""
    model.serving = replace(model.serving, prior=0.1)
    for number, (name, p) in enumerate(model.named_parameters()):
        if "lora_B" in name:
            p.add_(scale * torch.randn(p.shape, generator=torch.Generator().manual_seed(number)))
    return model


@pytest.fixture(scope="module")
def forgotten(once, base, rows, tmp_path_factory):
    """A bank that has forgotten the person who was learned first in some shard."""
    folder = tmp_path_factory.mktemp("forgotten") / "bank"
    shutil.copytree(once.shards.folder, folder)
    bank = AdapterBank(folder, base=base, key=once.shards.key)
    person = in_slice(bank, rows, 0)
    return bank, person, bank.forget(person, rows=rows)


def test_forgetting_is_training_without_the_person_bit_for_bit(
    forgotten, base, rows, config, train, content, without, tmp_path
):
    """Law 1: adapters, moments and checkpoints."""
    bank, person, done = forgotten
    fresh = train(base, without(rows, person), config, tmp_path / "fresh")
    one, two = content(bank), content(fresh)
    assert one.keys() == two.keys()
    assert len(one) == 6
    assert one == two
    assert weights_digest(done.model) == weights_digest(fresh.model())


def test_shards_that_the_person_was_not_in_do_not_move(forgotten, once, rows, content):
    """Law 2; and the one that was hit does."""
    bank, person, _ = forgotten
    hit = cell(bank, person)[0]
    before, after = content(once), content(bank)
    moved = {name for name in before if before[name] != after[name]}
    assert moved
    assert {name.split("/")[0] for name in moved} == {str(hit)}


def test_a_checkpoint_holds_an_adapter_and_its_moments_alone(once, base):
    """No base, and at most 10 kB beside the factors and two moments."""
    sizes = {file.size for trace in once.shards.traces for file in trace.manifest.checkpoints}
    state = once.shards.traces[0].folder.read_state(once.shards.traces[0].manifest.checkpoints[0])
    assert all("lora_" in name for name in state["model"])
    assert not state["buffers"]
    adapter = sum(t.numel() * t.element_size() for t in state["model"].values())
    assert max(sizes) <= 3 * adapter + 10_000
    assert max(sizes) < (base / "model.safetensors").stat().st_size


def test_all_rows_of_a_person_lie_in_one_cell_and_removing_others_moves_nothing(once, rows, without):
    """Law 5; by rows a person would lie in several shards."""
    plan, key = once.shards.plan, once.shards.key
    shard_of = {rows.ids[row]: s for s, part in enumerate(plan.rows(key, plan.names(rows))) for row in part}
    for person in set(rows.groups):
        own = [name for name, owner in zip(rows.ids, rows.groups, strict=True) if owner == person]
        assert {shard_of[name] for name in own} == {cell(once, person)[0]}
        roster = once.shards.traces[cell(once, person)[0]].roster()
        places = roster.find(name_tags(shard_key(key, cell(once, person)[0]), own))
        assert set(roster.first_epochs[places].tolist()) == {cell(once, person)[1] * plan.epochs_per_slice}
    fewer = without(rows, "p0", "p1", "p2")
    left = {fewer.ids[row]: s for s, part in enumerate(plan.rows(key, plan.names(fewer))) for row in part}
    assert left == {name: shard_of[name] for name in fewer.ids}
    by_row = {
        person: {plan.cell(key, name)[0] for name, own in zip(rows.ids, rows.groups, strict=True) if own == person}
        for person in rows.groups
    }
    assert max(map(len, by_row.values())) > 1


def test_the_cost_of_a_person_is_that_of_the_rows_and_what_forgetting_takes(bank, rows):
    person = in_slice(bank, rows, 1)
    own = [name for name, owner in zip(rows.ids, rows.groups, strict=True) if owner == person]
    cost = bank.cost(person)
    assert cost == bank.cost(ids=own)
    assert cost.fraction == pytest.approx(3 / 15)
    assert bank.forget(person, rows=rows).notes["replayed"]["steps"] == cost.steps == 3
    with pytest.raises(ValueError, match="was forgotten before"):
        bank.cost(person)
    with pytest.raises(ValueError, match="no rows in the bank"):
        bank.cost("nobody")


def test_a_digest_is_the_same_in_memory_in_files_reloaded_and_under_another_name(forgotten, base, tmp_path):
    """Law 6."""
    bank, _, done = forgotten
    done.save(tmp_path / "release")
    (tmp_path / "release").rename(tmp_path / "renamed")
    again = AdapterBank(bank.shards.folder, base=base, key=bank.shards.key)
    found = {weights_digest(m) for m in (done.model, again.model(), tmp_path / "renamed")}
    assert found == {done.record.certified}
    ex.verify(tmp_path / "renamed" / "certificate.json", weights=tmp_path / "renamed")


def test_a_release_loads_with_peft_and_answers_as_in_the_bank(forgotten, base, rows, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, _, done = forgotten
    certificate = done.save(tmp_path / "release")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "release" / "shard-1")
    ids, mask = rows.batch(slice(0, 4))["input_ids"], rows.batch(slice(0, 4))["attention_mask"]
    alone = torch.log_softmax(loaded.eval()(input_ids=ids, attention_mask=mask).logits, -1)
    together = done.model.log_probabilities(ids, mask)
    torch.testing.assert_close(together[1], alone)
    assert not torch.allclose(together[0], alone, atol=1e-6)
    stated = certificate.content["run"]["environment"]
    assert stated["base"] == weights_digest(base)
    assert (stated["serving"], stated["prior"], stated["temperature"]) == ("mixture", "0.5", "1.0")
    assert all("lora_" in name for name, _ in certificate.content["run"]["layers"])


def test_an_adapter_that_was_merged_is_the_file_that_peft_merges(forgotten, base, tmp_path):
    """The digest speaks of what PEFT loads: merging what was saved gives the weights of merging in memory."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    _, _, done = forgotten
    done.save(tmp_path / "release")
    merged = [
        PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base), tmp_path / "release" / "shard-0"
        ).merge_and_unload()
        for _ in range(2)
    ]
    assert weights_digest(merged[0]) == weights_digest(merged[1])


def test_one_bit_of_the_base_or_of_an_adapter_is_found(forgotten, base, rows, flip, tmp_path):
    """Law 6: neither serves, nor is trained on, nor verifies."""
    bank, _, done = forgotten
    shutil.copytree(base, tmp_path / "other")
    flip(tmp_path / "other")
    with pytest.raises(WeightsMismatch, match="not, bit for bit, the one that the adapters were trained on"):
        AdapterBank(bank.shards.folder, base=tmp_path / "other", key=bank.shards.key).model()
    with pytest.raises(WeightsMismatch, match="not, bit for bit"):
        AdapterBank(bank.shards.folder, base=tmp_path / "other", key=bank.shards.key).forget("p9", rows=rows)
    done.save(tmp_path / "release")
    flip(tmp_path / "release" / "shard-2", "adapter_model.safetensors")
    with pytest.raises(WeightsMismatch, match="these are not the released weights"):
        ex.verify(tmp_path / "release" / "certificate.json", weights=tmp_path / "release")


def test_the_base_may_lie_elsewhere(bank, base, rows, tmp_path):
    shutil.copytree(base, tmp_path / "moved")
    other = AdapterBank(bank.shards.folder, base=tmp_path / "moved", key=bank.shards.key)
    assert other.forget("p3", rows=rows).record.certified == weights_digest(other.model())


def test_a_row_costs_the_mixture_at_most_its_best_expert_and_the_prior(once, rows):
    """Law 4, on all tokens of every row; the mean of probabilities breaks it where its prior of the base is none."""
    model = parted(once.model())
    batch = rows.batch(slice(0, len(rows)))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    seen = mask[:, 1:] * mask[:, :-1]

    def total(logits):
        said = logits[:, :-1].gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2).double()
        return -(said * seen).sum(1)

    with torch.no_grad():
        each = torch.stack([total(expert) for expert in model.log_probabilities(ids, mask)])
        bound = (each - model.priors.log()[:, None]).amin(0)
        assert bool((total(model(ids, mask).logits) <= bound + 1e-4).all())
        assert float((each.amax(0) - each.amin(0)).min()) > 1
        wrong = torch.logsumexp(model.log_probabilities(ids, mask) + 2 * model.priors.log()[:, None, None, None], 0)
        assert not bool((total(wrong) <= bound + 1e-4).all())


def test_all_passes_in_one_batch_are_those_of_one_expert_after_the_other(once, rows):
    model = once.model()
    ids, mask = (rows.batch(slice(0, 3))[name] for name in ("input_ids", "attention_mask"))
    with torch.no_grad():
        together = model.log_probabilities(ids, mask)
        alone = [torch.log_softmax(model._run(ids, mask, [name] * 3), -1) for name in model.experts]
    torch.testing.assert_close(together, torch.stack(alone), rtol=0, atol=1e-6)


def test_after_the_prompt_one_expert_answers_and_mean_p_is_the_mean(once, rows):
    batch = rows.batch(slice(0, 24))
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        routed, mean = parted(once.model("after_prompt")), parted(once.model("mean_p"))
        each = routed.log_probabilities(ids, mask)
        chosen = routed.route(ids[:, :3])  # the prompts have three tokens
        assert chosen != routed.route(ids, mask)  # by the answers too it would be another
        found = routed(ids, mask, labels).logits
        for row, name in enumerate(chosen):
            assert torch.equal(found[row], each[routed.experts.index(name), row])
        alone = torch.stack([each[routed.experts.index(name), row] for row, name in enumerate(chosen)])
        said = alone[:, :-1].gather(2, ids[:, 1:].unsqueeze(2)).squeeze(2) * (labels[:, 1:] != -100)
        torch.testing.assert_close(hf.row_losses(routed, batch), -said.sum(1) / (labels != -100).sum(1))
        torch.testing.assert_close(mean(ids, mask).logits.exp(), each[:-1].exp().mean(0), rtol=1e-4, atol=1e-6)
        assert torch.equal(routed.generate(ids[:2, :3], max_new_tokens=3)[:, :3], ids[:2, :3])
    with pytest.raises(ValueError, match="serving must be one of mixture, after_prompt, mean_p"):
        once.model("merged")


def test_padding_on_the_left_changes_no_answer(once, rows):
    model, prompt = once.model(), rows.batch(slice(0, 1))["input_ids"][:, :3]
    padded = torch.nn.functional.pad(prompt, (2, 0))
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    assert torch.equal(model.generate(padded, mask, max_new_tokens=4)[:, 2:], model.generate(prompt, max_new_tokens=4))


@pytest.mark.parametrize("stage", [0, 1])
def test_after_withdrawal_no_adapter_that_saw_the_person_is_reachable(bank, base, rows, stage):
    """Law 10: what serves, on every way to it, is what a training without the person has at the same step."""
    person = in_slice(bank, rows, stage)
    shard = cell(bank, person)[0]
    before = bank.model()
    assert bank.withdraw(person) == {shard: stage}
    again = AdapterBank(bank.shards.folder, base=base, key=bank.shards.key)
    serving = [bank.model(), again.model(), again.model("mean_p")]
    bank.forget(person, rows=rows)  # which is a training without the person, by law 1
    trace = bank.shards.traces[shard]
    twin = trace.folder.read_state(trace.manifest.checkpoints[0])["model"]
    for model in serving:
        assert list(model.experts) == [name for name in before.experts if stage or name != f"shard-{shard}"]
        for name in model.experts[:-1]:
            for key, p in model.adapter(name).items():
                hit = name == f"shard-{shard}"
                assert torch.equal(
                    p, twin[key.replace(".weight", ".default.weight")] if hit else before.adapter(name)[key]
                )


def test_nothing_is_certified_while_others_are_withdrawn_and_not_forgotten(bank, rows, tmp_path):
    first, second = in_slice(bank, rows, 1), in_slice(bank, rows, 0)
    bank.withdraw(first)
    own = [name for name, owner in zip(rows.ids, rows.groups, strict=True) if owner == second]
    assert bank.withdraw(ids=own[:1])[cell(bank, second)[0]] == 0
    done = bank.forget(first, rows=rows)
    with pytest.raises(RunError, match=f"records of shard {cell(bank, second)[0]} are withdrawn"):
        done.save(tmp_path / "early")
    bank.save(tmp_path / "serving")
    assert not (tmp_path / "serving" / f"shard-{cell(bank, second)[0]}").exists()
    newest = bank.forget(second, rows=rows)
    with pytest.raises(RunError, match="the bank has changed since"):
        done.save(tmp_path / "older")
    newest.save(tmp_path / "release")
    assert len(bank.model().experts) == 4
    with pytest.raises(ValueError, match="name a person, or rows by ids=, and one of the two"):
        bank.withdraw()


def test_a_bank_is_planned_and_run_as_every_unlearner_is(bank, rows):
    task = bank.task(rows)
    request = ex.Request.groups(["p5"])
    way = Replaying(trace=bank.shards.folder)
    bank.shards.folder.joinpath("key").write_text(bank.shards.key.hex() + "\n")  # as where the bank keeps it
    plan = ex.plan(task, request, ex.Budget(epsilon=1, delta=1e-5), unlearners=[way])
    assert [(quote.applies, quote.guarantee) for quote in plan.quotes] == [(True, "exact")]
    check_unlearner(way, task.parts(request))
    done = ex.unlearn(task, request, way)
    assert done.record.certified == weights_digest(bank.model())
    assert done.record.environment["base"] == bank.maker.base.digest
    assert done.predict(rows.take([0, 1])).shape[:2] == (2, 10)


def test_what_is_not_trained_on_is_refused_by_name(base, rows, config, table, tokenizer, tmp_path):
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from transformers.loss.loss_utils import ForCausalLMLoss

    def refused(error, match, **changes):
        how = {
            "base": base,
            "rows": rows,
            "config": config,
            "shards": 2,
            "steps_per_epoch": 2,
            "folder": tmp_path / "none",
        }
        with pytest.raises(error, match=match):
            hf.train_adapters(**how | changes)

    dataset = Dataset.from_list(table)
    refused(TypeError, r"ex\.hf\.examples\(dataset, tokenizer, ...\) makes them, not Dataset", rows=dataset)
    refused(
        TypeError, "base must be the folder of a public checkpoint", base=AutoModelForCausalLM.from_pretrained(base)
    )
    refused(ValueError, "token_mean.*ex.hf.causal_loss", loss="token_mean")
    refused(ValueError, "'ForCausalLMLoss'.*a mean over rows", loss=ForCausalLMLoss)
    refused(
        ValueError, "init_lora_weights='pissa' changes the base's weights", config=LoraConfig(init_lora_weights="pissa")
    )
    refused(ValueError, "bias='all' is not taken", config=LoraConfig(bias="all"))
    refused(ValueError, "modules_to_save", config=LoraConfig(modules_to_save=["lm_head"]))
    refused(TypeError, "config must be a peft.LoraConfig, not dict", config={"r": 8})
    refused(ValueError, "prior must be below 1", prior=1.0)
    assert not (tmp_path / "none").exists()
    with pytest.raises(TypeError, match=r"ex\.hf\.examples\(dataset, tokenizer, ...\)"):
        ex.data.as_examples(dataset)
    found = hf.examples(dataset, tokenizer, prompt="question", answer="answer", id="row", person="person", length=10)
    assert torch.equal(found.batch(slice(0, 5))["labels"], rows.batch(slice(0, 5))["labels"])


def test_a_base_with_a_part_that_no_checkpoint_holds_is_refused(base, tmp_path):
    from safetensors.torch import load_file, save_file
    from transformers import AutoModelForCausalLM

    shutil.copytree(base, tmp_path / "partial")
    tensors = load_file(tmp_path / "partial" / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, tmp_path / "partial" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelRefused, match=r"'model\.norm\.weight' is not in the checkpoint"):
        hf.PublicBase.of(tmp_path / "partial").load()
    model = AutoModelForCausalLM.from_pretrained(base)
    assert hf.check_base(model, base) == weights_digest(base)
    model.model.rotary_emb.inv_freq[0] += 1e-3
    with pytest.raises(ModelRefused, match=r"rotary_emb\.inv_freq' is not, bit for bit"):
        hf.check_base(model, base)


def test_sealed_files_of_a_bank_are_held_to_their_seal(bank, base):
    path = bank.shards.folder / "bank.json"
    changed = json.loads(path.read_text()) | {"base": "sha256:" + "0" * 64}
    path.write_text(json.dumps(changed))
    with pytest.raises(ex.errors.StateError, match="was altered"):
        AdapterBank(bank.shards.folder, base=base, key=bank.shards.key)


def test_a_copy_of_the_folder_moved_elsewhere_is_the_same_bank(bank, base, tmp_path: Path):
    moved = bank.shards.folder.rename(tmp_path / "moved")
    assert weights_digest(AdapterBank(moved, base=base, key=bank.shards.key).model())
