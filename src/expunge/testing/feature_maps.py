"""The contract of a feature map: fixed, public in words, and a row's features are the row's own, to the last bit."""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.certificate.fields import Text
from expunge.data.arrays import numbers
from expunge.errors import ExpungeError
from expunge.features.protocol import FeatureMap
from expunge.testing.contract import require

__all__ = ["check_feature_map"]

_FEWEST = 8  # rows: fewer have hardly any batches
_SIZES = (2, 3, 7, 16, 17, 64)


def check_feature_map(map: FeatureMap, rows: Tensor, *, seed: int = 0) -> None:  # noqa: A002  it is one
    """Hold a feature map of one's own against its contract, on rows of the kind that it is made for.

    Checked are: its provenance is one line that a certificate can carry, and stays as it is; features are a table of finite
    numbers that float64 holds exactly, without a gradient; rows and torch's coins stay as they were; and a row has the same bits of features alone, in batches of several sizes, in another order, among other rows and among
    copies of itself, at every call, in training mode and in evaluation mode.

    What holds on these rows may fail on others: give real ones, 64 or more.

    Args:
        map: of the protocol `expunge.features.FeatureMap`.
        rows: what it takes, shape (n, ...), n of at least 8, no two alike.
        seed: of the orders.

    Raises:
        ContractViolation: a contract is broken; the message begins with its name.
        ValueError: the rows are too few, or two of them are alike: nothing would be tested.
    """
    if len(rows) < _FEWEST:
        raise ValueError(
            f"a feature map is checked on at least {_FEWEST} rows, not {len(rows)}: nothing would be tested"
        )
    if len(rows.reshape(len(rows), -1).unique(dim=0)) < len(rows):
        raise ValueError("two of the rows are alike, so that a row mistaken for another would not be seen")
    modes = [module.training for module in _modules(map)]
    told = _provenance(map)
    before, coins = rows.clone(), torch.get_rng_state()
    unused = copy.deepcopy(map)
    alone = _alone(map, rows)
    require(torch.equal(torch.get_rng_state(), coins), "leaves torch's coins as they were",
            "the global generator has moved", map)  # fmt: skip
    _tells_rows_apart(map, alone)
    try:
        _has_rows_of_its_own(map, rows, alone, seed, "")
        for training, mode in ((False, "evaluation"), (True, "training")):
            if isinstance(map, nn.Module):
                map.train(training)
                _has_rows_of_its_own(map, rows, alone, seed, f", in {mode} mode")
    finally:
        for module, was in zip(_modules(map), modes, strict=True):
            module.training = was
    first = _features(unused, rows.flip(0), "all rows, at the first call of all")
    require(torch.equal(_bits(first.to(alone.dtype)), _bits(alone.flip(0))), "is fixed before it sees a row",
            "what it was first called on decides its features", map)  # fmt: skip
    require(torch.equal(rows, before), "leaves the rows as they were", "they were changed in place", map)
    require(
        _provenance(map) == told, "its provenance stays as it is", f"{told!r} before, {_provenance(map)!r} after", map
    )


def _modules(of: object) -> list[nn.Module]:
    return list(of.modules()) if isinstance(of, nn.Module) else []


def _provenance(of: FeatureMap) -> str:
    contract = "has a provenance that a certificate can carry"
    text: object = getattr(of, "provenance", None)
    require(isinstance(text, str), contract, f"it is {text!r:.100}", of)
    assert isinstance(text, str)
    try:
        if text:
            _validate.text(provenance=text)
        Text(0).check("provenance", text)
    except (ValueError, ExpungeError) as error:
        require(False, contract, str(error), of)
    return text


def _features(of: FeatureMap, rows: Tensor, what: str) -> Tensor:
    with torch.enable_grad():
        found: object = of(rows)
    require(isinstance(found, Tensor), "returns a tensor", f"{what}: {type(found).__name__}", of)
    assert isinstance(found, Tensor)
    require(not found.requires_grad, "is fixed, without a gradient", f"{what}: a parameter of it is still trained", of)
    shaped = found.dim() == 2 and len(found) == len(rows) and found.shape[1] > 0
    require(shaped, "has shape (n, width)", f"{what}: shape {tuple(found.shape)} for {len(rows)} rows", of)
    try:
        numbers("features", found, 2)
    except (TypeError, ValueError) as error:
        require(False, "is exact in float64", f"{what}: {error}", of)
    finite = not found.is_floating_point() or bool(torch.isfinite(found).all())
    require(finite, "is finite", f"{what}: NaN or infinity", of)
    return found.clone()


def _alone(of: FeatureMap, rows: Tensor) -> Tensor:
    """The features of every row by itself."""
    found = [_features(of, rows[k : k + 1], f"row {k} alone") for k in range(len(rows))]
    widths, kinds = {part.shape[1] for part in found}, {part.dtype for part in found}
    require(len(widths) == 1, "has shape (n, width)", f"rows have widths {sorted(widths)}", of)
    require(len(kinds) == 1, "has one type", f"rows have types {sorted(str(kind) for kind in kinds)}", of)
    return torch.cat(found)


def _tells_rows_apart(of: FeatureMap, alone: Tensor) -> None:
    apart = bool((alone != alone[:1]).any())
    require(apart, "tells rows apart", "all rows have the same features: nothing would be tested", of)


def _has_rows_of_its_own(of: FeatureMap, rows: Tensor, alone: Tensor, seed: int, mode: str) -> None:
    for what, where in _batches(len(rows), seed):
        found = _features(of, rows[where], what)
        same = found.dtype == alone.dtype and torch.equal(_bits(found), _bits(alone[where]))
        if not same:
            differ = int((_bits(found.to(alone.dtype)) != _bits(alone[where])).any(1).sum())
            furthest = float((found.double() - alone[where].double()).abs().max())
            require(False, "a row has the same bits in any batch",
                    f"{what}{mode}: {differ} of {len(found)} rows differ from the row alone, by up to {furthest:.3g}", of)  # fmt: skip


def _batches(n: int, seed: int) -> Iterator[tuple[str, Tensor]]:
    """Names and positions of batches."""
    coins = torch.Generator().manual_seed(seed)
    everything = torch.arange(n)
    yield "all rows", everything
    yield "all rows again", everything
    yield "all rows, last first", everything.flip(0)
    for size in _SIZES:
        if size < n:
            order = torch.randperm(n, generator=coins)
            for part in order.split(size):
                yield f"{len(part)} rows, at random", part
    yield "a row among copies of itself", everything[:1].expand(5)
    yield "a row after the call on many", everything[-1:]


def _bits(values: Tensor) -> Tensor:
    """Numbers as whole ones of their bits: the two zeros differ."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(whole[values.element_size()])
