"""The comparison of all unlearners on one request, on a small set."""

import importlib
import json
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor

import expunge as ex

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
OURS = ("compared", "paper", "comparison")


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


def rows() -> tuple[ex.Examples, ex.Examples]:
    data = load_digits()
    x, y = torch.as_tensor(data.data / 16).float(), torch.as_tensor(data.target)
    return ex.Examples(x[:1400], y[:1400]), ex.Examples(x[1400:], y[1400:])


@pytest.fixture(scope="module")
def setting(ours):
    sets = ours("compared.sets")
    return sets.Setting(
        name="Adult", rows=rows, width=64, classes=10, make_model=partial(sets.network, 64, 16, 10),
        recipe=ex.Recipe(learning_rate=0.2, batch_size=64), features=Tensor.double, provenance="pixels", epochs=5,
        recovery_epochs=1, wide=128, source="pixels",
    )  # fmt: skip


@pytest.fixture(scope="module")
def found(ours, setting):
    return ours("comparison").run(setting, 0)


def test_what_is_forgotten_is_not_retained_and_the_canaries_have_wrong_labels(ours, setting):
    case = ours("compared.sets").Case(setting, *rows(), 1)
    names = [set(part.ids) for part in (case.retain, case.candidates)]
    assert not names[0] & names[1]
    assert set(case.forget.ids) < names[1]
    assert set(case.learned.ids) == names[0] | set(case.forget.ids)
    own = dict(zip(case.train.ids, case.train.tensors[1].tolist(), strict=True))
    wrong = [
        own[name] != label for name, label in zip(case.candidates.ids, case.candidates.tensors[1].tolist(), strict=True)
    ]
    assert wrong == [k < case.canaries for k in range(len(wrong))]
    assert not set(case.ordinary.ids) & set(case.candidates.ids[: case.canaries])


def test_another_seed_is_another_split_and_other_coins(ours, setting):
    one, same, other = (ours("compared.sets").Case(setting, *rows(), seed) for seed in (0, 0, 1))
    assert one.forget.ids == same.forget.ids
    assert one.forget.ids != other.forget.ids


def test_every_unlearner_is_certified_as_what_it_is(found):
    kinds = {name: (row["kind"], row.get("epsilon")) for name, row in found["unlearners"].items()}
    exact = ("retrain", "retrain_shortly", "grid_ridge", "replay", "shards")
    assert {name for name, (kind, _) in kinds.items() if kind == "exact"} == set(exact)
    assert {name for name, (kind, _) in kinds.items() if kind == "none"} == {"nothing", "null_start"}
    noisy = [epsilon for kind, epsilon in kinds.values() if kind == "epsilon_delta"]
    assert len(noisy) == 6
    assert all(0.99 < epsilon <= 1.0 for epsilon in noisy)


def test_unlearners_that_keep_something_say_how_much_and_the_others_nothing(found):
    keeps = {name for name, row in found["unlearners"].items() if row["kept"] > 0}
    assert keeps == {"grid_ridge", "measured_residual", "replay", "shards"}
    assert all(row["one_row"] > 0 for name, row in found["unlearners"].items() if name in keeps)


def test_unlearners_without_noise_classify_and_noisy_ones_with_one_epoch_are_above_chance(found):
    test = {name: row["accuracy"]["test"] for name, row in found["unlearners"].items()}
    assert all(test[name] > 0.75 for name in ("nothing", "retrain", "grid_ridge", "measured_residual", "replay"))
    assert all(accuracy > 0.3 for accuracy in test.values())


def test_guessing_shows_a_model_that_tells_and_not_one_that_never_saw(ours, setting):
    sets, measures = ours("compared.sets"), ours("compared.measures")
    case = sets.Case(replace(setting, epochs=1), *rows(), 0)
    y = case.candidates.tensors[1]
    members = case.members

    def telling(asked: Tensor) -> Tensor:
        sure = torch.nn.functional.one_hot(y[: len(asked)], 10).double()
        return sure * torch.where(members[: len(asked)], 9.0, 0.0)[:, None]

    def bound(seen):
        return measures.read(seen).epsilon(delta=1e-5, confidence=0.95)

    assert measures.guessing(case, telling)["auc"] == 1.0
    assert bound(measures.guessing(case, telling)) > 10
    honest = measures.guessing(case, case.trained(case.retain, 4).model)
    assert bound(honest) == 0.0
    assert bound({"canaries": 900, "guesses": 90, "correct": 71}) == pytest.approx(14.98, abs=0.01)
    assert 0.2 < honest["auc"] < 0.8


def test_two_worlds_stay_below_what_is_proven(found):
    seen = {name: row["worlds"] for name, row in found["unlearners"].items() if row["worlds"] is not None}
    assert set(seen) == {
        "gradient_clipping", "scheduled_gradient_clipping", "model_clipping", "output_perturbation", "measured_residual",
    }  # fmt: skip
    assert all(bound <= 1.0 for bound in seen.values())
    assert min(seen["output_perturbation"], seen["measured_residual"]) > 0.9


def test_the_page_has_a_line_for_every_unlearner_and_a_figure(ours, found, tmp_path):
    page = ours("compared.page")
    (tmp_path / "comparison.md").write_text(f"before\n{page.START}\nold\n{page.END}\nafter\n")
    for seed in (0, 1):
        (tmp_path / f"adult-{seed}.json").write_text(json.dumps(found | {"seed": seed}))
    page.write_page(tmp_path, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    lines = [line for line in text.splitlines() if line.startswith("| ") and "---" not in line]
    assert len(lines) == 1 + len(found["unlearners"])
    assert any(line.startswith("| exact head | exact | ") for line in lines)
    assert (tmp_path / "comparison.svg").read_text().startswith("<?xml")


def test_what_is_there_is_not_run_again(ours, found, tmp_path, monkeypatch):
    comparison = ours("comparison")
    for seed in (0, 1, 2):
        (tmp_path / f"adult-{seed}.json").write_text(json.dumps(found))
    monkeypatch.setattr(comparison, "run", lambda *_: pytest.fail("was run"))
    monkeypatch.setattr(comparison, "write_page", lambda results: None)
    monkeypatch.setattr(sys, "argv", ["comparison.py", "--only", "Adult", "--results", str(tmp_path)])
    comparison.main()


def test_one_unlearner_can_be_run_again_and_the_others_stay(ours, setting, found, tmp_path, monkeypatch):
    comparison = ours("comparison")
    path = tmp_path / "adult-0.json"
    changed = {name: row | {"seconds": -1.0} for name, row in found["unlearners"].items()}
    path.write_text(json.dumps(found | {"unlearners": changed}))
    monkeypatch.setattr(comparison, "SETS", {"Adult": setting})
    monkeypatch.setattr(comparison, "write_page", lambda results: None)
    command = ["comparison.py", "--only", "Adult", "--again", "grid_ridge", "--results", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", command)
    comparison.main()
    new = json.loads(path.read_text())["unlearners"]
    assert {name for name, row in new.items() if row["seconds"] > 0} == {"grid_ridge"}
    assert new["grid_ridge"]["accuracy"] == found["unlearners"]["grid_ridge"]["accuracy"]
    assert new["grid_ridge"]["features"] == 64 + 128
    assert not (tmp_path / "adult-1.json").exists()
