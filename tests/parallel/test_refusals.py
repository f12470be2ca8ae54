"""In one of several processes every verb that is not made for them refuses before it runs, and no certificate is issued."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import Budget
from expunge.errors import RunError
from expunge.heads import AnalyticHead, ConvexHead
from expunge.jobs.unlearning import run_unlearner
from expunge.trace import rewind, train_shards, train_traced
from expunge.training.randomness import environment
from expunge.unlearners import GradientClipping, train_private
from expunge.unlearners.heuristics import FineTune

COINS = torch.Generator().manual_seed(0)
ROWS = ex.Examples(
    torch.randn(40, 4, generator=COINS), torch.randint(3, (40,), generator=COINS), ids=[f"r{i}" for i in range(40)]
)
KEPT, GONE = ROWS.take(range(8, 40)), ROWS.take(range(8))
BUDGET = Budget(epsilon=1.0, delta=1e-5)


def never(model: nn.Module, batch: Any) -> torch.Tensor:
    raise AssertionError("the run began")


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def make() -> nn.Module:
    return nn.Linear(4, 3)


def convex() -> ConvexHead:
    return ConvexHead(loss="logistic", residual=1e-6, classes=3, noise_std=1.0, regularization=1e-2, provenance="none")


class Mine(ex.accounting.OutputPerturbation):
    """A mechanism outside of the closed table."""

    name = "mine"


def task() -> ex.Task:
    return ex.Task(model=make(), retain=KEPT, forget=GONE, loss=never, make_model=make, held_out=GONE)


VERBS: dict[str, Callable[[Path], object]] = {
    "plan": lambda _: ex.plan(task()),
    "compare": lambda _: ex.compare(task(), unlearners={"one": "retrain"}),
    "audit": lambda _: ex.audit(task(), GradientClipping()),
    "the command": lambda at: run_unlearner("nowhere:task", at / "out", GradientClipping(), BUDGET),
    "train_traced": lambda at: train_traced(make, KEPT, loss=never, epochs=1, steps_per_epoch=2, folder=at / "t"),
    "train_shards": lambda at: train_shards(make, KEPT, loss=never, shards=2, steps_per_epoch=2, folder=at / "s"),
    "AnalyticHead": lambda _: AnalyticHead(classes=3, ridge=1.0, provenance="none").learn(KEPT),
    "ConvexHead": lambda _: convex().fit(KEPT),
    "train_private": lambda _: train_private(
        make, KEPT, ex.accounting.DPTraining(sample_clip=1.0, sampling_rate=0.5, steps=2, noise_multiplier=1.0, group_size=1),
        loss=never, learning_rate=0.1, expected_batch=20.0,
    ),
    "a heuristic": lambda _: ex.unlearn(task(), None, FineTune()),
    "a function": lambda _: ex.unlearn(task(), None, lambda model, retain, forget: None),
    "its own steps": lambda _: ex.unlearn(task(), None, (Mine(init_clip=1.0, noise_std=1.0), never)),
    "a default": lambda _: ex.unlearn(task()),
}  # fmt: skip


@pytest.fixture
def one_of_two(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that believes to be rank 0 of two, with nobody to talk to."""
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_rank", lambda: 0)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)


@pytest.mark.usefixtures("one_of_two")
@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_that_is_not_made_for_workers_refuses_before_it_runs(verb: str, tmp_path: Path) -> None:
    with pytest.raises(
        RunError, match="not made for several workers, and this process is rank 0 of a process group of 2"
    ):
        VERBS[verb](tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_trace_and_a_head_of_one_process_are_not_gone_on_with_in_several(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    trace = train_traced(make, KEPT, loss=loss, epochs=1, steps_per_epoch=2, folder=tmp_path / "t")
    shards = train_shards(make, KEPT, loss=loss, shards=2, slices=1, steps_per_epoch=2, folder=tmp_path / "s")
    exact = AnalyticHead(classes=3, ridge=1.0, provenance="none")
    exact.learn(KEPT)
    noisy = convex()
    noisy.fit(KEPT)
    request.getfixturevalue("one_of_two")
    for again in (
        lambda: rewind(trace, KEPT.ids[:1], KEPT, make_model=make, loss=never),
        lambda: shards.rewind(KEPT.ids[:1], KEPT, make_model=make, loss=never),
        lambda: ex.unlearn(task(), None, ex.unlearners.Replaying(trace=tmp_path / "t")),
        exact.unlearned,
        lambda: noisy.unlearn(KEPT, ex.Request.rows(KEPT.ids[:1])),
    ):
        with pytest.raises(RunError, match="not made for several workers"):
            again()


def test_no_record_is_made_and_no_certificate_issued_that_does_not_know_of_the_others(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever verb was forgotten here: its record needs `environment`, and `issue` asks for as many workers as there are."""
    done = ex.unlearners.train_from_scratch(make, KEPT, loss=loss, forget=GONE, epochs=1)
    request.getfixturevalue("one_of_two")
    with pytest.raises(RunError, match="not made for several workers"):
        environment(torch.device("cpu"))
    with pytest.raises(RunError, match="not made for several workers"):
        environment(torch.device("cpu"), 3)
    with pytest.raises(RunError, match="not made for several workers"):
        ex.issue(done.record, released=done.model)
    shared = environment(torch.device("cpu"), 2)
    assert shared["workers"] == "2"
    monkeypatch.setattr(dist, "get_rank", lambda: 1)
    with pytest.raises(RunError, match="issued once, by rank 0, and this is rank 1"):
        ex.issue(replace(done.record, environment=shared), released=done.model)


def test_processes_of_torchrun_without_a_group_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each would draw noise of its own and issue a certificate of its own."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RunError, match="torchrun started 2 processes"):
        VERBS["train_traced"](tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "1")
    VERBS["AnalyticHead"](tmp_path)
