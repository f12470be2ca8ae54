"""Shards: the ensemble after a rewind is the one trained without the forgotten records, bit for bit."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

import expunge as ex
from expunge.errors import OutputError, StateError
from expunge.trace import Shards, train_shards
from expunge.trace.shards import Plan, shard_key

KEY = bytes(range(1, 33))
SIGNIFICANCE = 1e-4
PLAN = {"shards": 3, "slices": 3, "epochs_per_slice": 2, "steps_per_epoch": 4}


def train(small, folder: Path, data=None, **changes) -> Shards:
    options = PLAN | {"recipe": small.options["recipe"], "augment": small.augment, "smallest_batch": 2, "key": KEY}
    return train_shards(small.make_model, data or small.data, loss=small.loss, folder=folder, **options | changes)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """Trained once; every test gets a copy of the folder."""
    return tmp_path_factory.mktemp("trained") / "shards"


@pytest.fixture
def shards(small, trained, tmp_path):
    if not trained.exists():
        train(small, trained)
    shutil.copytree(trained, tmp_path / "shards")
    return Shards(tmp_path / "shards", key=KEY)


def forget(small, shards: Shards, ids, data=None):
    return shards.rewind(ids, data or small.data, make_model=small.make_model, loss=small.loss, augment=small.augment)


def in_cell(shards: Shards, small, shard: int, slice_: int) -> list[str]:
    return [name for name in small.data.ids if shards.plan.cell(KEY, name) == (shard, slice_)]


@pytest.mark.parametrize("recipe", ["sgd", "adamw", "limited"])
def test_a_rewind_equals_retraining_all_shards_bit_for_bit(small, recipes, recipe, tmp_path, same):
    task = small.but(recipe=recipes[recipe])
    shards = train(task, tmp_path / "shards")
    ids = ["patient 7", "patient 100", "patient 101", "patient 230"]
    done = forget(task, shards, ids)
    fresh = train(task, tmp_path / "fresh", small.without(*ids))
    assert same(done.model, fresh.model(task.make_model))
    assert done.cost.steps < done.cost.total


def test_requests_add_up_in_any_order(small, tmp_path, same):
    one, two = train(small, tmp_path / "one"), train(small, tmp_path / "two")
    for name in ("patient 3", "patient 40", "patient 200"):
        forget(small, one, [name])
    for name in ("patient 200", "patient 3"):
        done = forget(small, two, [name])
    assert not same(done.model, one.model(small.make_model))
    done = forget(small, two, ["patient 40"])
    assert same(done.model, one.model(small.make_model))
    again = Shards(tmp_path / "two", key=KEY)
    assert same(again.model(small.make_model), done.model)


def test_shards_that_were_not_hit_are_not_touched_and_the_hit_one_starts_at_its_stage(
    small, shards, tmp_path, snapshot
):
    name = in_cell(shards, small, 1, 2)[0]
    expected = shards.cost([name])
    assert set(expected.hit) == {1}
    assert expected.hit[1].restored == shards.plan.checkpoints[1] == 2 * 2 + 2 * 3
    assert expected.steps == shards.plan.stage_steps[2] == 8
    assert expected.total == 3 * 18
    before = snapshot(tmp_path / "shards")
    done = forget(small, shards, [name])
    after = snapshot(tmp_path / "shards")
    assert done.cost == expected
    assert {k: v for k, v in after.items() if "shard-1" not in k} == {
        k: v for k, v in before.items() if "shard-1" not in k
    }
    assert before["shard-1/v0-final.pt"] not in after.values()
    assert done.cost.gradients <= 240 * 6


def test_only_the_rows_of_shards_that_are_hit_are_read(small, shards, tmp_path):
    name = in_cell(shards, small, 1, 0)[0]
    rows = shards.plan.rows(KEY, small.data.ids)[1]
    assert forget(small, shards, [name], small.data.take(rows)).cost.hit.keys() == {1}


def test_a_whole_shard_can_be_forgotten(small, shards, tmp_path):
    rows = shards.plan.rows(KEY, small.data.ids)
    done = forget(small, shards, [small.data.ids[row] for row in rows[2]], small.data.take(rows[0]))
    fresh = shards.traces[2].model(small.make_model)
    assert torch.equal(next(done.model.models[2].parameters()), next(fresh.parameters()))
    assert len(shards.traces[2].roster()) == 0


def test_cells_are_uniform_and_do_not_depend_on_other_records():
    plan, names = Plan(shards=4, slices=5, epochs_per_slice=1, steps_per_epoch=5), [f"r{i}" for i in range(8000)]
    cells = [plan.cell(KEY, name) for name in names]
    counts = Counter(cells)
    assert chisquare([counts[s, r] for s in range(4) for r in range(5)]).pvalue > SIGNIFICANCE
    rows = plan.rows(KEY, names[:100])
    assert [plan.cell(KEY, names[row])[0] for part in rows for row in part] == [
        s for s, part in enumerate(rows) for _ in part
    ]
    assert plan.rows(KEY, names[50:100]) == [[row - 50 for row in part if row >= 50] for part in rows]


def test_the_expected_cost_is_what_random_keys_give_on_average():
    plan, coins = Plan(**PLAN), np.random.default_rng(0)
    for records in (1, 4):
        found = []
        for _ in range(3000):
            key, hit = coins.bytes(32), {}
            for name in ("a", "b", "c", "d")[:records]:
                shard, part = plan.cell(key, name)
                hit[shard] = min(hit.get(shard, 9), part)
            found.append(sum(sum(plan.stage_steps[r:]) for r in hit.values()))
        error = np.std(found) / np.sqrt(len(found))
        assert np.mean(found) == pytest.approx(plan.expected_steps(records), abs=4 * error)
    assert plan.expected_steps(1) < plan.expected_steps(4) < plan.total


def test_the_cost_of_one_random_record_is_the_expected_one_up_to_chance(small, shards, tmp_path):
    each = [shards.cost([name]).fraction for name in small.data.ids]
    assert np.mean(each) == pytest.approx(shards.expected_cost(1), abs=4 * np.std(each) / np.sqrt(240))
    assert shards.expected_cost(240) > 0.95


def test_stages_grow_so_that_batches_stay_about_as_large():
    plan = Plan(shards=2, slices=4, epochs_per_slice=3, steps_per_epoch=10)
    assert plan.stage_steps == (9, 15, 24, 30)
    assert plan.steps == (3,) * 3 + (5,) * 3 + (8,) * 3 + (10,) * 3
    assert plan.checkpoints == (9, 24, 48)
    assert plan.total == 2 * 78
    assert plan.first_epochs(KEY, ["a"]) == {"a": 3 * plan.cell(KEY, "a")[1]}


def test_shards_have_keys_of_their_own():
    assert len({shard_key(KEY, s) for s in range(100)} | {KEY}) == 101


def test_the_ensemble_averages_log_probabilities(small, tmp_path):
    """The geometric mean of the probabilities, normalised, in float64 against numpy."""
    model = train(small, tmp_path / "shards").model(small.make_model).double().eval()
    x = small.data.tensors[0][:50].double()
    with torch.no_grad():
        found = model(x).numpy()
        logits = np.stack([m(x).numpy() for m in model.models])
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    product = np.prod(p, axis=0) ** (1 / 3)
    assert np.allclose(np.exp(found), product / product.sum(-1, keepdims=True), atol=1e-12)


def test_a_rewind_yields_a_certificate_that_verifies(small, tmp_path):
    done = forget(small, train(small, tmp_path / "shards"), ["patient 7"])
    certificate = ex.issue(done.record, released=done.model)
    ex.verify(certificate, weights=done.model)
    assert certificate.mechanism == ex.Replay(shards=3)
    assert len(done.record.layers) == 3 * 6


def test_a_request_cut_off_between_shards_must_be_finished_first(small, shards, tmp_path, same, monkeypatch):
    ids = [in_cell(shards, small, s, 1)[0] for s in (0, 1, 2)]
    whole = shards.traces[1].folder.publish

    def stop(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.traces[1].folder, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            forget(small, shards, ids)
    assert whole
    assert [trace.manifest.version for trace in shards.traces] == [1, 0, 0]
    shards = Shards(tmp_path / "shards", key=KEY)
    with pytest.raises(StateError, match="a request of 3 records was interrupted; repeat it first"):
        forget(small, shards, ["patient 8"])
    done = forget(small, shards, ids)
    assert [trace.manifest.version for trace in shards.traces] == [1, 1, 1]
    assert set(done.cost.hit) == {1, 2}
    assert same(done.model, train(small, tmp_path / "fresh", small.without(*ids)).model(small.make_model))
    assert not (tmp_path / "shards" / "pending.json").exists()
    with pytest.raises(ValueError, match="forgotten before"):
        forget(small, shards, ids[:1])


def test_refusals_name_the_reason_and_change_no_file(small, shards, tmp_path, snapshot):
    """Every check of every shard comes before the first change: the fault here is in the last shard."""
    first, last = in_cell(shards, small, 0, 0)[0], in_cell(shards, small, 2, 2)[0]
    gone = in_cell(shards, small, 2, 0)[0]
    forget(small, shards, [gone])
    x, y = (t.clone() for t in small.data.tensors)
    x[small.data.ids.index(in_cell(shards, small, 2, 1)[0])] += 1
    changed = ex.Examples(x, y, ids=small.data.ids)
    cases = [
        ([first, "stranger"], None, small, ValueError, "'stranger' is not in the trace"),
        ([first, gone], None, small, ValueError, "was forgotten before"),
        ([first, last], changed, small, StateError, "is not what it was"),
        ([first, last], small.without(in_cell(shards, small, 2, 1)[0]), small, ValueError, "data lack 1"),
        ([first], None, small.but(loss=lambda model, batch: model(batch[0]).mean()), StateError, "loss is not the one"),
        ([], None, small, ValueError, "at least one"),
    ]
    before = snapshot(tmp_path / "shards")
    for ids, data, task, error, reason in cases:
        with pytest.raises(error, match=reason):
            forget(task, shards, ids, data)
        assert snapshot(tmp_path / "shards") == before
    file = tmp_path / "shards" / "shard-2" / shards.cost([last]).hit[2].reads
    file.write_bytes(file.read_bytes()[:-1])
    before = snapshot(tmp_path / "shards")
    with pytest.raises(StateError, match="truncated or was altered"):
        forget(small, shards, [first, last])
    assert snapshot(tmp_path / "shards") == before


def test_folders_and_manifests_that_are_not_its_own_are_refused(small, shards, tmp_path):
    with pytest.raises(OutputError, match="holds shards already"):
        train(small, tmp_path / "shards")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("x")
    with pytest.raises(OutputError, match="other files"):
        train(small, tmp_path / "other")
    with pytest.raises(StateError, match="holds no key"):
        Shards(tmp_path / "shards")
    with pytest.raises(StateError, match="the key is another"):
        Shards(tmp_path / "shards", key=bytes(32))
    path = shards.folder / "shards.json"
    path.write_text(path.read_text().replace('"slices": 3', '"slices": 2'))
    with pytest.raises(StateError, match="was altered"):
        Shards(tmp_path / "shards", key=KEY)


def test_an_interrupted_training_takes_finished_shards_as_they_are(small, tmp_path, same, monkeypatch):
    monkeypatch.setattr("expunge.trace.shards.write_sealed", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        train(small, tmp_path / "shards")
    monkeypatch.undo()
    with pytest.raises(OutputError, match="holds another trace"):
        train(small, tmp_path / "shards", smallest_batch=3)
    again = train(small, tmp_path / "shards")
    assert same(again.model(small.make_model), train(small, tmp_path / "fresh").model(small.make_model))


def test_without_a_key_a_fresh_one_is_made_and_kept(small, tmp_path, same):
    first = train(small, tmp_path / "shards", key=None)
    again = Shards(tmp_path / "shards")
    assert again.key == first.key != KEY
    assert same(forget(small, again, ["patient 5"]).model, first.model(small.make_model))


def test_a_shard_without_records_is_refused(small, tmp_path):
    with pytest.raises(ValueError, match="has no record; use fewer shards"):
        train(small, tmp_path / "shards", small.data.take([0, 1]), shards=5)


@pytest.mark.parametrize("name", ["shards", "slices", "epochs_per_slice", "steps_per_epoch"])
def test_plans_that_make_no_sense_are_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be"):
        Plan(**PLAN | {name: 0})
