"""The closed table finds an unlearner by its name, and by the name that earlier versions had for it."""

import logging
from pathlib import Path

import pytest

import expunge as ex
import sample_tasks
from expunge.accounting import MECHANISMS
from expunge.jobs.unlearning import run_unlearner
from expunge.unlearners.grid_ridge import ExactHead
from expunge.unlearners.options import NAMES
from expunge.unlearners.table import RENAMED, UNLEARNERS, made


def test_whoever_has_no_torch_knows_the_same_names():
    assert tuple(UNLEARNERS) == NAMES


@pytest.mark.parametrize(("before", "now"), RENAMED.items())
def test_a_name_of_an_earlier_version_is_taken_with_a_warning(before: str, now: str, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, logger="expunge"):
        assert type(made(before, {})) is UNLEARNERS[now]
        assert f"{before!r} of earlier versions is now called {now!r}" in caplog.text
        caplog.clear()
        made(now, {})
        assert not caplog.records
    assert before not in NAMES
    assert now in MECHANISMS


def test_an_option_is_refused_under_the_present_name():
    assert made("exact_ridge", {"ridge": 2.0}) == ExactHead(ridge=2.0)
    with pytest.raises(ValueError, match="'grid_ridge' takes no --epochs"):
        made("exact_ridge", {"epochs": 1})
    with pytest.raises(ValueError, match=r"must be one of gradient_clipping, .*grid_ridge.*, not 'no_such'"):
        made("no_such", {})


def test_a_head_that_was_left_under_the_earlier_name_forgets_the_next_rows(tmp_path: Path):
    budget = ex.Budget(epsilon=1.0, delta=1e-5)
    run_unlearner("sample_tasks:task", tmp_path / "first", made("exact_ridge", {}), budget)
    task = sample_tasks.later()
    done = ex.unlearn(task, None, ExactHead(head=tmp_path / "first"))
    never = ex.unlearn(task, None, "grid_ridge")
    assert all(a.equal(b) for a, b in zip(done.model.parameters(), never.model.parameters(), strict=True))
