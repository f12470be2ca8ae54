"""Two processes that hold one head: whoever saves second is told, and no request is lost."""

import copy
from pathlib import Path

import pytest
import torch

from expunge.data import Request
from expunge.errors import StateError
from expunge.heads import AnalyticHead
from expunge.heads.convex import ConvexHead
from heads.convex_rows import data, fitted

KEY = bytes(range(32))


def learned(names: list[str]) -> AnalyticHead:
    head = AnalyticHead(ridge=1.0, classes=2, key=KEY)
    head.learn(rows(names), labels(names), ids=names)
    return head


def rows(names: list[str]) -> torch.Tensor:
    return torch.stack([torch.tensor([1.0, float(ord(name))]) for name in names])


def labels(names: list[str]) -> torch.Tensor:
    return torch.tensor([ord(name) % 2 for name in names])


def forget(head: AnalyticHead, name: str) -> None:
    head.forget(rows([name]), labels([name]), ids=[name])


def load(path: Path) -> AnalyticHead:
    return AnalyticHead.load(path, key=KEY)


def test_whoever_saves_second_is_refused_and_the_first_request_stays_forgotten(tmp_path: Path):
    path = tmp_path / "head"
    learned(list("abcd")).save(path)
    first, second = load(path), load(path)
    forget(first, "a")
    first.save(path)
    after = path.read_bytes()
    forget(second, "b")
    with pytest.raises(StateError, match="another process may have saved requests there since, which would be lost"):
        second.save(path)
    assert path.read_bytes() == after
    again = load(path)  # the remedy
    forget(again, "b")
    again.save(path)
    assert not {"a", "b"} & {name for name in "abcd" if name in load(path)}


def test_a_head_goes_on_saving_over_its_own_states_in_any_file(tmp_path: Path):
    made = learned(list("abcdef"))
    for name, path in zip("abcd", ["one", "two", "one", "two"], strict=True):
        forget(made, name)
        made.save(tmp_path / path)
    back = load(tmp_path / "one")  # an older one: nothing of it is lost in what came after
    assert "d" in back
    made.save(tmp_path / "one")
    twin = copy.deepcopy(made)
    forget(twin, "e")
    twin.save(tmp_path / "one")


def test_a_new_head_does_not_take_the_place_of_another_ones_file_nor_of_a_file_that_is_none(tmp_path: Path):
    learned(list("abc")).save(tmp_path / "head")
    (tmp_path / "notes").write_text("of mine")
    for name in ("head", "notes"):
        with pytest.raises(StateError, match="does not hold a state that this head was loaded from"):
            learned(list("xyz")).save(tmp_path / name)
    (tmp_path / "head").unlink()  # the remedy
    learned(list("xyz")).save(tmp_path / "head")


def test_two_heads_made_one_go_on_in_the_file_of_either(tmp_path: Path):
    learned(list("ab")).save(tmp_path / "one")
    learned(list("cd")).save(tmp_path / "two")
    one = load(tmp_path / "one")
    one.merge(load(tmp_path / "two"))
    one.save(tmp_path / "two")
    assert len(load(tmp_path / "two")) == 4


def test_a_state_that_took_the_files_place_while_it_was_loaded_is_not_overwritten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = tmp_path / "head"
    learned(list("abc")).save(path)
    other = load(path)
    forget(other, "a")
    from expunge.heads import analytic

    unpack = analytic.unpack

    def meanwhile(*args: object, **how: object):
        found = unpack(*args, **how)
        other.save(path)
        return found

    monkeypatch.setattr(analytic, "unpack", meanwhile)
    late = load(path)
    with pytest.raises(StateError, match="would be lost"):
        late.save(path)


def test_the_same_holds_for_convex_heads(tmp_path: Path):
    path, some = tmp_path / "head", data(60)
    fitted(some, key=KEY).save(path)
    first, second = (ConvexHead.load(path, key=KEY) for _ in range(2))
    first.unlearn(some, Request.rows(["row 0"]))
    first.save(path)
    first.save(path, inverse=False)
    second.unlearn(some, Request.rows(["row 1"]))
    with pytest.raises(StateError, match="would be lost"):
        second.save(path)
    assert "row 0" not in ConvexHead.load(path, key=KEY)
