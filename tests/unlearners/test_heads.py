"""What the unlearners of heads have in common."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import expunge as ex
import sample_tasks
from expunge.errors import StillRetained
from expunge.unlearners import ExactHead, NoisyHead


class Near:
    """How near a row is to some rows that the map holds."""

    provenance = "said to hold no data"

    def __init__(self, rows: Tensor) -> None:
        self.rows = rows

    def __call__(self, rows: Tensor) -> Tensor:
        return torch.exp(-torch.cdist(rows.double(), self.rows.double()))


@pytest.mark.parametrize("way", [ExactHead(), NoisyHead()], ids=lambda way: way.name)
def test_a_feature_map_that_holds_forgotten_rows_is_refused(way: ExactHead | NoisyHead) -> None:
    task = replace(sample_tasks.task(), provenance=None)
    x = task.forget.tensors[0][:5].clone()
    with pytest.raises(StillRetained, match=r"task\.features holds 5 rows with the content of rows to forget"):
        ex.unlearn(replace(task, features=Near(x)), None, way)
    offered = {quote.unlearner: quote for quote in ex.plan(replace(task, features=Near(x)), None).quotes}
    assert "holds 5 rows with the content of rows to forget" in offered[way.name].why
    ex.unlearn(replace(task, features=Near(task.retain.tensors[0][:5].clone())), None, way)


@pytest.mark.parametrize("way", [ExactHead(), NoisyHead()], ids=lambda way: way.name)
def test_the_next_request_goes_on_from_what_save_wrote(way: ExactHead | NoisyHead, tmp_path: Path) -> None:
    done = ex.unlearn(sample_tasks.task(), None, way)
    done.save(tmp_path / "first")
    later = ex.unlearn(sample_tasks.later(), None, replace(way, head=tmp_path / "first"))
    assert later.notes["rows"] == done.notes["rows"] - 10
    assert "holds what the forgotten rows added: delete it" in later.told[1]
