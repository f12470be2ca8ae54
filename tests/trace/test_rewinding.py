"""A rewind gives the model of a training that never saw the forgotten records, bit for bit."""

import copy
import os
import random
import stat
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import expunge as ex
from expunge.errors import ModelRefused, NonFinite, StillRetained
from expunge.trace import Trace, cost
from expunge.training import state
from interrupted import interrupted


@pytest.mark.parametrize("recipe", ["sgd", "adamw", "limited"])
@pytest.mark.parametrize("ids", [["patient 7"], [f"patient {i}" for i in range(0, 240, 9)]], ids=["one", "many"])
def test_a_rewind_equals_retraining_bit_for_bit(small, recipes, recipe, ids, tmp_path, same):
    """BatchNorm, dropout and augmentation; every file but the names' versions agrees too."""
    task = small.but(recipe=recipes[recipe])
    trace = task.train(tmp_path / "trace")
    done = task.rewind(trace, ids)
    fresh = task.train(tmp_path / "fresh", small.without(*ids))
    assert same(done.model, fresh.model(task.make_model))
    assert same(done.model, trace.model(task.make_model))
    for mine, theirs in zip(trace.manifest.checkpoints, fresh.manifest.checkpoints, strict=True):
        one, two = trace.folder.read_state(mine), fresh.folder.read_state(theirs)
        assert all(torch.equal(one["model"][k], two["model"][k]) for k in one["model"])
        assert mine.step == theirs.step
        assert str(one["optimizer"]) == str(two["optimizer"])


@pytest.mark.parametrize("recipe", ["sgd", "adamw", "limited"])
def test_a_rewind_equals_a_second_implementation_bit_for_bit(small, recipes, recipe, tmp_path, same, by_hand):
    task = small.but(recipe=recipes[recipe])
    trace = task.train(tmp_path / "trace")
    assert same(trace.model(task.make_model), by_hand(small.data, recipes[recipe]))
    done = task.rewind(trace, ["patient 3", "patient 100"])
    assert same(done.model, by_hand(small.without("patient 3", "patient 100"), recipes[recipe]))


def test_each_forgotten_record_mattered(small, tmp_path, same):
    """The comparison can fail: the model with the record, and the one without another, differ."""
    trace = small.train(tmp_path / "trace")
    before = trace.model(small.make_model)
    done = small.rewind(trace, ["patient 7"])
    other = small.train(tmp_path / "other", small.without("patient 8"))
    assert not same(done.model, before)
    assert not same(done.model, other.model(small.make_model))


@pytest.mark.parametrize("order", [("patient 5", "patient 60", "patient 9"), ("patient 9", "patient 5", "patient 60")])
def test_requests_add_up_in_any_order(small, order, tmp_path, same):
    """One after another, with data that still hold the forgotten rows or not, in another order of rows."""
    trace = small.train(tmp_path / "trace")
    left = small.data.take(list(range(239, -1, -1)))
    for name in order:
        done = small.rewind(trace, [name], left)
        left = left.take([i for i, n in enumerate(left.ids) if n != name])
    fresh = small.train(tmp_path / "fresh", small.without(*order))
    assert same(done.model, fresh.model(small.make_model))
    assert trace.manifest.version == 3
    assert same(Trace(tmp_path / "trace", key=small.key).model(small.make_model), done.model)


def test_only_the_steps_from_the_last_untouched_checkpoint_on_are_run(small, tmp_path):
    """Counted by the calls of the loss; the checkpoint is the last one before the first use."""
    trace = small.train(tmp_path / "trace")
    for name in ("patient 1", "patient 2", "patient 3"):
        expected = cost(trace, [name])
        assert expected.restored == max([c for c in trace.checkpoints if c <= expected.first_use], default=0)
        with interrupted() as counted:
            done = small.rewind(trace, [name])
        assert done.cost == expected
        assert counted.calls == expected.steps == 36 - expected.restored
        assert sum(counted.sizes) == pytest.approx(expected.gradients, rel=0.1)


def numpys_coins(model, batch):
    return helpers_loss(model, batch) * (1 + np.random.rand() + random.random())  # noqa: NPY002


def helpers_loss(model, batch):
    return nn.functional.cross_entropy(model(batch[0]), batch[1])


def careless(batch, generator):
    """An augmentation that ignores its generator."""
    shift = torch.rand(1) + float(np.random.normal()) + random.gauss(0, 1)  # noqa: NPY002
    return batch[0] + 0.1 * shift, batch[1]


def careless_model():
    model = nn.Sequential(nn.Linear(64, 10))
    with torch.no_grad():
        model[0].bias.add_(float(np.random.rand()) + random.random())  # noqa: NPY002
    return model


def test_coins_of_numpy_and_random_are_those_of_the_step(small, tmp_path, same):
    """In the loss, the augmentation and the initialisation; the caller's own generators are left as they were."""
    task = small.but(loss=numpys_coins, augment=careless, make_model=careless_model)
    np.random.seed(1)  # noqa: NPY002
    random.seed(1)
    before = np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    trace = task.train(tmp_path / "trace")
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)
    torch.manual_seed(2)
    name = next(n for n in small.data.ids if cost(trace, [n]).restored > 0)
    done = task.rewind(trace, [name])
    assert same(done.model, task.train(tmp_path / "fresh", small.without(name)).model(task.make_model))


HISTORY = []


def logging_loss(model, batch):
    HISTORY.append(0)
    return helpers_loss(model, batch)


class Annealed:
    """A loss whose weight falls with its calls: a replay from the middle would begin at the start of them."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, batch):
        self.calls += 1
        return helpers_loss(model, batch) * 0.9**self.calls


class Counting(nn.Module):
    """A network that counts outside of its buffers."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(64, 10), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * 0.9**self.calls


def counting_augment():
    calls = [0]

    def augment(batch, generator):
        calls[0] += 1
        return batch[0] * 0.9 ** calls[0], batch[1]

    return augment


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("loss", {"loss": logging_loss}),
        ("loss", {"loss": Annealed()}),
        ("make_model", {"make_model": Counting, "augment": None}),
        ("augment", {"augment": counting_augment()}),
    ],
)
def test_state_that_no_checkpoint_holds_is_refused_after_the_first_step(small, tmp_path, name, change):
    with pytest.raises(ModelRefused, match=f"{name} keeps something from one step to the next"), interrupted(2):
        small.but(**change).train(tmp_path / "trace")
    assert not (tmp_path / "trace" / "manifest.json").exists()


def test_state_that_appears_late_is_refused_at_the_end(small, tmp_path):
    class Late(Annealed):
        def __call__(self, model, batch):
            if torch.initial_seed() % 7 == 3:
                self.calls += 1
            return helpers_loss(model, batch)

    with pytest.raises(ModelRefused, match="loss keeps something"):
        small.but(loss=Late(), checkpoints=0).train(tmp_path / "trace")
    assert not (tmp_path / "trace" / "manifest.json").exists()


def test_a_loss_that_holds_forgotten_records_is_refused_before_anything_changes(small, tmp_path):
    """It would train on them again; the training had them too, so that its code is known."""
    ids = small.data.ids[:3]
    x, y = small.data.take([0, 1, 2]).tensors

    def remembering(model, batch):
        return helpers_loss(model, batch) + 0.1 * helpers_loss(model, (x, y))

    own = small.but(loss=remembering)
    trace = own.train(tmp_path / "trace")
    with pytest.raises(StillRetained, match="loss, make_model or augment holds 3 rows"):
        own.rewind(trace, ids)
    assert Trace(tmp_path / "trace", key=small.key).manifest.version == trace.manifest.version == 0


def test_late_records_cost_the_end_of_the_training_only(small, tmp_path, same):
    late = {f"patient {i}": 2 for i in range(40)}
    task = small.but(first_epochs=late)
    trace = task.train(tmp_path / "trace")
    early, at_the_end = cost(trace, ["patient 200"]), cost(trace, ["patient 3"])
    assert at_the_end.fraction <= 1 / 3 < 2 / 3 < early.fraction
    done = task.rewind(trace, ["patient 3"])
    fresh = task.train(tmp_path / "fresh", small.without("patient 3"))
    assert same(done.model, fresh.model(task.make_model))


def test_steps_per_epoch_may_differ(small, tmp_path, same):
    task = small.but(steps_per_epoch=(6, 12, 9), first_epochs={"patient 11": 1})
    trace = task.train(tmp_path / "trace")
    assert cost(trace, ["patient 11"]).total == 27
    done = task.rewind(trace, ["patient 11", "patient 12"])
    assert same(
        done.model, task.train(tmp_path / "fresh", small.without("patient 11", "patient 12")).model(task.make_model)
    )


@pytest.mark.parametrize("recipe", ["sgd", "adamw", "limited"])
def test_steps_without_records_do_nothing_in_training_and_replay(small, plain, recipes, recipe, tmp_path, same):
    """More steps than records: many batches are empty, and some become empty by the rewind."""
    few = small.data.take(list(range(30)))
    task = small.but(**plain, data=few, steps_per_epoch=40, smallest_batch=1, recipe=recipes[recipe])
    trace = task.train(tmp_path / "trace")
    ids = [f"patient {i}" for i in range(0, 30, 3)]
    done = task.rewind(trace, ids)
    assert same(done.model, task.train(tmp_path / "fresh", task.without(*ids)).model(task.make_model))


def test_everything_can_be_forgotten(small, tmp_path, same):
    """What is left is the initialisation."""
    trace = small.train(tmp_path / "trace")
    done = small.rewind(trace, list(small.data.ids))
    other = small.but(steps_per_epoch=1, smallest_batch=10_000).train(tmp_path / "other")  # no step does anything
    assert same(done.model, other.model(small.make_model))


class Counter(nn.Module):
    """A network with a buffer that `state_dict` leaves out and that changes what is learned."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)
        self.register_buffer("seen", torch.zeros(()), persistent=False)

    def forward(self, x):
        if self.training:
            self.seen += len(x)
        return self.layer(x) * (1 + self.seen / 1000)


def test_buffers_that_are_not_saved_with_the_model_are_in_the_checkpoints(small, plain, tmp_path):
    task = small.but(**plain | {"make_model": Counter})
    trace = task.train(tmp_path / "trace")
    name = next(n for n in small.data.ids if cost(trace, [n]).restored > 0)
    done = task.rewind(trace, [name])
    fresh = task.train(tmp_path / "fresh", small.without(name)).model(Counter)
    assert torch.equal(done.model.seen, fresh.seen)
    assert torch.equal(done.model.layer.weight, fresh.layer.weight)


def test_no_file_of_the_old_checkpoints_is_left(small, snapshot, tmp_path):
    """By name and by content; the kept ones are those from before the first use."""
    trace = small.train(tmp_path / "trace")
    name = next(n for n in small.data.ids if 0 < cost(trace, [n]).restored < trace.checkpoints[-1])
    was, before = trace.manifest, snapshot(tmp_path / "trace")
    done = small.rewind(trace, [name])
    kept = {file.digest for file in was.checkpoints if file.step <= done.cost.first_use}
    spoilt = {file.digest for file in was.files} - kept
    after = snapshot(tmp_path / "trace")
    assert kept
    assert len(spoilt) > 2
    assert spoilt <= set(before.values())
    assert not spoilt & set(after.values())
    assert set(after) == {"manifest.json"} | {file.name for file in trace.manifest.files}


def test_what_a_rewind_cut_off_before_its_last_step_left_is_deleted_on_opening(small, snapshot, tmp_path, monkeypatch):
    trace = small.train(tmp_path / "trace")
    with monkeypatch.context() as patch:
        patch.setattr("expunge.trace.store.Folder.tidy", lambda self, manifest: None)
        small.rewind(trace, ["patient 7"])
    old = [name for name in snapshot(tmp_path / "trace") if name.startswith("v0-")]
    assert "v0-final.pt" in old
    Trace(tmp_path / "trace", key=small.key)
    left = set(snapshot(tmp_path / "trace"))
    assert left == {"manifest.json"} | {file.name for file in trace.manifest.files}


@pytest.mark.parametrize("verb", ["train", "rewind"])
def test_an_interrupted_run_goes_on_bit_for_bit(small, verb, tmp_path, same, snapshot, monkeypatch):
    """Saved after every step, interrupted in the middle: the second call takes the rest of the steps only."""
    monkeypatch.setattr(state, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(state, "SHARE", 0.0)
    task = small
    reference = task.train(tmp_path / "reference")
    total = 36
    if verb == "rewind":
        trace = task.train(tmp_path / "trace")
        total = cost(trace, ["patient 4"]).steps
        task.rewind(reference, ["patient 4"])

    def run():
        return task.train(tmp_path / "trace") if verb == "train" else task.rewind(trace, ["patient 4"])

    before = snapshot(tmp_path / "trace") if verb == "rewind" else {}
    with pytest.raises(KeyboardInterrupt), interrupted(20):
        run()
    now = snapshot(tmp_path / "trace")
    assert before.items() <= now.items()
    assert "unfinished.state" in now
    with interrupted() as rest:
        run()
    assert rest.calls == total - 20
    assert "unfinished.state" not in snapshot(tmp_path / "trace")
    finished = Trace(tmp_path / "trace", key=small.key)
    assert same(finished.model(task.make_model), reference.model(task.make_model))
    assert [f.digest for f in finished.manifest.checkpoints] == [f.digest for f in reference.manifest.checkpoints]


def test_an_interrupted_rewind_can_be_given_up_for_another(small, tmp_path, same, snapshot, monkeypatch):
    """What the first one left is neither taken up nor kept."""
    monkeypatch.setattr(state, "SAVE_EVERY", 0.0)
    monkeypatch.setattr(state, "SHARE", 0.0)
    task = small
    trace = task.train(tmp_path / "trace")
    with pytest.raises(KeyboardInterrupt), interrupted(20):
        task.rewind(trace, ["patient 4"])
    done = task.rewind(trace, ["patient 9"])
    fresh = task.train(tmp_path / "fresh", small.without("patient 9"))
    assert same(done.model, fresh.model(task.make_model))
    assert set(snapshot(tmp_path / "trace")) == {"manifest.json"} | {file.name for file in trace.manifest.files}


def test_a_rewind_that_fails_leaves_the_trace_as_it_was(small, tmp_path, monkeypatch):
    task = small
    trace = task.train(tmp_path / "trace")
    manifest = trace.manifest
    with pytest.raises(NonFinite), interrupted(scale=float("nan")):
        task.rewind(trace, ["patient 7"])
    assert trace.manifest == manifest
    for file in manifest.files:
        trace.folder.read(file)
    assert task.rewind(trace, ["patient 7"]).cost == task.rewind(task.train(tmp_path / "other"), ["patient 7"]).cost


def test_a_rewind_yields_a_certificate_that_verifies(small, tmp_path):
    done = small.rewind(small.train(tmp_path / "trace"), ["patient 7"])
    certificate = ex.issue(done.record, released=done.model, asked=ex.Budget(epsilon=0.1, delta=1e-6))
    ex.verify(certificate, weights=done.model)
    assert certificate.claim.kind is ex.Kind.EXACT
    assert certificate.mechanism == ex.Replay(shards=1)
    changed = copy.deepcopy(done.model)
    with torch.no_grad():
        next(changed.parameters())[0] += 1
    with pytest.raises(ex.errors.WeightsMismatch):
        ex.verify(certificate, weights=changed)


@pytest.mark.skipif(os.name != "posix", reason="file modes are those of POSIX")
def test_all_files_are_private(small, tmp_path):
    trace = small.but(checkpoints=2).train(tmp_path / "trace")
    small.but(checkpoints=2).rewind(trace, ["patient 7"])
    files = list((tmp_path / "trace").iterdir())
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    assert stat.S_IMODE((tmp_path / "trace").stat().st_mode) == 0o700


def test_no_name_and_no_content_of_a_record_is_in_the_clear(small, tmp_path):
    trace = small.train(tmp_path / "trace")
    small.rewind(trace, ["patient 7"])
    assert not any(b"patient" in path.read_bytes() for path in (tmp_path / "trace").iterdir())


def test_without_a_key_a_fresh_one_is_made_and_kept(small, tmp_path, same):
    task = small.but(key=None)
    first, second = task.train(tmp_path / "a"), task.train(tmp_path / "b")
    assert first.key != second.key
    assert not same(first.model(task.make_model), second.model(task.make_model))
    again = Trace(tmp_path / "a")
    assert again.key == first.key
    done = task.rewind(again, ["patient 1"])
    assert same(done.model, first.model(task.make_model))


def test_global_coins_modes_and_switches_are_left_as_they_were(small, tmp_path):
    before, switch = torch.get_rng_state(), torch.are_deterministic_algorithms_enabled()
    trace = small.train(tmp_path / "trace")
    done = small.rewind(trace, ["patient 7"])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.are_deterministic_algorithms_enabled() is switch
    assert all(p.grad is None for p in done.model.parameters())


def test_the_model_does_not_depend_on_where_the_checkpoints_are(small, tmp_path, same):
    models = [
        small.but(checkpoints=c).train(tmp_path / str(i)).model(small.make_model) for i, c in enumerate((0, 3, (7, 20)))
    ]
    assert same(models[0], models[1])
    assert same(models[0], models[2])


def test_storage_is_what_the_files_take_and_a_limit_is_kept(small, tmp_path):
    large = small.but(checkpoints=8).train(tmp_path / "large")
    assert len(large.checkpoints) == 8
    paths = [tmp_path / "large" / file.name for file in large.manifest.files]
    assert large.storage == sum(path.stat().st_size for path in paths)
    each = max(file.size for file in large.manifest.checkpoints)
    limited = small.but(checkpoints=8, storage=4 * each).train(tmp_path / "limited")
    assert 0 < len(limited.checkpoints) <= 4
    assert sum(file.size for file in limited.manifest.checkpoints) <= 4 * each


def test_expected_steps_is_the_average_cost_over_the_records(small, tmp_path):
    """Over one key it is close to the average over all keys."""
    trace = small.but(checkpoints=5).train(tmp_path / "trace")
    average = sum(cost(trace, [name]).steps for name in small.data.ids) / 240
    assert trace.expected_steps() == pytest.approx(average, abs=4 * 3.5 / 240**0.5)
    assert trace.expected_steps(10) > trace.expected_steps()


def test_a_folder_of_strings_is_a_path_too(small, tmp_path):
    assert small.train(str(tmp_path / "trace")).folder.path == Path(tmp_path / "trace")
