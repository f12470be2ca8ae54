"""A real task from the trained model to a verified certificate, through the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import expunge as ex

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("EXPUNGE_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="no MNIST under EXPUNGE_DATA or ../shared/data")
def test_mnist_goes_through_unlearn_to_a_verified_certificate(tmp_path: Path):
    command = [sys.executable, "-m", "expunge.cli", "unlearn", str(ROOT / "examples" / "mnist.py") + ":task"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "out"), "--epochs", "1", "--json"],
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
        [*command, "--out", str(tmp_path / "out"), "--mechanism", mechanism, "--json"],
        capture_output=True, text=True, check=False, env={**os.environ, "EXPUNGE_DATA": str(DATA)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")
    assert json.loads(done.stdout)["accuracy"]["released"]["held_out"] > 0.7
