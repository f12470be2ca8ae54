"""The loss of a causal language model: a mean over each row's own tokens, then over rows."""

from typing import Any

from torch import Tensor, nn

from expunge.hf.rows import IGNORED
from expunge.hf.serving import AdapterMixture

__all__ = ["causal_loss", "check_loss", "row_losses"]


def causal_loss(model: nn.Module, batch: Any) -> Tensor:
    """The mean over rows of each row's mean negative log-likelihood a learned token.

    A row counts as much in every batch, whatever the lengths of the others there.

    Args:
        model: called with `input_ids` and `attention_mask`, returns `logits` of shape (b, t, vocabulary).
        batch: fields `input_ids`, `attention_mask` and `labels`, each of shape (b, t).
    """
    return row_losses(model, batch).mean()


def row_losses(model: nn.Module, batch: Any) -> Tensor:
    """The mean negative log-likelihood of each row's learned tokens, shape (b,); 0 for a row without any."""
    # A mixture that routes by prompts must be told where they end, or it would route by the answers too.
    told = {"labels": batch["labels"]} if isinstance(model, AdapterMixture) else {}
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], **told).logits
    labels = batch["labels"][:, 1:]
    each = nn.functional.cross_entropy(
        logits[:, :-1].transpose(1, 2).float(), labels, reduction="none", ignore_index=IGNORED
    )
    return each.sum(1) / (labels != IGNORED).sum(1).clamp(min=1)


def check_loss(loss: object) -> None:
    """Refuse the losses of transformers, by name or as functions.

    Raises:
        ValueError: their mean is over all tokens of a batch.
        TypeError: it is no function.
    """
    where = getattr(loss, "__module__", "") or ""
    if loss == "token_mean" or where.startswith("transformers."):
        raise ValueError(
            f"loss={getattr(loss, '__name__', loss)!r} is the mean over all tokens of a batch (token_mean), as transformers computes it: how much "
            "a row counts would depend on the lengths of the others. Give loss=ex.hf.causal_loss, a mean over rows"
        )
    if not callable(loss):
        raise TypeError(f"loss must be a function loss(model, batch), e.g. ex.hf.causal_loss, not {loss!r}")
