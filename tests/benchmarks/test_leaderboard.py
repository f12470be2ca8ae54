"""The leaderboard: five requests, every unlearner of the library, and the page, on a small set."""

import csv
import importlib
import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import expunge as ex
from expunge.unlearners.heuristics import BEHAVIOURAL, HEURISTICS

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OURS = ("compared", "leaders", "paper", "leaderboard")
KINDS = ("random rows", "one row", "a class", "a subgroup", "mislabelled")


def forget_modules():
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS:
            del sys.modules[name]


@pytest.fixture(scope="module")
def ours():
    """Importer of the benchmarks' modules."""
    forget_modules()
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module
    sys.path.remove(str(BENCHMARKS))
    forget_modules()


@pytest.fixture(scope="module")
def rows():
    data = load_digits()
    x, y = torch.as_tensor(data.data / 16).float(), torch.as_tensor(data.target)
    return ex.Examples(x[:1000], y[:1000]), ex.Examples(x[1400:], y[1400:])


@pytest.fixture(scope="module")
def setting(ours, rows):
    sets = ours("compared.sets")
    return sets.Setting(
        name="Adult", rows=lambda: rows, width=64, classes=10, make_model=partial(sets.network, 64, 48, 10),
        recipe=ex.Recipe(learning_rate=0.2, batch_size=64), features=Tensor.double, provenance="pixels", epochs=80,
        wide=64, source="pixels",
    )  # fmt: skip


def posed(ours, setting, rows, kind, seed=0):
    return ours("leaders.requests").Posed(setting, *rows, kind, seed)


def test_every_heuristic_of_the_library_is_there(ours):
    ways = ours("leaders.ways").WAYS
    assert {kind.name for kind in (*HEURISTICS, *BEHAVIOURAL)} < set(ways)
    assert {"nothing", "retrain", "null_start", "grid_ridge", "gradient_clipping"} < set(ways)


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_parts_the_rows_and_another_seed_asks_for_others(ours, setting, rows, kind):
    one, other = (posed(ours, setting, rows, kind, seed) for seed in (0, 1))
    task = one.task
    assert len(task.retain) + len(task.forget) == len(rows[0])
    assert not set(task.retain.ids) & set(task.forget.ids)
    assert set(task.forget.ids) != set(other.task.forget.ids)
    labels = task.forget.tensors[1]
    true = rows[0].tensors[1][sorted(one.chosen.tolist())]
    assert bool((labels != true).all()) if kind == "mislabelled" else torch.equal(labels, true)
    if kind == "a class":
        assert set(labels.tolist()) == {0}
        assert 0 not in task.retain.tensors[1].tolist()
    if kind == "one row":
        assert len(labels) == 1


def test_a_subgroup_is_of_rows_next_to_one_another(ours, setting, rows):
    near, any_rows = (posed(ours, setting, rows, kind).task.forget.tensors[0] for kind in ("a subgroup", "random rows"))
    assert torch.cdist(near, near).mean() < 0.7 * torch.cdist(any_rows, any_rows).mean()


@pytest.fixture(scope="module")
def found(ours, setting, rows, tmp_path_factory):
    """A request of mislabelled rows with some unlearners."""
    board, ways = ours("leaderboard"), ours("leaders.ways").WAYS
    few = ("nothing", "retrain", "grid_ridge", "gradient_clipping", "neggrad_plus", "prune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "WAYS", {name: ways[name] for name in few})
        return board.filled(setting, "mislabelled", 0, tmp_path_factory.mktemp("board") / "one.json", rows)


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


def test_what_a_file_holds_is_not_run_again_and_a_refusal_is_a_row(ours, setting, rows, found, tmp_path, monkeypatch):
    board = ours("leaderboard")
    path = tmp_path / "one.json"
    path.write_text(json.dumps(found))

    def refusing(_posed):
        return ex.unlearners.heuristics.Patching(lowest=5.0, highest=6.0)

    monkeypatch.setattr(board, "WAYS", dict.fromkeys((*found["unlearners"], "new"), refusing))
    again = board.filled(setting, "mislabelled", 0, path, rows)
    assert {name: again["unlearners"][name] for name in found["unlearners"]} == found["unlearners"]
    assert "outside of the box" in again["unlearners"]["new"]["refused"]


def test_the_page_and_the_files_have_a_row_for_every_unlearner(ours, found, tmp_path):
    page = ours("leaders.page")
    (tmp_path / "leaderboard.md").write_text(f"before\n{page.START}\nold\n{page.END}\nafter\n")
    refused = {**found["unlearners"], "scrub": {"refused": "a layer | of another kind"}}
    for seed in (0, 1):
        (tmp_path / f"one-{seed}.json").write_text(json.dumps(found | {"seed": seed, "unlearners": refused}))
    page.write_page(tmp_path, tmp_path)
    text = (tmp_path / "leaderboard.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 1 + len(refused)
    assert any(line.startswith("| scrub | refused | a layer \\| of another kind") for line in lines)
    with (tmp_path / "leaderboard.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["unlearner"] for row in table] == [way for way in page.WAYS if way in refused]
    assert float(next(row for row in table if row["unlearner"] == "prune")["accuracy on forget"]) == 0
    assert len(json.loads((tmp_path / "leaderboard.json").read_text())) == len(refused)


def test_messages_are_counted_words(ours, tmp_path, monkeypatch):
    messages, data = ours("compared.messages"), ours("paper.data")
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
