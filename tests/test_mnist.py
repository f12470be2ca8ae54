"""A real task from the trained model to a verified certificate, through the command line."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import expunge as ex
from commands import run
from expunge.training.task_module import module_of

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("EXPUNGE_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="no MNIST under EXPUNGE_DATA or ../shared/data")
def test_mnist_goes_through_unlearn_to_a_verified_certificate(tmp_path: Path):
    command = [sys.executable, "-m", "expunge.cli", "unlearn", str(ROOT / "examples" / "mnist.py") + ":task"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--unlearner", "gradient_clipping", "--epochs", "1", "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "EXPUNGE_DATA": str(DATA)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    summary = json.loads(done.stdout)
    assert summary["epsilon"] <= 1
    assert summary["accuracy"]["released"]["held_out"] > 0.5


@pytest.mark.long
@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="no MNIST under EXPUNGE_DATA or ../shared/data")
@pytest.mark.parametrize("mechanism", ["gradient_clipping", "model_clipping", "output_perturbation", "retrain"])
def test_every_mechanism_takes_mnist_to_a_verified_certificate_at_default_settings(mechanism: str, tmp_path: Path):
    command = [sys.executable, "-m", "expunge.cli", "unlearn", str(ROOT / "examples" / "mnist.py") + ":task"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--unlearner", mechanism, "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "EXPUNGE_DATA": str(DATA)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    assert json.loads(done.stdout)["accuracy"]["released"]["held_out"] > 0.7


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The example without data at hand, and two small files as a mirror has them."""
    module = module_of(str(ROOT / "examples" / "mnist.py"))
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in (("images-idx3", bytes(16) + bytes(2 * 784)), ("labels-idx1", bytes(8) + bytes([3, 4]))):
        file = mirror / f"train-{name}-ubyte.gz"
        file.write_bytes(gzip.compress(content))
        monkeypatch.setitem(module.SHA256, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(module, "MIRRORS", ((tmp_path / "gone").as_uri(), mirror.as_uri()))
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path / "nothing"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return module


def test_without_the_data_they_are_fetched_once(example, tmp_path: Path):
    images, labels = example.read("train")
    assert images.shape == (2, 28, 28)
    assert labels.tolist() == [3, 4]
    for file in (tmp_path / "mirror").iterdir():
        file.unlink()
    assert example.read("train")[1].tolist() == [3, 4]


def test_a_mirror_that_gives_another_file_is_not_believed(example, tmp_path: Path):
    wrong = tmp_path / "mirror" / "train-labels-idx1-ubyte.gz"
    wrong.write_bytes(gzip.compress(bytes(8) + bytes([3, 5])))
    with pytest.raises(ex.errors.TaskError, match="no mirror gave the official file"):
        example.read("train")
    assert [file.name for file in (tmp_path / "cache").rglob("*") if file.is_file()] == ["train-images-idx3-ubyte.gz"]


def test_without_data_and_network_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("EXPUNGE_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # where nobody answers
    done = run("unlearn", f"{ROOT / 'examples' / 'mnist.py'}:task", "--out", "out", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("refused: no MNIST: set EXPUNGE_DATA to a folder that holds mnist/")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()
