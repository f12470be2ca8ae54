"""`make gpu-check`, on the device that is there, and where there is none."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from performance import gpu

    yield gpu
    for name in [name for name in sys.modules if name.split(".")[0] == "performance"]:
        del sys.modules[name]


def test_every_row_is_measured_on_the_device_that_is_there(gpu):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = gpu.rows(device, small=True)
    assert [row.ours > 0 for row in rows] == [True] * 3
    assert all(device in row.work for row in rows)


def test_noise_that_differs_on_the_device_is_caught(gpu, monkeypatch):
    real = gpu.Noise.add_
    calls = []

    def scaled(self, theta, **how):
        calls.append(theta)
        return real(self, theta, **how).mul_(1 + 1e-9 * (len(calls) % 2))

    monkeypatch.setattr(gpu.Noise, "add_", scaled)
    with pytest.raises(AssertionError, match="away from that of the CPU"):
        gpu.same_noise("cpu", 10_000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_nothing_is_a_pass():
    found = subprocess.run(
        [sys.executable, "-m", "performance", "gpu"], cwd=BENCHMARKS, capture_output=True, text=True, check=False
    )
    assert found.returncode == 1
    assert "nothing was checked" in found.stderr
