"""Poisson samples of the data, and the gradient of every example alone: what private training is fed with."""

import itertools
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # pyright: ignore[reportPrivateUsage]

from expunge import _validate
from expunge.data import Examples
from expunge.data.batches import changed, tensors_in
from expunge.data.examples import Batch
from expunge.errors import MissingExtra, ModelRefused, RunError
from expunge.randomness.coins import heads
from expunge.randomness.secret import Secret
from expunge.training.loss import Loss, backward
from expunge.training.mixing import MIXED, apart, telling_rows
from expunge.training.randomness import coins_mark
from expunge.training.still import coins_held_still
from expunge.training.weights import FlatWeights

__all__ = ["ExampleGradients", "poisson_batches"]


def poisson_batches(examples: Examples, *, sampling_rate: float, secret: Secret, skip: int = 0) -> Iterator[Batch]:
    """Endless batches; every example is in each one with probability `sampling_rate`, independently; some are empty.

    Shuffled epochs are no substitute: there an example's absence from one batch tells of the others, and the accounting
    of Poisson samples does not bound what they leak (Chua et al. 2024, arXiv 2403.17673).

    Args:
        examples: the data.
        sampling_rate: q in (0, 1].
        secret: of the coins; batch k has a key of its own, whatever was drawn before.
        skip: batches already used, when a run goes on.
    """
    _validate.positive(sampling_rate=sampling_rate)
    for batch in itertools.count(skip):
        drawn = torch.from_numpy(heads(secret.derive("batch", batch), len(examples), sampling_rate))
        yield examples.batch(drawn)


class ExampleGradients:
    """(theta, batch) -> the gradient of every example alone, by Opacus; batches are taken apart to bound the memory.

    The loss stays `loss(model, batch)`, the mean over the batch: Opacus multiplies the gradient that reaches each example
    by the batch's size. This is right for a mean of terms that each see one example; `probe` refuses what is not.

    Args:
        weights: of the model, which is wrapped until `close`.
        loss: the mean over the batch of a term for each example.
        at_once: examples in one backward pass; their gradients take `at_once` times the memory of the weights.
        sample_clip: the bound that an example's gradient is held to: what is far below it is not told apart.

    Raises:
        MissingExtra: Opacus is not installed.
        ModelRefused: a layer mixes examples, or Opacus has no gradients by example for it.
    """

    def __init__(self, weights: FlatWeights, loss: Loss, *, at_once: int, sample_clip: float = 1.0) -> None:
        _validate.whole(at_once=at_once)
        self._clip, self._largest, self._watched = sample_clip, 0.0, 0
        # Against rounding: gradients of bfloat16 models agree to two digits, mistakes differ by far more.
        self._tolerance = 0.1 if weights.dtype == torch.bfloat16 else 1e-3
        self._weights, self._loss, self._at_once = weights, loss, at_once
        named = dict(weights.model.named_parameters())
        self._parameters = [named[name] for name in weights.names]
        self._wrapped = _wrap(weights.model)

    def __call__(self, theta: Tensor, batch: Batch) -> Iterator[Tensor]:
        """Parts of shape (b, d), b ≤ at_once, float32 or float64."""
        assert theta is self._weights.theta
        size = len(tensors_in(batch)[0])
        if size:
            self._weights.write(with_grad=False)
        for start in range(0, size, self._at_once):
            part = _cut(batch, start, start + self._at_once)
            before = coins_mark(self._weights.device)
            rows = self._rows(part)
            self._watch(part, rows, drew=coins_mark(self._weights.device) != before)
            yield rows.float() if rows.dtype == torch.bfloat16 else rows

    def probe(self, examples: Examples) -> None:
        """Hold gradients in one batch against those of each example alone: in training mode, with coins held still.

        Batches of two, of rows of every label and of `at_once` rows are tried; where many labels are, values spread over
        their range. What only some batches show is watched at every step.

        Raises:
            ModelRefused: they differ: loss or model mixes examples, the loss is a sum or has a term of the weights alone,
                or a parameter is used outside the layer that owns it.
        """
        most = min(len(examples), max(self._at_once, 3))
        rows = telling_rows(examples)[:most]
        named = set(rows)
        filled = [*rows, *itertools.islice((row for row in range(len(examples)) if row not in named), most - len(rows))]
        self._weights.write(with_grad=False)
        with coins_held_still(self._weights.device):
            alone = [self._single(examples.batch(slice(row, row + 1))) for row in rows]
        for batch in (rows, rows[:2], list(reversed(rows))[:2], filled):
            with coins_held_still(self._weights.device):
                together = self._rows(examples.batch(torch.tensor(batch)))
            places = [place for place, row in enumerate(batch) if row in named]
            single = [alone[rows.index(batch[place])] for place in places]
            if apart(together[places], single, relative=self._tolerance, absolute=1e-7):
                raise ModelRefused(MIXED)

    def _watch(self, batch: Batch, rows: Tensor, *, drew: bool) -> None:
        """Hold one example's gradient in this very batch against its own; all of them take turns.

        The choice is no coin, and nothing of it reaches the weights. Where coins were drawn, eight rows are tried with
        coins held still.
        """
        self._watched += 1
        place = self._watched % len(rows)
        one = _cut(batch, place, place + 1)
        if drew:
            few = changed(batch, lambda t: torch.cat([t[place : place + 1], t[:place][:4], t[place + 1 :][:4]]))
            with coins_held_still(self._weights.device):
                together = self._rows(few)[:1]
            with coins_held_still(self._weights.device):
                alone = self._single(one)
        else:
            together, alone = rows[place : place + 1], self._single(one)
        # Rounding is of the size of large gradients, also where an example's own has become small.
        self._largest = max(self._largest, float(torch.linalg.vector_norm(alone)))
        slack = max(1e-4 * self._clip, 1e-5 * self._largest)
        if apart(together, [alone], relative=10 * self._tolerance, absolute=slack):
            raise ModelRefused(f"at a step of the training {MIXED}")

    def close(self) -> None:
        """Give the model back as it was."""
        self._clear()
        self._wrapped.to_standard_module()

    def _rows(self, batch: Batch) -> Tensor:
        self._backward(batch)
        size = len(tensors_in(batch)[0])
        rows = [self._of_examples(p, size).reshape(size, -1) for p in self._parameters]
        self._clear()
        return torch.cat(rows, dim=1)

    def _single(self, example: Batch) -> Tensor:
        """The plain gradient of a batch of one."""
        self._wrapped.disable_hooks()
        try:
            self._backward(example)
        finally:
            self._wrapped.enable_hooks()
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self._parameters]
        flat = torch.cat([part.reshape(-1) for part in parts])
        self._clear()
        return flat

    def _backward(self, batch: Batch) -> None:
        self._clear()
        with warnings.catch_warnings():
            # Opacus hooks every layer; at the first one torch remarks that the inputs need no gradient, which is so.
            warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
            try:
                backward(self._loss, self._wrapped, batch)
            except AttributeError as error:  # of a parameter that Opacus does not know
                if self._weights.replaced is None:
                    raise
                raise ModelRefused(
                    f"the model puts another parameter in the place of '{self._weights.replaced}'"
                ) from error

    def _of_examples(self, parameter: nn.Parameter, size: int) -> Tensor:
        found: object = getattr(parameter, "grad_sample", None)
        if found is None:  # not reached by this loss
            return parameter.detach().new_zeros(size, parameter.numel())
        if not isinstance(found, Tensor) or len(found) != size:
            raise RunError(f"the loss must use the model once for a batch of {size} examples, example by example")
        return found

    def _clear(self) -> None:
        for parameter in self._weights.model.parameters():
            parameter.grad = None
            if hasattr(parameter, "grad_sample"):  # an attribute of Opacus
                cast("Any", parameter).grad_sample = None


def _cut(batch: Batch, start: int, stop: int) -> Batch:
    return changed(batch, lambda t: t[start:stop])


def _wrap(model: nn.Module) -> Any:
    """The model with Opacus' hooks, in training mode."""
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm):  # Opacus lets one without parameters pass
            raise ModelRefused(
                f"'{name}' is a {type(module).__name__}, which mixes the examples of a batch: use GroupNorm or LayerNorm"
            )
        if getattr(module, "sparse", False) is True:
            raise ModelRefused(f"'{name}' makes sparse gradients: build it with sparse=False for private training")
    try:
        from opacus.grad_sample import GradSampleModule
        from opacus.validators import ModuleValidator
    except ModuleNotFoundError as error:
        raise MissingExtra("private training needs Opacus: pip install 'expunge[dp]'") from error
    faults: list[Any] = ModuleValidator.validate(model, strict=False)
    if faults:
        raise ModelRefused(f"no gradients by example for this model: {'; '.join(map(str, faults))}")
    try:
        return GradSampleModule(model, batch_first=True, loss_reduction="mean", strict=True)
    except NotImplementedError as error:
        raise ModelRefused(f"no gradients by example for this model: {error}") from error
