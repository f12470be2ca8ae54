"""The paper's recipes: data files are checked, and the settings are those that the specification of the code gives."""

import gzip
import importlib.util
import json
import sys
from math import sqrt
from pathlib import Path

import pytest
import torch

from expunge import GradientClipping, guarantee

PAPER = Path(__file__).parents[2] / "benchmarks" / "paper"


def load(name, monkeypatch):
    spec = importlib.util.spec_from_file_location(name, PAPER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def data(monkeypatch):
    return load("data", monkeypatch)


@pytest.fixture
def recipes(monkeypatch):
    return load("recipes", monkeypatch)


def write(path, shape, *, cut=0):
    head = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    body = bytes(k % 251 for k in range(torch.Size(shape).numel()))
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(gzip.compress((head + body)[: len(head + body) - cut], compresslevel=1))


def test_a_missing_file_is_named_with_the_remedy(data, tmp_path):
    with pytest.raises(data.DataError, match=r"train-images-idx3-ubyte\.gz is missing: set EXPUNGE_DATA"):
        data.mnist(tmp_path)


def test_a_truncated_gzip_file_is_named(data, tmp_path):
    path = tmp_path / "part.gz"
    write(path, (3, 2, 2))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(data.DataError, match=r"part\.gz is not a whole gzip file"):
        data._idx(path, (3, 2, 2))


@pytest.mark.parametrize(("shape", "cut"), [((3, 2, 2), 1), ((3, 2, 3), 0), ((4, 2, 2), 0)])
def test_bytes_of_another_shape_are_refused(data, tmp_path, shape, cut):
    write(tmp_path / "part.gz", shape, cut=cut)
    with pytest.raises(data.DataError, match=r"does not hold bytes of shape \(3, 2, 2\)"):
        data._idx(tmp_path / "part.gz", (3, 2, 2))


def test_an_idx_file_is_read_as_it_was_written(data, tmp_path):
    write(tmp_path / "part.gz", (3, 2, 2))
    assert data._idx(tmp_path / "part.gz", (3, 2, 2)).flatten().tolist() == list(range(12))


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


def test_every_cell_as_proven_proves_one_and_output_perturbation_as_published_three_quarters(recipes):
    cells = recipes.mnist_cells()
    assert len({(c.method, c.reading, c.setting) for c in cells}) == len(cells)
    for cell in cells:
        if cell.reading == "proven":
            assert guarantee(cell.mechanism, delta=1e-5).epsilon == pytest.approx(1, abs=1e-9)
            assert guarantee(cell.mechanism, delta=1e-5).epsilon <= 1
        if cell.reading == "published" and cell.method == "output_perturbation":
            assert guarantee(cell.mechanism, delta=1e-5).epsilon == pytest.approx(0.751, abs=1e-3)
        if isinstance(cell.mechanism, GradientClipping) and cell.reading == "published":
            assert cell.mechanism.mu() == pytest.approx(sqrt(2), rel=1e-9)


def test_the_network_is_that_of_the_paper(recipes):
    assert sum(p.numel() for p in recipes.mlp().parameters()) == 3985


@pytest.mark.long
def test_a_cell_computed_again_lies_within_its_stored_interval(data, recipes, monkeypatch):
    """Retraining for one epoch, all eight seeds, against the committed result."""
    run = load("run", monkeypatch)
    page = load("page", monkeypatch)
    if not (data.folder() / "mnist").is_dir():
        pytest.skip("no MNIST under EXPUNGE_DATA or ../shared/data")
    stored = json.loads((PAPER / "results" / "mnist" / "retrain-exact-tuned-1.json").read_text())
    cell = next(c for c in recipes.mnist_cells() if c.method == "retrain")
    found = run.Experiment(data.mnist(), first_seed=0, device="cpu").run(cell, recipes.tuned_retraining(), 1)
    for metric in ("validation", "test"):
        mean, half = page.interval(stored["accuracy"]["fresh"][metric])
        assert abs(page.interval(found["fresh"][metric])[0] - mean) <= half
