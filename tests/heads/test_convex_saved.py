"""A convex head's file: it comes back whole, or not at all."""

from pathlib import Path
from typing import Any

import pytest
import torch

import expunge as ex
from expunge.data import Request
from expunge.errors import OutputError, RunError, StateError
from expunge.heads import AnalyticHead
from expunge.heads.convex import ConvexHead, noise_for
from expunge.heads.fairness import EqualScores
from expunge.heads.preconditioners import ClassBlocks, Dense, Kronecker
from expunge.heads.saved import seal, unseal
from expunge.heads.saved_convex import Kept, pack, unpack
from heads.convex_rows import BETA, LAM, SETTINGS, coins, data, fitted, head

KEY = bytes(range(32))
EVERYTHING = (
    Request.rows(["row 0", "row 7"])
    | Request.labels(["row 1", "row 9"], [0, 2])
    | Request.features([2], ["row 2", "row 3"])
    | Request.features([1, 3], ["row 3", "row 5"])
    | Request.features([4])
)


def saved(made: ConvexHead, path: Path, **how: Any) -> ConvexHead:
    made.save(path, **how)
    return ConvexHead.load(path, key=made.key)


def test_the_next_request_gives_the_same_bits_as_without_saving(tmp_path: Path):
    """Exact weights, release and record, after two more requests; with blocks of an inverse, a Gram matrix, and neither kept yet."""
    for name, changes in {"blocks": {}, "gram": {"factor_limit": 0}, "hinge": {"loss": "smooth_hinge"}}.items():
        rows = data(700, width=40) if name != "hinge" else data(500)
        made = fitted(rows, EVERYTHING, **changes)
        back = saved(made, tmp_path / name)
        assert type(back._preconditioner) is (Kronecker if name == "gram" else ClassBlocks)
        for request in (Request.rows(rows.ids[100:160]), Request.labels(rows.ids[200:210], 1) | Request.features([3])):
            one, two = (h.unlearn(rows, request, generator=coins(3)) for h in (made, back))
            assert torch.equal(made.solution.weights, back.solution.weights)
            assert made.solution.steps == back.solution.steps
            assert made.solution.residual == back.solution.residual
            assert torch.equal(one.model.weight, two.model.weight)
            assert one.record == two.record
        assert made.settings == back.settings
        assert len(made) == len(back) == len(rows) - 62


def test_a_kept_matrix_comes_back_in_the_order_in_which_it_lay(tmp_path: Path):
    """A product's last bits follow it. The inverse of a Cholesky factor lies by columns."""
    made = fitted(data())
    back = saved(made, tmp_path / "a")
    one, two = (h._preconditioner._inverses for h in (made, back))
    assert torch.equal(one, two)
    assert one.stride() == two.stride()


def test_all_kinds_of_corrections_and_settings_come_back(tmp_path: Path):
    changes: dict[str, Any] = {
        "loss": "squared", "bias": False, "factor_limit": 100, "provenance": "", "noise_std": 0.25, "key": KEY,
        "regularization": 0.3, "residual": 1e-8, "fairness": EqualScores(weight=2.0, groups=3),
    }  # fmt: skip
    rows = data()
    grouped = ex.Examples(*rows.tensors, torch.arange(400) % 4 - 1, ids=rows.ids)
    made = fitted(grouped, EVERYTHING, **changes)
    back = saved(made, tmp_path / "a")
    assert back.settings == made.settings == {"classes": 3, **{k: v for k, v in changes.items() if k != "key"}}
    assert (back.key, back.mechanism, back._corrections) == (KEY, made.mechanism, made._corrections)
    assert back._corrections.cells != {}
    assert len(back._corrections.labels) == 2
    for h in (made, back):
        h.unlearn(grouped, Request.rows(["row 11"]))
    assert torch.equal(made.solution.weights, back.solution.weights)
    assert isinstance(back.mechanism, ex.UndeclaredFeatures)
    with pytest.raises(ValueError, match="needs groups"):
        back.unlearn(rows, Request.rows(["row 12"]))


def test_a_loaded_head_refuses_what_the_saved_one_refuses(tmp_path: Path):
    rows = data()
    back = saved(fitted(rows, EVERYTHING), tmp_path / "a")
    for request, says in (
        (Request.rows(["row 0"]), "forgotten already: 'row 0'"),
        (Request.labels(["row 7"], 1), "forgotten already"),
        (Request.rows(["nobody"]), "never learned by this head: 'nobody'"),
        (Request.features([5]), "below the number of features, 5"),
    ):
        with pytest.raises(ValueError, match=says):
            back.unlearn(rows, request)
    with pytest.raises(ValueError, match="lack 1 of the 397"):
        back.unlearn(rows.take(range(399)), Request.rows(["row 1"]))
    with pytest.raises(ValueError, match="fitted already"):
        back.fit(rows)
    assert ("row 0" in back, "row 1" in back, "nobody" in back, "row 1" in head()) == (False, True, False, False)


def test_the_file_is_private_and_a_function_of_the_state(tmp_path: Path):
    rows = data()
    made = fitted(rows, EVERYTHING, key=KEY)
    made.save(tmp_path / "a")
    content = (tmp_path / "a").read_bytes()
    assert (tmp_path / "a").stat().st_mode & 0o077 == 0
    assert KEY not in content
    assert b"row" not in content
    ConvexHead.load(tmp_path / "a", key=KEY).save(tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == content
    made.save(tmp_path / "b")  # over the old one
    assert (tmp_path / "b").read_bytes() == content
    with pytest.raises(OutputError):
        made.save(tmp_path / "no folder" / "c")


def test_without_the_inverse_the_file_is_small_and_the_residual_the_same(tmp_path: Path):
    """Nothing of the Hessian is left; a request then needs more products, and ends as near."""
    rows = data(700, width=60)
    made = fitted(rows, Request.rows(rows.ids[:20]))
    made.save(tmp_path / "whole")
    back = saved(made, tmp_path / "small", inverse=False)
    inverse = 4 * (3 + 1) * 61**2
    sizes = [(tmp_path / name).stat().st_size for name in ("whole", "small")]
    assert inverse <= sizes[0] - sizes[1] <= inverse + 200
    for h in (made, back):
        h.unlearn(rows, Request.rows(rows.ids[20:40]))
        assert h.solution.residual <= BETA
    assert float((made.solution.weights - back.solution.weights).norm()) <= 2 * BETA / LAM
    assert isinstance(back._preconditioner, Kronecker)


def test_the_noise_of_releases_to_come_may_be_another(tmp_path: Path):
    rows, budget = data(), ex.Budget(epsilon=0.1, delta=1e-6)
    made = fitted(rows)
    made.save(tmp_path / "a")
    back = ConvexHead.load(tmp_path / "a", key=made.key, noise_std=budget)
    assert back.noise_std == noise_for(budget, residual=BETA, regularization=LAM) != made.noise_std
    done = back.unlearn(rows, Request.rows(["row 0"]))
    ex.verify(ex.issue(done.record, released=done.model, asked=budget), weights=done.model)
    assert ConvexHead.load(tmp_path / "a", key=made.key).noise_std == SETTINGS["noise_std"]
    with pytest.raises(ValueError, match="noise_std must be"):
        ConvexHead.load(tmp_path / "a", key=made.key, noise_std=-1.0)


def test_a_damaged_file_is_refused(tmp_path: Path):
    path = tmp_path / "head.state"
    made = fitted(data(60), EVERYTHING, key=KEY)
    made.save(path)
    whole = path.read_bytes()
    for at in [*range(0, 120, 7), *range(120, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StateError):
            ConvexHead.load(path, key=KEY)
        path.write_bytes(whole[:at])
        with pytest.raises(StateError):
            ConvexHead.load(path, key=KEY)
    path.write_bytes(whole + b"\0")
    with pytest.raises(StateError, match="altered"):
        ConvexHead.load(path, key=KEY)


def test_the_file_of_another_key_kind_or_version_or_none_is_refused(tmp_path: Path):
    path = tmp_path / "head.state"
    fitted(data(60), key=KEY).save(path)
    with pytest.raises(StateError, match="another key"):
        ConvexHead.load(path, key=bytes(32))
    with pytest.raises(ValueError, match="32 bytes"):
        ConvexHead.load(path, key=b"short")
    with pytest.raises(StateError, match="not a whole state of an analytic head"):
        AnalyticHead.load(path, key=KEY)
    path.write_bytes(path.read_bytes().replace(b"head/1", b"head/2", 1))
    with pytest.raises(StateError, match="a convex head, version 1"):
        ConvexHead.load(path, key=KEY)
    with pytest.raises(StateError, match="cannot read"):
        ConvexHead.load(tmp_path / "nothing", key=KEY)
    with pytest.raises(RunError, match="not fitted"):
        head().save(path)


def test_parts_that_do_not_fit_are_refused_though_their_maker_had_the_key(tmp_path: Path):
    path = tmp_path / "head.state"
    fitted(data(60), Request.rows(["row 0"]), key=KEY).save(path)
    config, tensors = unseal("convex_head", path, key=KEY)

    def refused(says: str, new_config: Any = None, **changes: torch.Tensor) -> None:
        path.write_bytes(seal("convex_head", new_config or config, tensors | changes, key=KEY))
        with pytest.raises(StateError, match=says):
            ConvexHead.load(path, key=KEY)

    refused("weights are torch.float32", weights=tensors["weights"].float())
    refused("weights are torch.float64 of shape", weights=tensors["weights"][:2].clone())
    refused("do not fit", removed=tensors["learned"].clone())
    refused("do not fit", inverses=tensors["inverses"][:2].clone())
    refused("above residual", {**config, "solution": {**config["solution"], "residual": 1.0}})


def test_every_field_that_is_saved_is_read(tmp_path: Path):
    """`unpack` after `pack` is the identity, and so is `pack` after `unpack`, byte for byte."""
    made = fitted(data(), EVERYTHING, key=KEY)
    made.save(tmp_path / "a")
    settings, kept = unpack(tmp_path / "a", key=KEY, digest_key=made._corrections.key)
    assert kept.corrections == made._corrections
    assert kept.width == 5
    assert (kept.solution.start, kept.solution.rounding) == (made.solution.start, made.solution.rounding)
    assert pack(settings, kept, key=KEY) == (tmp_path / "a").read_bytes()


def test_a_file_of_an_earlier_version_with_a_dense_inverse_opens_and_is_used(tmp_path: Path):
    """Up to commit 8fb218f heads kept the inverse of the whole Hessian, under the name "Dense"."""
    rows, path = data(), tmp_path / "old"
    made = fitted(rows, key=KEY)
    settings, width = made.settings | {"fairness": None}, made.solution.weights.shape[1]
    size = made.solution.weights.numel()
    kept = Kept(width=5, corrections=made._corrections, solution=made.solution, factor=Dense(torch.eye(size).float()))
    path.write_bytes(pack(settings, kept, key=KEY))
    config, tensors = unseal("convex_head", path, key=KEY)
    assert config["factor"] == "Dense"
    assert tuple(tensors["inverse"].shape) == (3 * width, 3 * width)
    back = ConvexHead.load(path, key=KEY)
    assert isinstance(back._preconditioner, Dense)
    for h in (made, back):
        h.unlearn(rows, Request.rows(["row 5"]))
    assert float((made.solution.weights - back.solution.weights).norm()) <= 2 * BETA / LAM
    path.write_bytes(seal("convex_head", config, tensors | {"inverse": tensors["inverse"][:5, :5].clone()}, key=KEY))
    with pytest.raises(StateError, match="do not fit"):
        ConvexHead.load(path, key=KEY)
