"""Workers that each hold all of the weights, with DistributedDataParallel and without, are one run."""

from typing import Any

import pytest
import torch

import shared_runs as runs

Worlds = dict[int, list[dict[str, Any]]]
ALIKE = 1e-6


def alone(name: str) -> torch.Tensor:
    """The same run in this process, which has no group."""
    return runs.flat(runs.unlearned(runs.MECHANISMS[name], runs.network()).model)


@pytest.mark.parametrize("name", runs.MECHANISMS)
def test_one_two_and_three_workers_make_the_weights_of_one_process(name: str, worlds: Worlds) -> None:
    """20 steps with active clips; the workers of a group agree in every bit."""
    wanted = alone(name)
    for found in worlds.values():
        weights = [worker[f"plain {name}"]["weights"] for worker in found]
        assert all(torch.equal(weights[0], other) for other in weights)
        assert float((weights[0] - wanted).abs().max()) <= ALIKE


def test_the_clips_of_that_run_are_active() -> None:
    """Else agreement would say nothing of the norm that is computed together."""
    model, batch = runs.network(), runs.rows().batch(slice(0, runs.BATCH))
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5 / float(runs.flat(runs.network()).norm()))
    runs.loss(model, batch).backward()
    length = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).norm()
    assert float(length) > 2 * runs.CLIPPED.grad_clip
    assert float(runs.flat(runs.network()).norm()) > runs.CLIPPED.init_clip


def test_ddp_is_taken_off_and_its_own_averaging_does_nothing(worlds: Worlds) -> None:
    for found in worlds.values():
        for worker in found:
            assert torch.equal(worker["ddp gradients"]["weights"], worker["plain gradients"]["weights"])
    for worker in worlds[2]:
        assert torch.equal(worker["ddp in place"]["weights"], worker["plain gradients"]["weights"])
        assert torch.equal(worker["ddp recovery"], worker["recovery plain"])
        assert torch.equal(worker["ddp retraining"]["weights"], worker["retraining plain"]["weights"])


@pytest.mark.parametrize("name", ["recovery", "retraining"])
def test_recovery_and_retraining_agree_with_one_process(name: str, worlds: Worlds) -> None:
    wanted = runs.recovered("plain") if name == "recovery" else runs.adam("plain")["weights"]
    for found in worlds.values():
        told = [worker[f"{name} plain"] for worker in found]
        weights = [one if name == "recovery" else one["weights"] for one in told]
        assert all(torch.equal(weights[0], other) for other in weights)
        assert float((weights[0] - wanted).abs().max()) <= ALIKE


def test_the_record_is_that_of_the_one_run_and_says_how_many_shared_it(worlds: Worlds) -> None:
    """Nothing but the digest of weights that differ in a rounding, and the number of workers."""
    one = worlds[1][0]["plain gradients"]["record"]
    assert "workers" not in one["environment"]
    for size in (2, 3):
        for worker in worlds[size]:
            record = worker["plain gradients"]["record"]
            assert record["environment"] == one["environment"] | {"workers": str(size)}
            beside = {"environment", "certified"}
            assert {k: v for k, v in record.items() if k not in beside} == {
                k: v for k, v in one.items() if k not in beside
            }


def test_one_secret_is_drawn_and_one_certificate_issued(worlds: Worlds) -> None:
    """Without a generator rank 0's entropy serves all: the replicas agree; the other rank is refused a certificate."""
    first, second = (worker["certified"] for worker in worlds[2])
    assert first["origin"] == "secret"
    assert first["certificate"]["run"]["environment"]["workers"] == "2"
    assert second.startswith("RunError: the certificate of a shared run is issued once, by rank 0")


@pytest.mark.parametrize(
    ("key", "named"),
    [("weights", "the weights"), ("data", "the data"), ("options", "the options"), ("mechanism", "the options"), ("verb", "the verb"),
     ("loss", "the code of loss"), ("hook", "the code of the model"), ("forget set", "the forget set")],
)  # fmt: skip
def test_workers_that_disagree_are_refused_by_name(key: str, named: str, worlds: Worlds) -> None:
    for worker in worlds[2]:
        assert worker[f"other {key}"].startswith("RunError: workers 0 and 1 of 2 disagree on ")
        assert named in worker[f"other {key}"]


def test_a_worker_that_fails_takes_the_others_with_it(worlds: Worlds) -> None:
    first, second = (worker["failing"] for worker in worlds[2])
    assert first.startswith("RunError: another worker failed at this step")
    assert second.startswith("NonFinite: the loss is nan")


def test_a_task_is_unlearned_together_and_saved_once(worlds: Worlds) -> None:
    """`unlearn` and `save` are called by every worker; there is one folder, and all have its certificate."""
    first, second = (worker["task"] for worker in worlds[2])
    assert first.keys() == second.keys() == {"output_perturbation", "retrain"}
    for way, found in first.items():
        assert torch.equal(found["weights"], second[way]["weights"])
        assert found["digest"] == second[way]["digest"]
