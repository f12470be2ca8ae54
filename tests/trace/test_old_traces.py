"""Traces that an earlier version made: schema-2 is a folder that it left, `test_old_traces.py` of 60 digits.

It was made by `train_traced` with the task of `conftest.py` on the first 60 digits, `checkpoints=[6]` and `KEY`; then
"patient 59" was forgotten. Digests of code and machine are those of where a test runs, as Python and torch are others there.
"""

import shutil
from pathlib import Path

import pytest
import torch

from expunge.errors import StateError
from expunge.trace import Trace, cost
from expunge.trace.engine import Engine, Program, Settings
from expunge.trace.store import read_sealed, write_sealed

FOLDER = Path(__file__).parent / "schema-2"


@pytest.fixture
def task(small, data):
    return small.but(data=data.take(list(range(60))), checkpoints=[6])


@pytest.fixture
def old(task, tmp_path):
    """A copy of the folder, with the code and machine of this place under a new seal."""
    path = Path(shutil.copytree(FOLDER, tmp_path / "old")) / "manifest.json"
    plain = read_sealed(path, task.key)
    program = Program(make_model=task.make_model, loss=task.loss, augment=task.augment)
    engine = Engine(program, task.data, {}, Settings.from_dict(plain["settings"]), task.key)
    write_sealed(path, plain | {"code": engine.code, "machine": engine.machine, "initial": engine.initial}, task.key)
    return Trace(tmp_path / "old", key=task.key)


def test_an_old_trace_opens_and_says_who_takes_part(old, task):
    assert len(old.roster()) == 59
    with pytest.raises(ValueError, match="'patient 59' was forgotten before"):
        cost(old, ["patient 59"])


def test_an_old_trace_replays_from_the_start_bit_for_bit(old, task, same, by_hand, recipes, digest_law):
    """Of the bits that this machine computed all; "patient 1" is used at step 0, so that no checkpoint serves."""
    assert cost(old, ["patient 1"]).restored == 0
    done = task.rewind(old, ["patient 1"])
    rest = task.without("patient 1", "patient 59")
    assert same(done.model, by_hand(rest, recipes["sgd"], law=digest_law))
    assert not same(done.model, by_hand(rest, recipes["sgd"]))  # the new law gives another training


def test_an_old_trace_replays_from_its_checkpoint_and_goes_on_by_its_own_law(old, task, by_hand, recipes, digest_law):
    """The weights of the checkpoint came from another machine, whose last bits may be others. Then once more, as kept now."""
    assert cost(old, ["patient 3"]).restored == 6
    for gone in (["patient 3"], ["patient 3", "patient 14"]):
        done = task.rewind(old, gone[-1:])
        by_other = by_hand(task.without("patient 59", *gone), recipes["sgd"], law=digest_law)
        for name, value in done.model.state_dict().items():
            torch.testing.assert_close(value, by_other.state_dict()[name], rtol=1e-3, atol=1e-4)
        old = Trace(old.folder.path, key=task.key)
        assert (old.manifest.records.name, old.manifest.settings["law"]) == (
            f"v{old.manifest.version}-records.bin",
            "hmac-sha256",
        )
    assert not (old.folder.path / "v1-records.json").exists()


def test_an_old_roster_that_was_altered_is_refused(old, task):
    path = old.folder.path / "v1-records.json"
    path.write_bytes(path.read_bytes().replace(b'"forgotten":["', b'"forgotten":["00000000000000000000000000000000","'))
    with pytest.raises(StateError, match="was altered"):
        task.rewind(old, ["patient 1"])
