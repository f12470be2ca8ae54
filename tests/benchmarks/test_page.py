"""The page shows what the results hold: the best setting at each budget, single runs and shortened trainings by name."""

import json
import sys

import pytest


def cell(method, reading, accuracy, *, setting="", training="paper", target=1.0, original_epochs=30, study="mnist"):
    held = {
        "study": study, "method": method, "reading": reading, "setting": setting, "training": {"name": training},
        "epochs": 2, "original_epochs": original_epochs, "target": target, "seeds": [0, 1], "blocks": [{"seeds": [0, 1]}],
        "accuracy": {
            start: dict.fromkeys(("test", "validation", "forget"), curve) for start, curve in accuracy.items()
        },
    }  # fmt: skip
    if method == "retrain":
        del held["target"]
        held["original_epochs"] = None
    return held


@pytest.fixture
def page(paper, tmp_path, monkeypatch):
    """Writes results, makes the page, and returns its text."""
    module = paper("page")

    def make(cells, *, before="", claims=None):
        folder = tmp_path / "results"
        for number, held in enumerate(cells):
            path = folder / held["study"] / f"{number}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(held))
        if claims is not None:
            (folder / "claims.json").write_text(json.dumps(claims))
        if before:
            (tmp_path / "README.md").write_text(f"{before}{module.START}old{module.END}behind")
        monkeypatch.setattr(sys, "argv", ["page.py", "--results", str(folder), "--out", str(tmp_path)])
        module.main()
        return (tmp_path / "README.md").read_text()

    make.folder = tmp_path
    return make


RETRAIN = cell("retrain", "exact", {"fresh": {"1": [0.7, 0.7], "2": [0.8, 0.8]}})


def both(trained, null):
    return {"trained": trained, "null": null}


def test_each_budget_shows_the_setting_that_is_best_there(page):
    text = page([
        RETRAIN,
        cell("gradient_clipping", "proven", both({"1": [0.6, 0.6], "2": [0.9, 0.9]}, {"1": [0.1, 0.1], "2": [0.2, 0.2]}), setting="a"),
        cell("gradient_clipping", "proven", both({"1": [0.65, 0.65], "2": [0.8, 0.8]}, {"1": [0.3, 0.3], "2": [0.4, 0.4]}), setting="b"),
    ])  # fmt: skip
    (row,) = (line for line in text.splitlines() if "gradient clipping" in line)
    assert "| 0.650 ± 0.000 / 0.300 ± 0.000 | 0.900 ± 0.000 / 0.200 ± 0.000 |" in row
    assert "| paper | exact | retraining | 2 | 0.700 ± 0.000 | 0.800 ± 0.000 |" in text


def test_other_targets_stay_out_of_the_table_and_get_their_figure(page):
    far = cell("gradient_clipping", "proven", both({"1": [0.9, 0.9]}, {"1": [0.9, 0.9]}), target=10.0)
    text = page([RETRAIN, far])
    assert "gradient clipping" not in text
    assert (page.folder / "figures" / "figure4_mnist.svg").is_file()


def test_a_single_run_has_no_interval_and_says_so(page):
    text = page([cell("retrain", "exact", {"fresh": {"1": [0.7]}})])
    assert "0.700 (one run)" in text


def test_a_shortened_original_training_is_named(page):
    start = both({"1": [0.5, 0.5]}, {"1": [0.5, 0.5]})
    text = page([cell("gradient_clipping", "proven", start, original_epochs=3, study="cifar10")])
    assert "**Shortened:** original training of 3 epochs, not 400." in text
    assert "Shortened" not in page([cell("gradient_clipping", "proven", start, original_epochs=400, study="cifar10")])


def test_what_stands_outside_the_marks_is_kept_and_what_is_inside_replaced(page):
    text = page([RETRAIN], before="# Mine\n")
    assert text.startswith("# Mine\n<!-- tables")
    assert text.endswith("behind")
    assert "old" not in text.partition("<!-- end")[0].partition("-->")[2]


def test_claims_are_shown_with_both_ends(page):
    row = {
        "study": "mnist", "method": "gradient_clipping", "setting": "C0=1", "reading": "published", "steps": 1,
        "noise_std": 0.5, "claimed": 1.004, "true_epsilon": {"retrained": [6.5664, 6.5730], "center": [2.9403, 2.9432]},
    }  # fmt: skip
    text = page([RETRAIN], claims=[row])
    line = "| MNIST | gradient clipping | C0=1 | published | 1 | 0.5 | 1.004 | [6.566, 6.573] | [2.940, 2.943] |"
    assert line in text


def test_every_figure_is_drawn_the_same_twice(page):
    cells = [RETRAIN, cell("gradient_clipping", "proven", both({"1": [0.6, 0.7]}, {"1": [0.6, 0.6]}))]
    page(cells)
    first = (page.folder / "figures" / "mnist.svg").read_bytes()
    page(cells)
    assert (page.folder / "figures" / "mnist.svg").read_bytes() == first


def test_the_papers_own_points_agree_with_its_text(paper):
    points = paper("page").PAPER
    assert dict(map(tuple, points["mnist"]["gradient_clipping"]))[1] == pytest.approx(0.702, abs=5e-4)
    assert dict(map(tuple, points["cifar10"]["gradient_clipping"]))[49] == pytest.approx(0.569, abs=1e-3)
    assert dict(map(tuple, points["features10"]["dp_training"]))[50] == pytest.approx(0.872, abs=5e-4)


def test_runs_in_mixed_precision_are_counted(page):
    mixed = cell("retrain", "exact", {"fresh": {"1": [0.7, 0.7]}})
    assert "Mixed" not in page([mixed])
    mixed["blocks"] = [{"seeds": [0], "autocast": "torch.bfloat16"}, {"seeds": [1]}]
    assert "**Mixed precision** (bfloat16): 1 of 2 runs" in page([mixed])


def test_the_bars_of_two_runs_span_both_and_those_of_more_are_intervals(paper):
    page = paper("page")
    assert page.reach([0.5, 0.7]) == (pytest.approx(0.1), pytest.approx(0.1))
    assert page.reach([0.5]) == (0.0, 0.0)
    half = page.interval([0.5, 0.6, 0.9])[1]
    assert page.reach([0.5, 0.6, 0.9]) == (half, half)
    assert half > 0.4
