"""A linear head with a strongly convex objective: retrained from where it stands, to a residual that is measured."""

import hmac
import os
from collections.abc import Iterable
from dataclasses import asdict, replace
from math import log10
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from expunge import _validate
from expunge._fixed import fixed
from expunge._workers import refuse_workers
from expunge.accounting import Budget, MeasuredResidual, Mechanism, UndeclaredFeatures, calibrate
from expunge.certificate.commitments import texts
from expunge.certificate.digests import weights_digest
from expunge.certificate.record import UNCHECKED, RunRecord
from expunge.data import Request, new_commitment_key
from expunge.errors import RunError, StillRetained
from expunge.heads.blocks import Blocks, Rows, ids_of
from expunge.heads.corrections import Corrections, digest
from expunge.heads.fairness import EqualScores
from expunge.heads.newton import Preconditioner, Solution, Step, minimise
from expunge.heads.objectives import LOSSES, Objective
from expunge.heads.preconditioners import ClassBlocks, Kronecker, Plain
from expunge.heads.rows import checked_key
from expunge.heads.saved import mark_of, write
from expunge.heads.saved_convex import Kept, pack, unpack
from expunge.training.noise import Noise
from expunge.training.randomness import environment
from expunge.training.unlearned import Unlearned

__all__ = ["ConvexHead", "noise_for"]

_WIDEST = 4096  # features of which a Gram matrix is decomposed
_NEAR = (1e-2, 1e-4)  # of the gradient at zero: where blocks are made, and made anew where they have aged
_STALE = 15  # products for each power of ten: twice what blocks need, which pays for new ones in five or six
_LARGEST_KEPT = 1e30  # regularisation: beyond, float32 holds no inverse, and none is worth keeping


@fixed("mechanism")
class ConvexHead:
    """W minimises F(W) = mean loss(W x, y) + penalty(W) + (λ/2)|W|² over the rows learned, as corrected since.

    `unlearn` goes on from the present W on the retained, corrected rows until |∇F| ≤ β, rounding included, which puts W
    within β/λ of the exact minimiser, and hands out W + N(0, σ² I): μ = β/(λ σ), mechanism `MeasuredResidual`.

    The exact W stays inside as the start of the next request. It is secret: without the noise nothing is proven of it.
    So is all else that the object holds. Each release draws fresh noise about the current W, and whoever holds several
    holds more: for a row forgotten at the first of k requests their guarantees compose (`expunge.compose`, μ √k).

    λ-strong convexity holds as every coordinate is regularised (the bias is a feature that is always 1), and loss and
    penalty are convex: losses come from a closed table, a function of one's own is refused.

    Args:
        loss: "logistic" (multinomial), "squared" (of one-hot labels), or "smooth_hinge" (one against the rest).
        regularization: λ > 0.
        classes: labels are 0 to classes - 1; at least 2.
        residual: β > 0, fixed in advance.
        noise_std: σ per coordinate, or a budget from which it is calibrated.
        provenance: why the features depend on no row that may be forgotten, in a line; "" says that this is not known,
            and certificates will then be of kind `none`. Scaling and projection are part of the feature map.
        bias: whether there is one.
        fairness: an optional convex penalty (`EqualScores`).
        factor_limit: blocks of the inverse Hessian, one a class and 4 (classes + 1) (features + 1)² bytes in all, are kept from
            `fit`, so that later requests need few passes, where that is at most 4 factor_limit²; 0 for none.
        key: of the digests of ids and of state files, at least 32 bytes, secret; by default a fresh one, see `key`.

    All of these must be chosen without the rows that may be forgotten. Weights are float64; so is the model.
    """

    def __init__(
        self,
        *,
        loss: Literal["logistic", "squared", "smooth_hinge"],
        regularization: float,
        classes: int,
        residual: float,
        noise_std: float | Budget,
        provenance: str,
        bias: bool = True,
        fairness: EqualScores | None = None,
        factor_limit: int = 6144,
        key: bytes | None = None,
    ) -> None:
        if not isinstance(loss, str) or loss not in LOSSES:
            raise ValueError(
                f"loss must be one of {', '.join(LOSSES)}, not {loss!r}: strong convexity is proven for these alone; "
                "for a network or a loss of your own use unlearn() with another mechanism"
            )
        _validate.positive(regularization=regularization, residual=residual)
        _validate.whole(2, classes=classes)
        _validate.whole(0, factor_limit=factor_limit)
        if fairness is not None and not isinstance(fairness, EqualScores):
            raise TypeError(f"fairness must be EqualScores(weight=...) or None, not {_validate.shown(fairness)}")
        if provenance != "":
            _validate.text(provenance=provenance)
        if isinstance(noise_std, Budget):
            noise_std = noise_for(noise_std, residual=residual, regularization=regularization)
        _validate.positive(noise_std=noise_std)
        self._key = new_commitment_key() if key is None else checked_key(key)
        self._loss, self._regularization, self._classes = LOSSES[loss], float(regularization), int(classes)
        self._residual, self._bias, self._fairness = float(residual), bool(bias), fairness
        self._factor_limit = factor_limit
        self.mechanism: Mechanism = (
            MeasuredResidual(
                residual=residual, strong_convexity=regularization, noise_std=noise_std, provenance=provenance
            )
            if provenance
            else UndeclaredFeatures(head="measured_residual", noise_std=noise_std)
        )
        self._noise_std = float(noise_std)
        self._settings: dict[str, Any] = {
            "loss": loss, "regularization": self._regularization, "classes": self._classes, "residual": self._residual,
            "noise_std": self._noise_std, "provenance": provenance, "bias": self._bias, "fairness": fairness,
            "factor_limit": int(factor_limit),
        }  # fmt: skip
        self._states = set[bytes]()  # the files of which this head is the continuation
        self._width = 0
        self._corrections: Corrections | None = None
        self._solution: Solution | None = None
        self._preconditioner: Preconditioner | None = None

    def __len__(self) -> int:
        """Rows learned and not deleted."""
        return 0 if self._corrections is None else self._corrections.retained

    def __contains__(self, row_id: str) -> bool:
        """Whether a row of this id was learned and not deleted."""
        known = self._corrections
        if known is None:
            return False
        name = digest(row_id, known.key)
        return name in known.learned and name not in known.removed

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments that it was made with, without the key; noise_std as a number."""
        return dict(self._settings)

    @property
    def key(self) -> bytes:
        """The secret key of digests and state files. Keep it apart from the file: with both, ids can be guessed."""
        return self._key

    @property
    def noise_std(self) -> float:
        """σ, per coordinate."""
        return self._noise_std

    @property
    def solution(self) -> Solution:
        """The exact weights and how they were reached, for the operator: secret, never to be published.

        Raises:
            RunError: nothing was fitted.
        """
        if self._solution is None:
            raise RunError("this head is not fitted yet: call fit(rows)")
        return self._solution

    def fit(
        self,
        rows: Rows,
        *,
        forget: Iterable[str] = (),
        generator: torch.Generator | None = None,
        prepare: bool = True,
    ) -> Unlearned:
        """Train on all rows from zero, to the same residual as every request: exact retraining.

        Args:
            rows: see `expunge.heads.blocks.Rows`.
            forget: ids that must not be among them; the record's coverage is then "ids", else "unchecked".
            generator: of the noise; by default a secret one.
            prepare: keep blocks of the inverse Hessian (see `factor_limit`) for the requests to come.

        Raises:
            StillRetained: the rows hold one of the ids to forget.
            ValueError, TypeError: the rows are not usable, or the head is fitted already.
            RunError, NonFinite: see `minimise`. The head stays as it was.
        """
        refuse_workers("ConvexHead.fit")
        if self._solution is not None:
            raise ValueError("this head is fitted already; make a new one, or call unlearn(rows, request)")
        key = _digest_key(self._key)
        learned, width = ids_of(rows, key=key)
        ids = [] if isinstance(forget, tuple) and not forget else texts(forget)
        if held := [name for name in ids if digest(name, key) in learned]:
            raise StillRetained(f"rows hold {len(held)} of the {len(ids)} rows to forget, e.g. {held[0]!r}")
        corrections = Corrections(key=key, learned=learned)
        objective = self._objective(rows, corrections, width)
        solution, preconditioner = self._fitted(objective, keep=prepare)
        released = self._release(solution, width, generator, coverage="ids" if ids else UNCHECKED)
        self._corrections, self._solution, self._width = corrections, solution, width
        self._preconditioner = preconditioner if prepare else None
        return released

    def unlearn(self, rows: Rows, request: Request, *, generator: torch.Generator | None = None) -> Unlearned:
        """Bring the head to the retained, corrected rows, and release it.

        Args:
            rows: every retained row, in any order; those forgotten now or earlier may be there or not. Corrections of
                this and earlier requests are applied, whether or not the rows carry them already.
            request: rows, labels, features, or several of them; owners as rows, `request.resolved(examples)`.
            generator: of the noise; by default a secret one. A seed of one's own must stay secret, see `unlearn`.

        Raises:
            RunError: not fitted, or β cannot be certified.
            ValueError, TypeError: an id is unknown or forgotten already, rows are missing, or are not usable.
            NonFinite: see `Objective.measure`. In all cases the head stays as it was.
        """
        refuse_workers("ConvexHead.unlearn")
        before = self.solution
        if not isinstance(request, Request):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(
                f"request must be made by Request.rows, .labels or .features, not {_validate.shown(request)}"
            )
        assert self._corrections is not None
        corrections = self._corrections.after(request, classes=self._classes, width=self._width)
        objective = self._objective(rows, corrections, self._width)
        factor = self._preconditioner or _start_factor(objective)  # saved without it
        solution = minimise(objective, before.weights, residual=self._residual, preconditioner=factor)
        released = self._release(solution, self._width, generator, coverage="ledger")
        self._corrections, self._solution, self._preconditioner = corrections, solution, factor
        return released

    def save(self, path: str | os.PathLike[str], *, inverse: bool = True) -> None:
        """Write the state, atomically, over an older one of this head; readable by its owner alone, without the key.

        The file is as secret as the head: it holds the exact weights. With `inverse` it also holds the blocks of
        the inverse Hessian that `fit` has kept, computed from all rows of that time, those forgotten since among them: 4
        (classes + 1) (features + 1)² bytes (12 MB for 10 classes and 512 features), or a Gram matrix of 8 (features + 1)². A
        head loaded from it answers bit for bit as this one. Without it the file takes 8 bytes a weight and 16 a row, the
        next request makes a Gram matrix of the rows it is given, and is slower, to the same certified residual.

        Raises:
            RunError: nothing was fitted.
            StateError, OutputError: see `saved.write`; the old file is untouched. A file that this head was neither loaded
                from nor saved to is not overwritten: another process may have saved requests there.
        """
        solution = self.solution
        assert self._corrections is not None
        factor = self._preconditioner if inverse else None
        kept = Kept(width=self._width, corrections=self._corrections, solution=solution, factor=factor)
        fairness = None if self._fairness is None else asdict(self._fairness)
        content = pack(self._settings | {"fairness": fairness}, kept, key=self._key)
        self._states.add(write(path, content, over=self._states))

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, key: bytes, noise_std: float | Budget | None = None) -> "ConvexHead":
        """Read a head that `save` has written.

        Args:
            path: the file.
            key: the `key` of the head that was saved.
            noise_std: of the releases to come, a number or a budget; by default as it was saved.

        Raises:
            StateError: the file is missing, truncated, altered, of another key or version, or its weights are not float64.
        """
        mark = mark_of(path)
        settings, kept = unpack(path, key=checked_key(key), digest_key=_digest_key(key))
        if settings["fairness"] is not None:
            settings["fairness"] = EqualScores(**settings["fairness"])
        if noise_std is not None:
            settings["noise_std"] = noise_std
        head = cls(**settings, key=key)
        head._width, head._corrections, head._solution = kept.width, kept.corrections, kept.solution
        head._preconditioner, head._states = kept.factor, {mark or b""}
        return head

    def _objective(self, rows: Rows, corrections: Corrections, width: int) -> Objective:
        groups = self._fairness.groups if self._fairness is not None else 0
        blocks = Blocks(rows, corrections, classes=self._classes, width=width, bias=self._bias, groups=groups)
        return Objective(
            blocks,
            self._loss,
            regularization=self._regularization,
            outputs=self._classes,
            width=width + int(self._bias),
            fairness=self._fairness,
        )

    def _fitted(self, objective: Objective, *, keep: bool) -> tuple[Solution, Preconditioner]:
        """The minimiser from zero, and what is kept: near enough to it, blocks of the Hessian take over from a Gram matrix."""
        factor: Preconditioner = _start_factor(objective)
        w = torch.zeros(objective.shape, dtype=torch.float64)
        first, steps = objective.measure(w), list[Step]()
        for share in _NEAR if self._blocks_fit(objective) else ():
            part = minimise(objective, w, residual=max(self._residual, share * first.norm), preconditioner=factor)
            w, steps = part.weights, [*steps, *part.steps]
            if _slow(part) or (keep and not isinstance(factor, ClassBlocks)):
                factor = ClassBlocks(objective, w)
        end = minimise(objective, w, residual=self._residual, preconditioner=factor)
        return replace(end, start=first.certified, steps=(*steps, *end.steps)), factor

    def _blocks_fit(self, objective: Objective) -> bool:
        """Whether blocks are worth their memory. For the squared loss the Gram matrix says all."""
        small = (self._classes + 1) * objective.shape[1] ** 2 <= self._factor_limit**2
        return small and self._regularization < _LARGEST_KEPT and self._settings["loss"] != "squared"

    def _release(
        self, solution: Solution, width: int, generator: torch.Generator | None, *, coverage: str = UNCHECKED
    ) -> Unlearned:
        """W + N(0, σ² I) as a module, and the record; no number of the search enters either."""
        if not solution.residual <= self._residual:
            raise RunError(f"the residual is {solution.residual:g}, above residual={self._residual:g}")
        noise = Noise(self._noise_std, generator)
        noisy = noise.add_(solution.weights.reshape(-1).clone(), released=True).view(self._classes, -1)
        model = _linear(noisy, width)
        device = torch.device("cpu")
        record = RunRecord(
            mechanism=self.mechanism,
            steps_done=0,
            noise=noise.record(),
            layers=tuple((name, p.numel()) for name, p in model.named_parameters()),
            weights_dtype="float64",
            center="zero",
            buffers="none",
            public=(),
            certified=weights_digest(model),
            environment=environment(device),
            coverage=coverage,
        )
        return Unlearned(model, record)


def _slow(part: Solution) -> bool:
    """Whether the search took more products than blocks of the Hessian would have."""
    return sum(step.products for step in part.steps) > _STALE * log10(part.start / part.residual)


def _start_factor(objective: Objective) -> Preconditioner:
    """What can be had of one pass over the rows."""
    return Kronecker(objective) if objective.shape[1] <= _WIDEST else Plain()


def _digest_key(key: bytes) -> bytes:
    """The key of the ids' digests, 32 bytes, which a digest of the file tells nothing of."""
    return hmac.digest(key, b"expunge.convex_head.ids", "sha256")


def noise_for(budget: Budget, *, residual: float, regularization: float) -> float:
    """The least σ with which a residual β and a λ-strongly convex objective meet `budget`.

    >>> sigma = noise_for(Budget(epsilon=0.1, delta=1e-6), residual=1e-8, regularization=1e-4)
    >>> f"{1e-8 / 1e-4 / sigma:.4f}"
    '0.0275'
    """
    return calibrate(
        lambda s: MeasuredResidual(
            residual=residual, strong_convexity=regularization, noise_std=s, provenance="calibration"
        ),
        budget,
    ).noise_std


def _linear(weights: Tensor, width: int) -> nn.Linear:
    """A linear layer with these weights, shape (outputs, D); draws no initialisation."""
    bias = weights.shape[1] > width
    model = cast("nn.Linear", skip_init(nn.Linear, width, len(weights), bias=bias, dtype=torch.float64))
    with torch.no_grad():
        model.weight.copy_(weights[:, :width])
        if bias:
            model.bias.copy_(weights[:, width])
    return model
