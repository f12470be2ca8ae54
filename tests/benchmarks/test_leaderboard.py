"""The leaderboard: six requests, every unlearner of the library, many models, and the pages, on a small set."""

import csv
import json
import sys
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import expunge as ex
from expunge.training.unlearned import noiseless_record
from expunge.unlearners.heuristics import BEHAVIOURAL, HEURISTICS
from expunge.unlearners.options import NAMES

KINDS = ("random rows", "one row", "a class", "a subgroup", "mislabelled", "canaries")
KEPT = {"grid_ridge", "measured_residual", "replay", "shards"}


@pytest.fixture(scope="module")
def rows():
    data = load_digits()
    x, y = torch.as_tensor(data.data / 16).float(), torch.as_tensor(data.target)
    return ex.Examples(x[:600], y[:600]), ex.Examples(x[1400:], y[1400:])


@pytest.fixture(scope="module")
def setting(ours, rows):
    sets = ours("leaders.sets")
    return sets.Setting(
        name="Adult", rows=lambda: rows, width=64, classes=10, make_model=partial(sets.network, 64, 48, 10),
        recipe=ex.Recipe(learning_rate=0.2, batch_size=64), features=Tensor.double, provenance="pixels", epochs=80,
        wide=64, source="pixels", residual=1e-6, regularization=1e-2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def hasty(setting):
    """Trained for a moment: what is asked of it does not depend on how well it learned."""
    return replace(setting, epochs=4)


def posed(ours, setting, rows, kind, seed=0):
    return ours("leaders.requests").pose(setting, *rows, kind, seed)


def test_every_unlearner_of_the_library_that_forgets_a_request_is_there(ours):
    ways = ours("leaders.ways").WAYS
    assert {kind.name for kind in (*HEURISTICS, *BEHAVIOURAL)} < set(ways)
    assert set(NAMES) - set(ways) == {"dp_training"}  # whose certificate covers groups fixed before the training
    assert {"nothing", "null_start", "retrain_shortly", "shards"} < set(ways)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_parts_the_rows_and_another_seed_asks_for_others(ours, hasty, rows, kind):
    one, same, other = (posed(ours, hasty, rows, kind, seed) for seed in (0, 0, 1))
    retain, forget = one.parts
    unseen = len(one.candidates) - len(forget) if kind == "canaries" else 0
    assert len(retain) + len(forget) + unseen == len(rows[0])
    assert not set(retain.ids) & set(forget.ids)
    assert forget.ids == same.parts[1].ids
    assert set(forget.ids) != set(other.parts[1].ids)
    own = dict(zip(rows[0].ids, rows[0].tensors[1].tolist(), strict=True))
    wrong = [own[name] != label for name, label in zip(forget.ids, forget.tensors[1].tolist(), strict=True)]
    assert sum(wrong) == len(forget) * (kind == "mislabelled") or (
        int(one.members[:18].sum()) if kind == "canaries" else 0
    )
    if one.mislabelled is not None:
        assert len(one.mislabelled[1]) == sum(wrong)
    if kind == "a class":
        assert set(forget.tensors[1].tolist()) == {0}
        assert 0 not in retain.tensors[1].tolist()
    if kind == "one row":
        assert len(forget) == 1


def test_a_subgroup_is_of_rows_next_to_one_another(ours, hasty, rows):
    near, any_rows = (posed(ours, hasty, rows, kind).parts[1].tensors[0] for kind in ("a subgroup", "random rows"))
    assert torch.cdist(near, near).mean() < 0.7 * torch.cdist(any_rows, any_rows).mean()


def test_canaries_come_first_among_the_candidates_and_have_wrong_labels_whatever_their_coin(ours, hasty, rows):
    one = posed(ours, hasty, rows, "canaries")
    own = dict(zip(rows[0].ids, rows[0].tensors[1].tolist(), strict=True))
    named = zip(one.candidates.ids, one.candidates.tensors[1].tolist(), strict=True)
    assert [own[name] != label for name, label in named] == [k < 18 for k in range(60)]
    assert not set(one.ordinary.ids) & set(one.candidates.ids[:18])
    assert set(one.rows.ids) == set(one.parts[0].ids) | set(one.parts[1].ids)
    x, true = one.mislabelled
    assert all(
        own[rows[0].ids[int((rows[0].tensors[0] == row).all(1).nonzero()[0, 0])]] == y
        for row, y in zip(x, true, strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_generator_of_an_unlearner_is_one_that_chose_the_rows(ours, hasty, rows, kind):
    """Noise from the generator of the coins would follow the coins that the audit guesses."""
    for draw in (0, 1):
        one = replace(posed(ours, hasty, rows, kind), draw=draw)
        asked = {one.coins(use).initial_seed() for use in range(100)}
        for run in (one.run, one.run + 1):
            own = {ex.unlearners.Run(seed=run).generator(use).initial_seed() for use in range(10)}
            assert not asked & own


def test_another_draw_is_another_training_of_the_same_request(ours, hasty, rows):
    one = posed(ours, hasty, rows, "random rows")
    other = replace(one, draw=1)
    assert one.parts[1].ids == other.parts[1].ids
    assert one.run != other.run
    weights = [next(iter(p.task.model.parameters())) for p in (one, replace(one), other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@pytest.fixture(scope="module")
def found(ours, setting, rows, tmp_path_factory):
    """A request of mislabelled rows with some unlearners."""
    few = ["nothing", "retrain", "grid_ridge", "gradient_clipping", "neggrad_plus", "prune"]
    folder = tmp_path_factory.mktemp("board")
    return ours("leaderboard").Set(setting, folder).requested("mislabelled", 0, few)


def test_numbers_say_what_retraining_and_the_untouched_model_are(found):
    seen = {name: one["measured"] for name, one in found["unlearners"].items()}
    assert seen["nothing"]["relearning"] == 0
    assert seen["retrain"]["accuracy on forget"] < 0.3 < seen["retrain"]["true label on forget"]
    assert seen["retrain"]["membership"] > 0.9
    assert seen["prune"]["accuracy on forget"] == 0
    assert seen["grid_ridge"]["relearning"] is None
    kinds = {name: one["kind"] for name, one in found["unlearners"].items()}
    assert kinds == {
        "nothing": "none", "retrain": "exact", "grid_ridge": "exact", "gradient_clipping": "epsilon_delta",
        "neggrad_plus": "none", "prune": "behavioural",
    }  # fmt: skip


@pytest.fixture(scope="module")
def coined(ours, hasty, rows, tmp_path_factory):
    """A request of canaries with all unlearners of which something is proven, and the controls."""
    ways = ours("leaders.ways").WAYS
    heuristics = {kind.name for kind in (*HEURISTICS, *BEHAVIOURAL)} - {"prune"}
    names = [name for name in ways if name not in heuristics and "after" not in name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ours("leaders.measures"), "REPLICATES", 20_000)
        return ours("leaderboard").Set(hasty, tmp_path_factory.mktemp("coined")).requested("canaries", 0, names)


def test_every_unlearner_is_certified_as_what_it_is_and_its_certificate_verified(coined):
    kinds = {name: (one["kind"], one["epsilon"], one["verified"]) for name, one in coined["unlearners"].items()}
    exact = {"retrain", "retrain_shortly", "grid_ridge", "replay", "shards"}
    assert {name for name, (kind, *_) in kinds.items() if kind == "exact"} == exact
    assert {name for name, (kind, *_) in kinds.items() if kind == "none"} == {"nothing", "null_start"}
    noisy = [epsilon for kind, epsilon, _ in kinds.values() if kind == "epsilon_delta"]
    assert len(noisy) == 6
    assert all(0.99 < epsilon <= 1.0 for epsilon in noisy)
    assert all(verified == (kind != "none") for kind, _, verified in kinds.values())


def test_unlearners_that_keep_something_say_how_much_and_what_one_more_row_costs(coined):
    assert {name for name, one in coined["unlearners"].items() if one["kept"]} == KEPT
    assert {name for name, one in coined["unlearners"].items() if one["one row"] is not None} == KEPT


def test_two_worlds_stay_below_what_is_proven(coined):
    seen = {name: one["worlds"] for name, one in coined["unlearners"].items() if one["worlds"] is not None}
    assert seen.keys() == {name for name, one in coined["unlearners"].items() if one["kind"] == "epsilon_delta"}
    assert all(bound <= 1.0 for bound in seen.values())
    assert min(seen["output_perturbation"], seen["measured_residual"]) > 0.8


class Lying:
    """Releases the trained model and calls it retrained."""

    def forget(self, task, *_):
        return ex.Unlearned(task.model, noiseless_record(ex.accounting.Retrain(), task.model))


def test_an_unlearner_that_releases_the_trained_model_as_exact_is_seen_by_its_canaries(
    ours, setting, rows, monkeypatch
):
    requests, ways, board = ours("leaders.requests"), ours("leaders.ways"), ours("leaderboard")
    monkeypatch.setattr(requests, "CANDIDATES", 0.3)
    monkeypatch.setattr(requests, "CANARIES", 0.25)
    monkeypatch.setattr(ways, "chosen", lambda way: way)
    monkeypatch.setitem(ways.WAYS, "nothing", lambda _posed: Lying())
    one = posed(ours, setting, rows, "canaries", 1)
    ran = [board.run(one, name) for name in ("nothing", "retrain_shortly")]
    assert [(r["kind"], r["verified"]) for r in ran] == [("exact", True)] * 2  # no certificate can tell
    lie, honest = (ours("leaders.page")._coined([r]) for r in ran)
    assert lie["canary bound"] > 1.0
    assert lie["canary AUC"][0] > 0.8
    assert honest["canary bound"] == 0.0
    assert ours("leaders.page")._coined(ran[:1] * 3)["canary bound"] < lie["canary bound"]  # three tries are paid for


def said(many, seed, coins, shift):
    """Of 24 models on 40 candidates and 30 other rows; `shift`: of the true class of the candidates whose coin is heads."""
    own = torch.Generator().manual_seed(seed)
    candidates, test = (torch.randn(24, n, 3, generator=own, dtype=torch.float64) for n in (40, 30))
    candidates[..., 0] += shift * torch.as_tensor(coins)
    labels = (torch.zeros(n, dtype=torch.long) for n in (40, 30))
    return many.Said(many.Seen.of(candidates, next(labels), test, next(labels)), np.full((2, 24), 0.75))


def test_many_models_tell_what_was_kept_and_a_null_value_that_is_off(ours):
    many = ours("leaders.many")
    coins = np.random.default_rng(0).random((24, 40)) < 0.5
    fair, other, again, kept = (said(many, seed, coins, shift) for seed, shift in enumerate((0.0, 0.0, 0.0, 4.0)))
    for name, (value, null) in many.measured_of(coins, other, fair, again).items():
        assert value == pytest.approx(null, abs=0.1), name
    knew = many.measured_of(coins, kept, fair, again)
    assert knew["KLOM"][0] > 2 * knew["KLOM"][1]
    assert knew["challenge score"][0] < 0.5 * knew["challenge score"][1]
    assert knew["U-LiRA"][0] > 0.9 > 0.6 > knew["U-LiRA"][1]
    off = many.measured_of(coins, other, fair, kept)  # the second set of "retrained" models has seen the rows
    assert off["KLOM"][1] > 2 * off["KLOM"][0]
    assert off["U-LiRA"][1] > 0.9 > 0.6 > off["U-LiRA"][0]


def test_the_draws_of_many_models_learn_other_candidates_and_the_retrained_ones_none(ours, hasty, rows):
    requests, many = ours("leaders.requests"), ours("leaders.many")
    both = many.Retrained(requests.Drawn(hasty, *rows, "random rows", 0), 2)
    one, other = both.draws
    names = [set(draw.parts[1].ids) for draw in both.draws]
    assert names[0] != names[1]
    assert names[0] | names[1] <= set(one.candidates.ids) == set(posed(ours, hasty, rows, "random rows").parts[1].ids)
    assert one.parts[0].ids == other.parts[0].ids
    assert not set(one.parts[0].ids) & set(one.candidates.ids)
    assert set(one.rows.ids) == set(one.parts[0].ids) | names[0]
    assert [one.candidates.ids[k] for k in both.coins[0].nonzero()[0]] == list(one.parts[1].ids)


@pytest.fixture(scope="module")
def models(ours, hasty, rows, tmp_path_factory):
    """Few models of some unlearners."""
    board, folder = ours("leaderboard"), tmp_path_factory.mktemp("many") / "models"
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "MODELS", 4)
        few = ["nothing", "retrain", "grid_ridge"]
        return board.Set(hasty, folder.parent).compared("random rows", few)


def test_many_models_are_run_and_those_that_keep_something_left_out(models):
    assert models["models"] == 4
    assert models["unlearners"].keys() == {"nothing", "retrain"}
    for one in models["unlearners"].values():
        assert one["KLOM"]["null"] == models["unlearners"]["retrain"]["KLOM"]["null"]


def test_what_a_file_holds_is_not_run_again_and_a_refusal_is_a_row(ours, hasty, rows, found, tmp_path, monkeypatch):
    board = ours("leaderboard")
    (tmp_path / "adult-mislabelled-0.json").write_text(json.dumps(found))
    box = ex.unlearners.heuristics.Patching(lowest=5.0, highest=6.0)
    monkeypatch.setattr(ours("leaders.ways"), "WAYS", dict.fromkeys((*found["unlearners"], "new"), lambda _posed: box))
    again = board.Set(hasty, tmp_path).requested("mislabelled", 0, [*found["unlearners"], "new"])
    assert {name: again["unlearners"][name] for name in found["unlearners"]} == found["unlearners"]
    assert "outside of the box" in again["unlearners"]["new"]["refused"]


def test_the_command_runs_what_is_asked_for(ours, tmp_path, monkeypatch):
    board, asked = ours("leaderboard"), list[tuple]()
    monkeypatch.setattr(board.Set, "requested", lambda own, kind, seed, names: asked.append((kind, seed, len(names))))
    monkeypatch.setattr(board.Set, "compared", lambda own, kind, names: asked.append((kind, len(names))))
    monkeypatch.setattr(board, "write_pages", lambda results: None)

    def called(*words):
        asked.clear()
        monkeypatch.setattr(sys, "argv", ["leaderboard.py", "--results", str(tmp_path), *words])
        board.main()
        return list(asked)

    every = len(board.WAYS)
    spam = called("--only", "SMS spam", "--seeds", "1")
    assert spam == [*((kind, 0, every) for kind in KINDS), ("random rows", every)]
    assert called("--only", "MNIST", "--request", "models") == []
    assert called("--only", "Adult", "--request", "models", "--unlearner", "scrub") == [("random rows", 1)]
    assert called("--page") == []


def test_the_pages_and_the_files_have_a_row_for_every_unlearner(ours, found, coined, models, tmp_path):
    page, tables = ours("leaders.page"), ours("leaders.tables")
    refused = {**found["unlearners"], "scrub": {"refused": "a layer | of another kind"}}
    for name in ("leaderboard.md", "comparison.md"):
        (tmp_path / name).write_text(f"before\n{tables.START}\nold\n{tables.END}\nafter\n")
    for seed in (0, 1):
        (tmp_path / f"adult-mislabelled-{seed}.json").write_text(
            json.dumps(found | {"seed": seed, "unlearners": refused})
        )
        (tmp_path / f"adult-canaries-{seed}.json").write_text(json.dumps(coined | {"seed": seed}))
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "adult-random-rows.json").write_text(json.dumps(models))
    page.write_pages(tmp_path, tmp_path)

    texts = [(tmp_path / name).read_text() for name in ("leaderboard.md", "comparison.md")]
    assert all(text.startswith("before\n") and text.endswith("after\n") and "old" not in text for text in texts)
    lines = [[line for line in text.splitlines() if line.startswith("| ") and "---" not in line] for text in texts]
    assert [len(some) for some in lines] == [1 + len(refused) + 1 + 2, 1 + len(coined["unlearners"])]
    assert any(line.startswith("| scrub | refused | a layer \\| of another kind") for line in lines[0])
    assert any(line.startswith("| grid_ridge | exact | ") for line in lines[1])
    assert (tmp_path / "comparison.svg").read_text().startswith("<?xml")

    with (tmp_path / "leaderboard.csv").open() as file:
        table = {(row["request"], row["unlearner"]): row for row in csv.DictReader(file)}
    assert (
        len(table)
        == len(refused) + 2 + len(coined["unlearners"])
        == len(json.loads((tmp_path / "leaderboard.json").read_text()))
    )
    assert float(table["mislabelled", "prune"]["accuracy on forget"]) == 0
    assert float(table["canaries", "replay"]["kept, bytes"]) > 0
    assert float(table["random rows", "retrain"]["KLOM, null"]) == models["unlearners"]["retrain"]["KLOM"]["null"]


def test_messages_are_counted_words(ours, tmp_path, monkeypatch):
    messages, data = ours("leaders.messages"), ours("paper.data")
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    with pytest.raises(data.DataError, match="SMSSpamCollection is missing"):
        messages.messages()
    (tmp_path / "sms_spam").mkdir()
    (tmp_path / "sms_spam" / "SMSSpamCollection").write_text("ham\tGo go home\nspam\tWIN £5\n")
    with pytest.raises(data.DataError, match="holds 2 messages"):
        messages.messages()
    (tmp_path / "sms_spam" / "SMSSpamCollection").write_text("ham\tGo go home\nspam\tWIN £5\n" * 2787)
    train, test = messages.messages()
    assert (len(train), len(test)) == (4460, 1114)
    row = train.tensors[0][0]
    assert sorted(row[row > 0].tolist()) == pytest.approx([0.6931472, 1.0986123])
