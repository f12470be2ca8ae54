"""The paper's experiments: settings are those that the specification of its code gives, and a run can be continued."""

import json
from math import sqrt

import pytest
import torch
from torch import nn

from expunge import guarantee
from expunge.replicates import rotations


@pytest.fixture
def recipes(paper):
    return paper("recipes")


@pytest.mark.parametrize(
    ("setting", "steps"),
    [
        ((0.01, 10, 1e-4, 750), 6), ((0.01, 100, 1e-4, 10), 1), ((0.1, 10, 0.001, 50), 10),
        ((20, 10, 0.01, 50), 11), ((1, 1, 0.001, 50), 93),
    ],
)  # fmt: skip
def test_the_number_of_noisy_steps_is_the_papers_rule(recipes, setting, steps):
    assert recipes.paper_steps(*setting) == steps


def test_the_published_noise_of_gradient_clipping_is_truly_6_57(recipes):
    """And it is the vector of the specification: 0.0772563 for (0.1, 10, 0.001, 50), 0.2567898 for figure 2."""
    first = recipes.published_gradient_clipping(0.1, 10, 0.001, 50)
    second = recipes.published_gradient_clipping(20, 10, 0.01, 50)
    assert (first.noise_std, second.noise_std) == (
        pytest.approx(0.0772563, abs=1e-7),
        pytest.approx(0.2567898, abs=1e-7),
    )
    assert guarantee(first, delta=1e-5).epsilon == pytest.approx(6.572970, abs=1e-6)


STUDIES = ["mnist", "cifar10", "features10", "features100"]


@pytest.mark.parametrize("study", STUDIES)
def test_every_cell_as_proven_proves_its_target_and_output_perturbation_as_published_three_quarters(studies, study):
    cells = [job.cell for job in studies.STUDIES[study].jobs()] + studies.configurations().get(study, [])
    assert {c.method for c in cells} >= {"retrain", "gradient_clipping", "model_clipping", "output_perturbation"}
    for cell in {(c.method, c.reading, c.setting, c.target): c for c in cells}.values():
        if cell.reading == "exact":
            continue
        found = guarantee(cell.mechanism, delta=1e-5).epsilon
        if cell.reading == "proven":
            assert cell.target * (1 - 1e-6) <= found <= cell.target
        elif cell.method == "output_perturbation":
            assert found == pytest.approx(0.751, abs=1e-3)
        elif cell.method == "gradient_clipping":
            assert cell.mechanism.mu() == pytest.approx(sqrt(2 * cell.target), rel=1e-9)
            assert found == pytest.approx({0.1: 1.760, 1.0: 6.573, 10.0: 28.373}[cell.target], abs=1e-3)


@pytest.mark.parametrize("study", STUDIES)
def test_jobs_have_names_of_their_own_and_are_measured_at_their_end(studies, study):
    for jobs in (studies.STUDIES[study].jobs(), studies.STUDIES[study].quick()):
        assert len({job.name for job in jobs}) == len(jobs) > 1
        assert all(max(job.measured) == job.epochs for job in jobs)


@pytest.mark.parametrize(
    ("study", "weights"), [("mnist", 3985), ("cifar10", 20042), ("features10", 17802), ("features100", 20772)]
)
def test_the_networks_are_those_of_the_paper(studies, study, weights):
    assert sum(p.numel() for p in studies.STUDIES[study].make_model().parameters()) == weights


@pytest.fixture
def tiny_study(studies, data, paper, monkeypatch, tmp_path):
    """Random pictures, few enough to run all jobs."""
    coins = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (1300, 4, 4), dtype=torch.uint8, generator=coins)
    labels = (pictures[:, 0, 0] > 127).long()
    held = data.DataSet(pictures[:1000], labels[:1000], pictures[1000:], labels[1000:], 0.5, 0.3)
    cells = [studies.recipes.retraining(), *studies.recipes.gradient_clipping(0.01, 10.0, 1e-4, 750.0)]
    how = studies.recipes.Training("paper", learning_rate=0.5)
    jobs = [studies.recipes.Job(cell, how, 3, (1, 3)) for cell in cells]
    monkeypatch.setattr(paper("experiment"), "CACHE", tmp_path / "cache")
    return studies.Study(
        "tiny", lambda: held, lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), rotations,
        original_epochs=2, epochs=3, jobs=lambda: jobs, quick=lambda: jobs, tuning=(1, 2),
    )  # fmt: skip


@pytest.fixture
def tiny(tiny_study, paper, tmp_path):
    """Run the small study."""
    study, run, experiment = tiny_study, paper("run"), paper("experiment")

    def go(seeds, *, block=2, **options):
        blocks = [range(first, min(first + block, seeds)) for first in range(0, seeds, block)]
        ran = []

        def make(own):
            made = experiment.Experiment(study, study.data(), own, device="cpu", **options)
            whole = made.run
            made.run = lambda job: ran.append((job.name, own)) or whole(job)
            return made

        run.run_study(study.jobs(), make, blocks, tmp_path / "results")
        return ran, {p.stem: json.loads(p.read_text()) for p in (tmp_path / "results").glob("*.json")}

    return go


def test_a_second_call_runs_nothing_and_more_seeds_run_only_the_new_ones(tiny):
    ran, found = tiny(2)
    assert len(ran) == len(found) == 3
    assert tiny(2)[0] == []
    ran, more = tiny(5)
    assert [own for _, own in ran] == [(2, 3)] * 3 + [(4,)] * 3
    for name, cell in more.items():
        assert cell["seeds"] == [0, 1, 2, 3, 4]
        for start, metrics in cell["accuracy"].items():
            for metric, curve in metrics.items():
                assert {epoch: len(values) for epoch, values in curve.items()} == {"1": 5, "3": 5}
                assert curve["3"][:2] == found[name]["accuracy"][start][metric]["3"]


def test_a_result_tells_how_it_came_about(tiny):
    _, found = tiny(2)
    for name, cell in found.items():
        assert set(cell["accuracy"]) == ({"fresh"} if name.startswith("retrain") else {"trained", "null"})
        (block,) = cell["blocks"]
        assert block["seeds"] == [0, 1]
        assert block["seconds"] > 0
        assert block["versions"]["torch"] == torch.__version__.partition("+")[0]
    proven = next(c for n, c in found.items() if "-proven-" in n)
    assert proven["proven_epsilon"]["retrained"] == pytest.approx(1, abs=1e-6)


def test_a_result_tells_which_seeds_were_run_in_mixed_precision(tiny):
    tiny(1)
    _, found = tiny(2, autocast=torch.bfloat16)
    for cell in found.values():
        assert [(b["seeds"], b.get("autocast")) for b in cell["blocks"]] == [([0], None), ([1], "torch.bfloat16")]


def test_results_from_a_shortened_original_training_are_not_taken_for_whole_ones(tiny):
    tiny(1, original_epochs=1)
    ran, found = tiny(1)
    assert {name.partition("-")[0] for name, _ in ran} == {"gradient_clipping"}  # retraining has no original
    assert {c["original_epochs"] for n, c in found.items() if "clipping" in n} == {2}


def test_an_interrupted_run_leaves_whole_seeds_only(tiny, paper, monkeypatch):
    def interrupted(device):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(paper("run"), "environment", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tiny(2)
    assert tiny(2)[1]["retrain-exact-paper-3"]["seeds"] == [0, 1]


@pytest.fixture
def tuned(tiny_study, paper, tmp_path, monkeypatch):
    """Compare trainings by their names on the small study; the result, and which of them were run."""
    tune, recipes, experiment = paper("tune"), paper("recipes"), paper("experiment")
    ran = []
    whole = tune.compare
    monkeypatch.setattr(tune, "compare", lambda *a: ran.append((a[2].name, a[1].method)) or whole(*a))

    def go(rates, *, seeds=(100, 101), budgets=(1, 2), **options):
        ran.clear()
        made = experiment.Experiment(tiny_study, tiny_study.data(), seeds, device="cpu", **options)
        trainings = [recipes.Training(name, learning_rate=rate) for name, rate in rates.items()]
        cells = [job.cell for job in tiny_study.jobs() if job.cell.reading != "published"]
        tune.tune(made, cells, trainings, budgets, tmp_path / "tuning.json")
        return list(ran), json.loads((tmp_path / "tuning.json").read_text())

    return go


def test_tuning_compares_every_training_with_every_method_and_computes_nothing_twice(tuned):
    both = ["retrain", "gradient_clipping"]
    ran, found = tuned({"low": 0.1, "high": 0.5})
    assert ran == [(name, method) for name in ("low", "high") for method in both]
    assert [(r["training"]["name"], r["method"]) for r in found["rows"]] == ran
    assert all({b: len(v) for b, v in r["validation"].items()} == {"1": 2, "2": 2} for r in found["rows"])
    ran, more = tuned({"low": 0.1, "high": 0.7})  # a training of the same name that is another one
    assert ran == [("high", method) for method in both]
    assert more["rows"][:4] == found["rows"]
    assert more["rows"][4]["validation"] != found["rows"][2]["validation"]
    assert tuned({"low": 0.1}, budgets=(3,))[0] == [("low", method) for method in both]
    assert tuned({"low": 0.1}, budgets=(3,))[0] == []


@pytest.mark.parametrize("other", [{"seeds": (100, 102)}, {"original_epochs": 1}, {"autocast": torch.bfloat16}])
def test_tuning_under_other_conditions_is_not_mixed_into_a_file(tuned, tmp_path, other):
    tuned({"low": 0.1})
    before = (tmp_path / "tuning.json").read_text()
    with pytest.raises(ValueError, match=next(iter(other)) + r".* there, .* give another file"):
        tuned({"high": 0.5}, **other)
    assert (tmp_path / "tuning.json").read_text() == before


def test_an_interrupted_tuning_keeps_what_it_compared(tuned, paper, tmp_path, monkeypatch):
    tune = paper("tune")
    whole = tune.compare

    def interrupted(experiment, cell, training, budgets):
        if training.name == "high":
            raise KeyboardInterrupt
        return whole(experiment, cell, training, budgets)

    with monkeypatch.context() as patch:
        patch.setattr(tune, "compare", interrupted)
        with pytest.raises(KeyboardInterrupt):
            tuned({"low": 0.1, "high": 0.5})
    assert {r["training"]["name"] for r in json.loads((tmp_path / "tuning.json").read_text())["rows"]} == {"low"}
    assert tuned({"low": 0.1, "high": 0.5})[0] == [("high", "retrain"), ("high", "gradient_clipping")]


def test_the_trainings_of_the_figures_are_candidates_that_a_committed_file_compared(studies, paper):
    """And on seeds that no figure uses."""
    run = paper("run")
    for study in studies.STUDIES.values():
        for job in study.jobs():
            if job.training.name == "paper":
                continue
            of = study.name if job.training.name == "tuned" else f"private_{job.epochs}"
            held = json.loads((run.RESULTS / f"tuning_{of}.json").read_text())
            own = {k: v for k, v in job.training.to_dict().items() if k != "name"}
            assert own in [{k: v for k, v in r["training"].items() if k != "name"} for r in held["rows"]]
            assert min(held["seeds"]) >= run.SEEDS


@pytest.mark.long
def test_a_job_computed_again_lies_within_its_stored_interval(studies, data, paper):
    """Retraining for one epoch on MNIST, all eight seeds, against the committed result."""
    run, page = paper("run"), paper("page")
    if not (data.folder() / "mnist").is_dir():
        pytest.skip("no MNIST under EXPUNGE_DATA or ../shared/data")
    study = studies.STUDIES["mnist"]
    job = next(job for job in study.jobs() if job.name == "retrain-exact-tuned-1")
    stored = json.loads((run.RESULTS / "mnist" / f"{job.name}.json").read_text())
    experiment = paper("experiment")
    found = experiment.Experiment(study, data.mnist(), range(8), device="cpu").run(job)
    for metric in ("validation", "test"):
        mean, half = page.interval(stored["accuracy"]["fresh"][metric]["1"])
        assert abs(page.interval(found["fresh"][metric][1])[0] - mean) <= half
