"""A second release from one original model warns of the first."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import expunge as ex
import sample_tasks

MECHANISM = ex.OutputPerturbation(init_clip=0.1, noise_std=0.9)


def release(folder: Path, caplog: pytest.LogCaptureFixture, task: ex.Task, way: object) -> list[str]:
    """The warnings of one release that tell of another."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="expunge"):
        ex.unlearn(task, None, way).save(folder)
    return [record.getMessage() for record in caplog.records if "answered for the same original" in record.getMessage()]


def test_a_second_release_of_one_original_names_the_first_and_only_that(tmp_path: Path, caplog):
    task = sample_tasks.task()
    assert release(tmp_path / "first", caplog, task, MECHANISM) == []
    other = replace(task, model=sample_tasks.make_model())
    assert release(tmp_path / "of another model", caplog, other, MECHANISM) == []
    assert release(tmp_path / "exact", caplog, task, "retrain") == []
    (told,) = release(tmp_path / "second", caplog, sample_tasks.later(), MECHANISM)
    assert told.startswith("first answered for the same original model")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert release(elsewhere / "third", caplog, task, MECHANISM) == []


def test_the_note_is_secret_and_a_release_served_from_the_last_one_warns_of_nothing(tmp_path: Path, caplog):
    task = sample_tasks.task()
    done = ex.unlearn(task, None, MECHANISM)
    done.save(tmp_path / "first")
    note = tmp_path / "first.secret" / "original.digest"
    assert note.read_text().startswith("sha256:")
    assert note.stat().st_mode & 0o077 == 0
    assert not list((tmp_path / "first").rglob("original.digest"))
    served = replace(sample_tasks.later(), model=done.model)
    assert release(tmp_path / "second", caplog, served, MECHANISM) == []
    assert torch.equal(done.model[0].weight, served.model[0].weight)
