"""No verb certifies what retain still holds: each checks the forgotten rows, its record says how, `issue` demands it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import Budget
from expunge.certificate.format import digest
from expunge.errors import ClaimRefused, RunError, StillRetained, TaskError
from expunge.jobs.unlearning import run_unlearner
from expunge.unlearners.table import made as unlearner

COINS = torch.Generator().manual_seed(0)
X, Y = torch.randn(64, 8, generator=COINS), torch.randint(3, (64,), generator=COINS)
ROWS = ex.Examples(X, Y, ids=[f"r{i}" for i in range(64)])
KEPT, GONE = ROWS.take(range(8, 64)), ROWS.take(range(8))
ONCE = ex.OutputPerturbation(init_clip=0.5, noise_std=2.0)


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def never(model: nn.Module, batch: Any) -> torch.Tensor:
    raise AssertionError("the run began")


def make() -> nn.Module:
    return nn.Linear(8, 3)


CLIPPING = ex.GradientClipping(
    init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0, steps=2, noise_std=9.0
)
VERBS: dict[str, Any] = {
    "unlearn": lambda retain, forget, loss: ex.unlearn(make(), retain, CLIPPING, loss=loss, forget=forget),
    "retrain": lambda retain, forget, loss: ex.retrain(make, retain, loss=loss, forget=forget, epochs=1),
}


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_checks_before_it_runs_and_its_record_says_how(verb: str) -> None:
    for retain, forget, coverage in (
        (KEPT, GONE, "ids and content"), (KEPT, GONE.ids, "ids"), (KEPT.tensors, GONE, "content"), (KEPT, None, "unchecked"),
        (list(KEPT.chunks(8)), list(GONE.chunks(8)), "content"),
    ):  # fmt: skip
        assert VERBS[verb](retain, forget, loss).record.coverage == coverage
    for retain in (ROWS, ROWS.tensors, list(ROWS.chunks(8))):
        with pytest.raises(StillRetained):
            VERBS[verb](retain, GONE, never)


def test_the_forgotten_rows_given_for_the_check_do_not_touch_the_run() -> None:
    coins = [torch.Generator().manual_seed(1) for _ in range(2)]
    one, other = (
        ex.unlearn(make_seeded(), KEPT, CLIPPING, loss=loss, forget=forget, generator=g).model
        for forget, g in zip((GONE, None), coins, strict=True)
    )
    assert torch.equal(one.weight, other.weight)  # pyright: ignore


def make_seeded() -> nn.Module:
    torch.manual_seed(0)
    return make()


def test_issue_demands_a_check_or_words_and_the_certificate_carries_them() -> None:
    done = ex.unlearn(make(), KEPT, ONCE, loss=loss)
    with pytest.raises(RunError, match="nobody checked that the retained data hold none of the forgotten rows"):
        ex.issue(done.record, released=done.model)
    words = "the archive of 2019 cannot be read again"
    issued = ex.issue(done.record, released=done.model, unchecked=words)
    assert issued.content["unchecked"] == words
    ex.verify(issued)
    for bad in ("  ", "two\nlines"):
        with pytest.raises(ValueError, match="unchecked must be one line"):
            ex.issue(done.record, released=done.model, unchecked=bad)
    checked = replace(done.record, coverage="ids")
    with pytest.raises(ValueError, match="contradicts the record, whose coverage is 'ids'"):
        ex.issue(checked, released=done.model, unchecked=words)
    assert ex.issue(checked, released=done.model).content["unchecked"] == ""


@pytest.mark.parametrize(("coverage", "unchecked"), [("unchecked", ""), ("ids", "why not"), ("content", "why not")])
def test_verify_refuses_words_that_contradict_the_coverage(coverage: str, unchecked: str) -> None:
    done = ex.unlearn(make(), KEPT, ONCE, loss=loss, forget=GONE)
    content = dict(ex.issue(done.record, released=done.model).content)
    content |= {"run": {**content["run"], "coverage": coverage}, "unchecked": unchecked}
    del content["digest"]
    with pytest.raises(ClaimRefused, match="exactly where run"):
        ex.verify(ex.Certificate(content | {"digest": digest(content)}))


# Heads know whom they learned


def learned(rows: ex.Examples) -> ex.AnalyticHead:
    head = ex.AnalyticHead(ridge=1.0, classes=3, provenance="raw columns")
    head.learn(rows.tensors[0].double(), rows.tensors[1], ids=rows.ids)
    return head


def test_an_exact_head_says_whether_it_subtracted_or_never_learned() -> None:
    head = learned(ROWS)
    assert head.unlearned().record.coverage == "unchecked"
    with pytest.raises(StillRetained, match=r"still holds 8 of the 8 rows to forget, e\.g\. 'r0'"):
        head.unlearned(forget=GONE.ids)
    head.forget(GONE.tensors[0].double(), GONE.tensors[1], ids=GONE.ids)
    assert head.unlearned(forget=GONE.ids).record.coverage == "ledger"
    head.learn(GONE.tensors[0].double(), GONE.tensors[1], ids=GONE.ids)
    assert head.unlearned().record.coverage == "unchecked"  # learned again
    assert learned(KEPT).unlearned(forget=GONE.ids).record.coverage == "ids"


def test_a_convex_head_says_it_too() -> None:
    def head() -> ex.ConvexHead:
        return ex.ConvexHead(
            loss="logistic", regularization=1e-2, classes=3, residual=1e-8, noise_std=1.0, provenance="raw columns"
        )

    assert head().fit(ROWS).record.coverage == "unchecked"
    assert head().fit(KEPT, forget=GONE.ids).record.coverage == "ids"
    with pytest.raises(StillRetained, match="rows hold 8 of the 8 rows to forget"):
        head().fit(ROWS, forget=GONE.ids)
    made = head()
    made.fit(ROWS)
    assert made.unlearn(ROWS, ex.Request.rows(GONE.ids)).record.coverage == "ledger"


# From a task to a folder


def task(**changes: Any) -> ex.Task:
    fields: dict[str, Any] = {
        "model": make(), "make_model": make, "retain": KEPT, "forget": GONE, "held_out": ROWS, "loss": loss,
        "features": lambda z: z.double(), "provenance": "raw columns",
    }  # fmt: skip
    return ex.Task(**fields | changes)


OPTIONS = {
    "grid_ridge": {}, "measured_residual": {"regularization": 1e-2, "residual": 1e-8},
    "retrain": {"epochs": 1}, "output_perturbation": {"epochs": 1},
}  # fmt: skip


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Take a task through an unlearner; the certificate."""

    def go(name: str, made: ex.Task, settings: dict[str, Any] | None = None) -> ex.Certificate:
        monkeypatch.setattr("expunge.jobs.unlearning.load_task", lambda _: made)
        chosen = OPTIONS[name] if settings is None else settings
        run_unlearner("a:task", tmp_path / name, unlearner(name, chosen), Budget(epsilon=1.0, delta=1e-5))
        return ex.Certificate.load(tmp_path / name / "certificate.json")

    return go


@pytest.mark.parametrize("name", OPTIONS)
def test_an_unlearner_refuses_a_task_whose_retained_data_hold_the_forget_set(
    name: str, run: Any, tmp_path: Path
) -> None:
    for retain in (ROWS, ex.Examples(X, Y)):
        with pytest.raises(StillRetained):
            run(name, task(retain=retain))
    assert not list(tmp_path.iterdir())
    certificate = run(name, task())
    assert certificate.record.coverage == "ids and content"
    ex.verify(certificate)


def test_a_forget_set_without_names_is_committed_to_by_its_content(run: Any, tmp_path: Path) -> None:
    made = task(forget=list(GONE.chunks(3)))
    certificate = run("output_perturbation", made)
    key = bytes.fromhex((tmp_path / "output_perturbation.secret" / "keys" / "commitment.key").read_text())
    ex.open_commitment(certificate.content["commitments"]["forget"], GONE.tensors, key=key)
    assert certificate.record.coverage == "content"


@pytest.mark.parametrize(
    ("name", "settings", "foreign"),
    [
        ("grid_ridge", {"epochs": 1}, "--epochs"),
        ("retrain", {"rescale": False}, "--rescale"),
        ("measured_residual", {"ridge": 2.0}, "--ridge"),
        ("output_perturbation", {"loss": "squared"}, "--loss"),
        ("output_perturbation", {"steps": 3}, "--steps"),
    ],
)
def test_a_setting_that_an_unlearner_does_not_take_is_refused_by_name(
    name: str, settings: dict[str, Any], foreign: str, run: Any, tmp_path: Path
) -> None:
    with pytest.raises(
        ValueError, match=f"unlearner '{name}' takes no {foreign}, which was given and would do nothing"
    ):
        run(name, task(), settings)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "changes", "settings", "error", "reason"),
    [
        ("retrain", {"make_model": None}, None, TaskError, "needs task.make_model"),
        ("output_perturbation", {}, {"epochs": -1}, ValueError, "epochs must be a finite number above 0"),
        ("gradient_clipping", {"retain": (batch for batch in KEPT.chunks(8))}, {}, TaskError, "read only once"),
    ],
)
def test_what_the_end_would_refuse_is_told_before_the_run(
    name: str, changes: dict[str, Any], settings: dict[str, Any] | None, error: type[Exception], reason: str, run: Any
) -> None:
    with pytest.raises(error, match=reason):
        run(name, task(loss=never, **changes), settings)


class NoLength:
    def __iter__(self) -> Any:
        return iter(KEPT.chunks(8))


def test_a_loader_without_length_is_refused_before_the_run(run: Any) -> None:
    with pytest.raises(TypeError, match="the loader has no length"):
        run("gradient_clipping", task(retain=NoLength(), loss=never), {"epochs": 1})
    norm = nn.Sequential(nn.Linear(8, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
    with pytest.raises(TypeError, match="the loader has no length"):
        ex.unlearn(norm, NoLength(), CLIPPING, loss=never, buffers="reset")
