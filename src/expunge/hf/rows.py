"""From a dataset of texts to `Examples` that a causal language model is trained on."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from expunge import _validate
from expunge.data import Examples

__all__ = ["IGNORED", "examples"]

IGNORED = -100
"""The label of a token that no loss counts: of prompts and padding."""


def examples(
    dataset: Any,
    tokenizer: Any,
    *,
    answer: str,
    id: str,  # noqa: A002  the name of a column
    prompt: str | None = None,
    person: str | None = None,
    length: int = 512,
) -> Examples:
    """Rows of a dataset as token ids: a prompt, which is masked, and the answer, which is learned.

    A row's tokens follow from that row alone, so that removing others changes nothing of it. Prompt and answer are
    tokenised apart: the prompt with the special tokens that begin a text, the answer without any and with the token that
    ends one, where the tokenizer has it. Rows are padded on the right, and cut off, at `length`.

    Args:
        dataset: a `datasets.Dataset`, or a sequence of mappings from columns to texts.
        tokenizer: of transformers, the base's own.
        answer: the column of texts to be learned.
        id: the column of names, no two alike, that stay when other rows leave.
        prompt: the column of prompts; without one all of a text is learned.
        person: the column of owners, whose rows lie in one cell of a bank; without one each row is its own.
        length: tokens of a row.

    Returns:
        `Examples` with fields `input_ids`, `attention_mask` and `labels`, each int64 of shape (n, length); `groups` are the
        persons.

    Raises:
        ValueError: no row, a column that is missing, an id given twice, or a row of which nothing would be learned: its
            prompt fills the length, or its answer has no token.
        TypeError: a cell that is no text, or a dataset that is none.
    """
    _validate.whole(length=length)
    rows = _rows(dataset, [name for name in (prompt, answer, id, person) if name is not None])
    tokens, labels = list[list[int]](), list[list[int]]()
    for row in rows:
        ids, learned = _tokens(row, tokenizer, prompt, answer)
        ids, learned = ids[:length], learned[:length]
        if all(label == IGNORED for label in learned[1:]):  # the first token is predicted from nothing
            raise ValueError(
                f"row {row[id]!r} has no label token: its prompt fills the {length} tokens, or its answer is empty. Give a larger "
                "length=, or leave the row out"
            )
        tokens.append(ids)
        labels.append(learned)
    owners = None if person is None else [row[person] for row in rows]
    filler = next((t for t in (tokenizer.pad_token_id, tokenizer.eos_token_id) if t is not None), 0)
    return Examples(
        input_ids=_padded(tokens, filler, length), labels=_padded(labels, IGNORED, length),
        attention_mask=_padded([[1] * len(ids) for ids in tokens], 0, length), ids=[row[id] for row in rows], groups=owners,
    )  # fmt: skip


def _rows(dataset: Any, columns: Sequence[str]) -> list[Mapping[str, Any]]:
    if isinstance(dataset, (str, bytes, Mapping)) or not isinstance(dataset, Iterable):
        raise TypeError(
            f"dataset must be a datasets.Dataset (one split of it), or a sequence of mappings, not {type(dataset).__name__}"
        )
    rows: list[Any] = list(dataset)
    if not rows:
        raise ValueError("the dataset holds no row")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise TypeError(f"row {number} of the dataset must be a mapping from columns, not {type(row).__name__}")
        if missing := [name for name in columns if name not in row]:
            raise ValueError(
                f"row {number} of the dataset has no column {missing[0]!r}; it has {sorted(map(str, row))}"
            )
    return rows


def _tokens(row: Mapping[str, Any], tokenizer: Any, prompt: str | None, answer: str) -> tuple[list[int], list[int]]:
    """Token ids of a row, and what of them is learned."""
    for column in (prompt, answer):
        if column is not None and not isinstance(row[column], str):
            raise TypeError(f"column {column!r} must hold texts, not {_validate.shown(row[column])}")
    asked: list[int] = [] if prompt is None else list(tokenizer(row[prompt])["input_ids"])
    if prompt is None:
        said: list[int] = list(tokenizer(row[answer])["input_ids"])
    else:
        if asked and asked[-1] == tokenizer.eos_token_id:
            asked.pop()  # a text that goes on has not ended
        said = list(tokenizer(row[answer], add_special_tokens=False)["input_ids"])
    if said and tokenizer.eos_token_id is not None and said[-1] != tokenizer.eos_token_id:
        said.append(tokenizer.eos_token_id)
    return asked + said, [IGNORED] * len(asked) + said


def _padded(rows: Sequence[Sequence[int]], filler: int, length: int) -> Tensor:
    return torch.tensor([[*row, *[filler] * (length - len(row))] for row in rows], dtype=torch.int64)
