"""A run that two workers began goes on with one, two or three, and in a process without a group."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import shared_runs as runs

Worlds = dict[int, list[dict[str, Any]]]
ALIKE = 1e-6
TOTAL = {"noisy": runs.STEPS, "recovery": 2 * (runs.ROWS // runs.BATCH), "retraining": 2 * (runs.ROWS // runs.BATCH)}


@pytest.mark.parametrize("name", runs.STATEFUL)
def test_a_state_of_two_workers_is_gone_on_with_by_one_two_and_three(name: str, worlds: Worlds) -> None:
    verb, kind = name.split()
    for size, found in worlds.items():
        for worker in found:
            wanted = worker[f"{kind} gradients" if verb == "noisy" else f"{verb} {kind}"]
            wanted = wanted["weights"] if isinstance(wanted, dict) else wanted
            again = worker[f"goes on {name}"]
            assert again["calls"] == TOTAL[verb] - runs.STOPPED  # it went on, and did not begin anew
            assert not again["left"]
            assert float((again["weights"] - wanted).abs().max()) <= ALIKE
            if size == 2:
                assert torch.equal(again["weights"], wanted)


@pytest.mark.parametrize("name", [name for name in runs.STATEFUL if name.endswith("plain")])
def test_it_goes_on_in_a_process_that_is_alone(name: str, worlds: Worlds, worlds_folder: Path, tmp_path: Path) -> None:
    shutil.copy(worlds_folder / f"{name}.state", tmp_path)
    again = runs.go_on(name, tmp_path, 0)
    assert again["calls"] == TOTAL[name.split()[0]] - runs.STOPPED
    wanted = worlds[1][0][f"goes on {name}"]["weights"]
    assert float((again["weights"] - wanted).abs().max()) <= ALIKE
