"""Ridge regression on a fixed feature map: rows are learned by adding to two sums and forgotten by subtracting.

The state holds sums and keyed digests, no data. On a grid the sums are whole numbers, and nothing of a forgotten row is
left in them. Source: Tang et al. 2025, arXiv 2505.12239.
"""

import hmac
import logging
import math
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from expunge import _validate
from expunge._fixed import fixed
from expunge._workers import refuse_workers
from expunge.accounting import GridRidge, UndeclaredFeatures
from expunge.certificate.commitments import texts
from expunge.certificate.record import UNCHECKED
from expunge.data import Examples, new_commitment_key
from expunge.data.arrays import Names, Numbers, as_tensor, names_in
from expunge.errors import RunError, StillRetained
from expunge.heads.digests import RowDigests
from expunge.heads.inverse import Inverse
from expunge.heads.ledger import Ledger
from expunge.heads.rows import Rows, alike, checked_grid, checked_key, checked_rows, given, real
from expunge.heads.saved import mark_of, pack, unpack, write
from expunge.heads.solver import Method, Solver, few
from expunge.heads.statistics import Sums, add, after, norm, shift_, subtract, sums_of
from expunge.training.unlearned import Unlearned, noiseless_record

__all__ = ["GRID", "UNDECLARED", "AnalyticHead"]

GRID = 2.0**-12  # public, and the same for all data
UNDECLARED = UndeclaredFeatures(head="exact_ridge")  # the name that its first certificates gave to this head

_POOR = 1e-3  # of the weights, in their distance from ridge regression: worth a warning

_log = logging.getLogger("expunge")


@fixed("ridge", "rounding", "provenance", "classes", "method")
class AnalyticHead:
    """W = (Σ x xᵀ + ridge I)⁻¹ Σ x yᵀ over the rows learned and not forgotten, in float64.

    `forget` needs the rows to forget and no others. It costs O(k d²) for k rows of width d, new weights O(d³/3).

    Rows are rounded to a public grid, so that the sums are whole numbers: after forgetting, state and weights are, bit for
    bit, those of never having learned. With `grid=None` the sums are kept in float64, where the order of additions is
    left in the last bits (bounded in `error_bound`): from them it can be read which rows were forgotten, so that such a
    head gets no certificate.

    The state is secret: its sums determine the weights before the forgetting as soon as the forgotten rows are known,
    and whoever holds an older copy of it holds those rows' contribution.

    Args:
        ridge: γ > 0, chosen without the data that may be forgotten.
        classes: targets are labels from 0 to classes - 1; by default they are real numbers, shape (n, outputs).
        provenance: why the feature map depends on no row that may be forgotten, in a line; "" says that this is not
            known, and certificates will then be of kind `none`.
        rounding: the relative residual |A W - B|/|B| above which weights are refused; fixed in advance.
        grid: a public step, or one for each feature, shape (d,): features are rounded to its multiples as they are learned
            and forgotten. Up to 2^26 steps, 16,384 with the default of 2^-12, and 2^62 in a feature's sum of squares.
            Chosen without the data that may be forgotten. None: no rounding, and no certificate.
        target_grid: likewise for real targets, by default 2^-12; one for each output, shape (outputs,).
        method: "statistics" solves anew; "woodbury" also keeps A⁻¹ up to date, in O(k d²) where k is at most d/8, for
            `scores` and `predict` between releases, and solves anew where the measured residual of that is above
            `rounding`. What is released (`weights`, `module`, `unlearned`) is solved from the sums in either case.
        key: of the digests, at least 32 bytes, secret; by default a fresh one, see `key`.

    A constant feature serves as a bias, and is penalised like any other.
    """

    def __init__(
        self,
        *,
        ridge: float,
        classes: int | None = None,
        provenance: str = "",
        rounding: float = 1e-9,
        grid: float | Numbers | None = GRID,
        target_grid: float | Numbers | None = None,
        method: Method = "statistics",
        key: bytes | None = None,
    ) -> None:
        _validate.positive(ridge=ridge, rounding=rounding)
        if classes is not None:
            _validate.whole(classes=classes)
        if provenance != "":
            _validate.text(provenance=provenance)
        if method not in ("statistics", "woodbury"):
            raise ValueError(f"method must be 'statistics' or 'woodbury', not {method!r}")
        if target_grid is not None and (classes is not None or grid is None):
            raise ValueError("target_grid is of real targets on a grid: leave it out, or give grid and no classes")
        self.ridge, self.rounding, self.provenance = float(ridge), float(rounding), provenance
        self.classes, self.method = classes, method
        self._grid = None if grid is None else checked_grid("grid", grid)
        real_targets = self._grid is not None and classes is None
        target_steps = GRID if target_grid is None else target_grid
        self._target_grid = checked_grid("target_grid", target_steps) if real_targets else None
        self._key = new_commitment_key() if key is None else checked_key(key)
        self._sums: Sums | None = None
        self._digests = RowDigests(self._key, exact=self._grid is not None)
        self._ledger = Ledger()
        self._states = set[bytes]()  # the files of which this head is the continuation
        self._solver = Solver(ridge=self.ridge, rounding=self.rounding, method=method, **self._grids)

    def __len__(self) -> int:
        """Rows learned and not forgotten."""
        return len(self._ledger)

    def __contains__(self, row_id: str) -> bool:
        """Whether a row of this id is learned and not forgotten."""
        return self._digests.name(row_id) in self._ledger

    @property
    def key(self) -> bytes:
        """The secret key of digests and state files. Keep it apart from the file: with both, ids can be guessed."""
        return self._key

    @property
    def grid(self) -> Tensor | None:
        """The step of the features, shape () or (d,), float64."""
        return None if self._grid is None else self._grid.clone()

    @property
    def target_grid(self) -> Tensor | None:
        """The step of real targets, shape () or (outputs,), float64."""
        return None if self._target_grid is None else self._target_grid.clone()

    @property
    def counts(self) -> Tensor:
        """Rows of each class, shape (classes,)."""
        if self.classes is None:
            raise ValueError("there are no classes to count: targets are real numbers")
        return cast("Tensor", self._sums.counts).clone() if self._sums else torch.zeros(self.classes, dtype=torch.int64)

    def learn(self, X: Numbers | Examples, Y: Numbers | None = None, *, ids: Names | None = None) -> None:  # noqa: N803 - the field's notation
        """Add rows.

        Args:
            X: features, shape (n, d), a tensor or numpy array of any real type that float64 holds exactly; or
                `Examples(x, y, ids=...)`, which say all three.
            Y: labels, shape (n,), whole numbers; or targets, shape (n, outputs).
            ids: a name for each row, new to this head.

        Raises:
            ValueError, TypeError: shapes, types, device, labels, an id known already or given twice; or a grid that is too
                fine for the values, or so coarse that it moves the first batch by a tenth of its length.
            NonFinite: NaN or infinity in X or Y.
            RunError: A would not be positive definite to rounding.

        The state is unchanged where anything is raised.
        """
        refuse_workers("AnalyticHead.learn")
        rows = self._checked(*given(X, Y, ids), first=self._sums is None)
        records = self._digests.records(rows)
        self._ledger.refuse_known(rows, records)
        if self._in_place(rows):
            self._shift(rows, 1)
        else:
            total = self._summed(rows) if self._sums is None else add(self._sums, self._summed(rows))
            self._solver.refuse_indefinite(total)
            self._take(total, self._solver.updated_(rows, self._sums, 1).inverse)
        self._ledger.enter(records)

    def forget(self, X: Numbers | Examples, Y: Numbers | None = None, *, ids: Names | None = None) -> None:  # noqa: N803
        """Subtract rows, given exactly as they were learned; the arguments and errors of `learn`.

        Raises:
            ValueError: a row of this id was never learned or is forgotten already (no trace is left to tell which), or was
                learned with another x or y. Features must be the same to the last bit, or with `grid` to the same step.
        """
        rows = self._checked(*given(X, Y, ids))
        records = self._digests.records(rows)
        self._ledger.refuse_other(rows, records)
        if len(records) == len(self):
            self._take(None, None)
        elif self._in_place(rows):
            self._shift(rows, -1)
        else:
            rest = subtract(cast("Sums", self._sums), self._summed(rows))
            self._solver.refuse_indefinite(rest)
            self._take(rest, self._solver.updated_(rows, self._sums, -1).inverse)
        self._ledger.strike(records)

    def remove_class(self, label: int, X: Numbers, *, ids: Names) -> None:  # noqa: N803
        """`forget` all rows of a class, and refuse unless these are all; the class is masked from then on.

        The sums do not tell the classes apart, so the rows are needed here as in `forget`.

        Raises:
            ValueError: as in `forget`, or the rows are not all of the class.
        """
        _validate.whole(0, label=label)
        counts, names, x = self.counts, names_in(ids), as_tensor("X", X)
        if label >= len(counts):
            raise ValueError(f"label must be below classes={self.classes}, not {label}")
        if len(names) != int(counts[label]):
            raise ValueError(
                f"class {label} has {int(counts[label])} rows, {len(names)} were given; nothing was forgotten"
            )
        self.forget(x, torch.full((len(names),), label, device=x.device), ids=names)

    def merge(self, other: "AnalyticHead") -> None:
        """Add all rows of another head, for example of another machine; `other` is unchanged.

        Raises:
            ValueError: other settings, key, width, outputs or device, or an id that both have learned.
        """
        if not isinstance(other, AnalyticHead):
            raise TypeError(f"other must be an AnalyticHead, not {type(other).__name__}")
        for name in ("ridge", "classes", "provenance", "rounding"):
            if getattr(self, name) != getattr(other, name):
                raise ValueError(f"{name} must be the same in both: {getattr(self, name)!r}, {getattr(other, name)!r}")
        for name, steps in self._grids.items():
            if not alike(steps, other._grids[name]):
                raise ValueError(f"{name} must be the same in both")
        if not hmac.compare_digest(self._key, other._key):
            raise ValueError("key must be the same in both: give it to each head as it is made")
        if len(self) and other._digests.version != self._digests.version:
            raise ValueError("one of the two was saved by an earlier version, with other digests: learn its rows anew")
        records = other._ledger.records()
        if common := int(np.count_nonzero(self._ledger.found(records))):
            raise ValueError(f"{common} ids are learned in both: each row may count once")
        if other._sums is None:
            return
        if self._sums is None:
            total = replace(other._sums, gram=other._sums.gram.clone())
        else:
            self._refuse_other_shape(other._sums.gram.device, *other._sums.moment.shape)
            total = add(self._sums, other._sums)
        self._solver.refuse_indefinite(total)
        self._take(total, None)
        self._digests = other._digests
        self._ledger.enter(records)
        self._states |= other._states

    @property
    def weights(self) -> Tensor:
        """W, shape (d, outputs), float64: a copy. Solved from the sums when first asked for.

        Raises:
            RunError: nothing is learned, A is not positive definite to rounding, or the residual is above `rounding`.
        """
        return self._solver.released(self._sums).weights.clone()

    @property
    def residual(self) -> float:
        """An upper bound on |A W - B|/|B|, the sums' rounding errors counted in; the errors of `weights`."""
        return self._solver.released(self._sums).residual

    @property
    def error_bound(self) -> float:
        """An upper bound on the Frobenius distance of W from ridge regression on these rows in real arithmetic."""
        return self._solver.released(self._sums).distance

    def scores(self, X: Numbers) -> Tensor:  # noqa: N803
        """X W, shape (n, outputs), float64; -inf at classes without a row. X is used as it is, without a grid."""
        weights = self._solver.predicting(self._sums).weights
        x = real("X", X, 2)
        if x.shape[1] != len(weights):
            raise ValueError(f"X must have {len(weights)} features, not {x.shape[1]}")
        scores, counts = x @ weights, cast("Sums", self._sums).counts
        return scores if counts is None or counts.all() else scores.masked_fill((counts == 0).to(x.device), -math.inf)

    def predict(self, X: Numbers) -> Tensor:  # noqa: N803
        """The label of the highest score, shape (n,); never one without a row."""
        if self.classes is None:
            raise ValueError("predict needs classes; for real targets use scores")
        return self.scores(X).argmax(1)

    def module(self) -> nn.Linear:
        """The weights to release: a float64 layer without bias, or with one of -inf at classes without a row."""
        weights = self._solver.released(self._sums).weights
        masked = None if self.classes is None else (self.counts == 0).to(weights.device)
        mask = masked is not None and bool(masked.any())
        # Empty, not initialised at random: the global generator is left alone.
        make = cast("Callable[..., nn.Linear]", nn.utils.skip_init)
        layer = make(nn.Linear, *weights.shape, bias=mask, device=weights.device, dtype=torch.float64)
        with torch.no_grad():
            layer.weight.copy_(weights.T)
            if masked is not None and mask:
                layer.bias.zero_().masked_fill_(masked, -math.inf)
        return layer

    def unlearned(self, *, forget: Iterable[str] = ()) -> Unlearned:
        """The layer and the record for `issue`: kind `exact`, or `none` where no provenance was declared.

        Args:
            forget: ids that must be no longer, or never, learned. The record's coverage is "ledger" where this head has
                subtracted rows since it was made or loaded, else "ids" with such ids, else "unchecked".

        Raises:
            StillRetained: rows of these ids are learned.
            RunError: there is no grid; or as `weights`.
        """
        refuse_workers("AnalyticHead.unlearned")
        ids = [] if isinstance(forget, tuple) and not forget else texts(forget)
        if held := [name for name in ids if name in self]:
            raise StillRetained(f"the head still holds {len(held)} of the {len(ids)} rows to forget, e.g. {held[0]!r}")
        if self._grid is None:
            raise RunError(
                "without a grid the last bits of the weights depend on the forgotten rows, and no certificate is made: make "
                "the head with a grid (the default), and learn the rows anew"
            )
        layer, size = self.module(), norm(self._solver.released(self._sums).weights)
        if self.error_bound > _POOR * size:
            _log.warning(
                "these weights, of norm %.3g, may lie %.3g from ridge regression in real arithmetic: they are, bit for bit, "
                "those of never having learned the forgotten rows, but may be poor ones; use a larger ridge",
                size, self.error_bound,
            )  # fmt: skip
        steps = {name: 0.0 if step is None else float(step.max()) for name, step in self._grids.items()}
        mechanism = (
            GridRidge(ridge=self.ridge, rounding=self.rounding, provenance=self.provenance, **steps)
            if self.provenance
            else UNDECLARED
        )
        coverage = "ledger" if self._ledger.struck else "ids" if ids else UNCHECKED
        return Unlearned(layer, noiseless_record(mechanism, layer, coverage=coverage))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the state, atomically, over an older one of this head; readable by its owner alone, without the key.

        Digests are sorted and nothing derived is kept: heads with the same settings, key, sums and rows give the same bytes.

        Raises:
            StateError, OutputError: see `saved.write`; the old file is untouched. A file that this head was neither loaded
                from nor saved to is not overwritten: another process may have saved requests there.
        """
        settings = {name: getattr(self, name) for name in ("ridge", "classes", "provenance", "rounding", "method")}
        content = pack(settings, self._ledger, self._sums, self._grids, key=self._key, version=self._digests.version)
        self._states.add(write(path, content, over=self._states))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, key: bytes, device: torch.device | str = "cpu") -> "AnalyticHead":
        """Read a head that `save` has written.

        Raises:
            StateError: the file is missing, truncated, altered, of another key or version, or not in float64.
        """
        mark = mark_of(path)
        settings, ledger, sums, grids = unpack(path, key=checked_key(key), device=device)
        version = settings.pop("digests")
        head = cls(**settings, grid=grids["grid"], target_grid=grids["target_grid"], key=key)
        head._ledger, head._sums, head._states = ledger, sums, {mark or b""}
        head._digests = RowDigests(key, exact=head._grid is not None, version=version)
        return head

    @property
    def _grids(self) -> dict[str, Tensor | None]:
        return {"grid": self._grid, "target_grid": self._target_grid}

    def _checked(self, x: object, y: object, ids: object, *, first: bool = False) -> Rows:
        rows = checked_rows(x, y, ids, classes=self.classes, first=first, **self._grids)
        if self._sums is not None:
            self._refuse_other_shape(rows.x.device, rows.x.shape[1], self.classes or rows.y.shape[1])
        return rows

    def _refuse_other_shape(self, device: torch.device, width: int, outputs: int) -> None:
        moment = cast("Sums", self._sums).moment
        if (width, outputs) != tuple(moment.shape):
            raise ValueError(
                f"rows of {width} features and {outputs} outputs do not fit the {moment.shape[0]} features and "
                f"{moment.shape[1]} outputs learned so far"
            )
        if device != moment.device:
            raise ValueError(f"rows lie on {device}, the sums on {moment.device}: move the rows")

    def _summed(self, rows: Rows) -> Sums:
        return sums_of(rows.x, rows.y, classes=rows.classes, exact=self._grid is not None)

    def _in_place(self, rows: Rows) -> bool:
        """Whether the sums are changed in place: whole numbers, and few rows."""
        return self._sums is not None and self._sums.exact and few(rows)

    def _shift(self, rows: Rows, sign: int) -> None:
        """Rows more (sign 1) or fewer (sign -1), in place: nothing is changed before nothing can be refused."""
        sums = cast("Sums", self._sums)
        if (moved := self._solver.moved_(rows, sums, sign)) is not None:
            self._sums = moved
            return
        changed = after(sums, rows.x, rows.y, classes=rows.classes, sign=sign)
        diagonal = sums.gram.diagonal().double() + sign * rows.x.square().sum(0)
        whole = changed is None or not self._solver.surely_positive(diagonal, sums)
        if changed is None or whole:
            changed = (add if sign > 0 else subtract)(sums, self._summed(rows))
            self._solver.refuse_indefinite(changed)
        updated = self._solver.updated_(rows, sums, sign)
        if not whole:
            shift_(sums, rows.x, sign)
        self._take(changed, updated.inverse)
        self._solver.follow(updated, changed)

    def _take(self, sums: Sums | None, inverse: Inverse | None) -> None:
        self._sums = sums
        self._solver.restart(inverse)
