"""The in-context audit: what a prompt, or a few labelled rows, give back of a concept, beside a model that never saw it.

Source: Shumailov et al. 2024, arXiv 2407.00106. Numbers for `Audit.with_measurements`, and no findings: a release and a
reference of one law answer alike, whatever the prompt tells them, so that no answer in context breaks a certificate.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge.audit.measurement import Measurement, Shares
from expunge.data.arrays import as_tensor, wholes
from expunge.data.coverage import rows_held
from expunge.training.randomness import mode
from expunge.training.scores import scores_of

__all__ = ["Questions", "in_context", "nearest_class_means"]

Sequences = Tensor | Sequence[Tensor]
"""Tokens of several sequences, shape (n, length), or n of shape (length,) each."""
Features = Callable[[Tensor], Tensor]
_DIRECTION = (
    "above its null: the excess was left by the unlearner; below: it shows that the concept was forgotten. The null itself "
    "is what a model of this kind answers that never saw the concept, and no unlearner can take it away"
)
_ROWS = 1024  # rows whose features are computed at a time


class Questions:
    """Questions about a concept to a sequence model, and what may be shown in context before each.

    Args:
        prompts: tokens of each question, shape (n, length), or n sequences of shape (length,) each.
        answers: the right token for each, shape (n,).
        positions: where the model's scores are those of the answer, shape (n,); by default at the last token of each
            prompt.
        examples: for each question its examples or definitions, shape (n, m, length), or n sequences of sequences; k of
            them in context are the first k. The same for all n: `shared.expand(n, -1, -1)`.
        begin: tokens before everything, such as the one that begins a text.
        labels: answers that stand in prompts too and tell nothing there, such as yes and no: of these an example is
            refused that asks the question itself and answers it.

    Raises:
        ValueError: an answer position beyond the prompt, a prompt that holds the answer, lengths that disagree, no tokens.
        TypeError: tokens that are no whole numbers.
    """

    def __init__(
        self,
        prompts: Sequences,
        answers: Tensor,
        *,
        positions: Tensor | None = None,
        examples: Tensor | Sequence[Sequences] = (),
        begin: Tensor | None = None,
        labels: Collection[int] = (),
    ) -> None:
        self._prompts = [_tokens(f"prompts[{i}]", one) for i, one in enumerate(prompts)]
        if not self._prompts:
            raise ValueError("there is no question: prompts must hold at least one")
        self.answers = wholes("answers", answers)
        last = torch.tensor([len(one) - 1 for one in self._prompts])
        self._positions = last if positions is None else wholes("positions", positions)
        for name, given in (("answers", self.answers), ("positions", self._positions)):
            if len(given) != len(self):
                raise ValueError(f"{name} must hold one entry for each of {len(self)} prompts, not {len(given)}")
        self._begin = () if begin is None else (_tokens("begin", begin),)
        self._examples = [
            [_tokens(f"examples[{i}][{j}]", one) for j, one in enumerate(own)] for i, own in enumerate(examples)
        ] or [[] for _ in self._prompts]
        if len(self._examples) != len(self):
            raise ValueError(f"examples must hold some for each of {len(self)} prompts, not for {len(self._examples)}")
        self._labels = frozenset(labels)
        for i in range(len(self)):
            self._refuse_told(i)

    def __len__(self) -> int:
        return len(self._prompts)

    def asked(self, k: int) -> list[tuple[Tensor, int]]:
        """For each question what the model is given with k examples in context, shape (length,), and where it answers.

        Raises:
            ValueError: a question has fewer than k examples, or one of these k holds its answer.
        """
        _validate.whole(0, k=k)
        found: list[tuple[Tensor, int]] = []
        for i, (prompt, position, own) in enumerate(
            zip(self._prompts, self._positions.tolist(), self._examples, strict=True)
        ):
            if len(own) < k:
                raise ValueError(f"k={k} is larger than the number of examples of question {i}, {len(own)}")
            context = torch.cat([*self._begin, *own[:k], prompt[:0]])
            self._refuse_shown(i, context, k)
            found.append((torch.cat([context, prompt]), len(context) + position))
        return found

    def _refuse_told(self, i: int) -> None:
        """Raise where a prompt has no such position, or holds the answer."""
        prompt, position, answer = self._prompts[i], int(self._positions[i]), int(self.answers[i])
        if not 0 <= position < len(prompt):
            raise ValueError(f"positions[{i}]={position} lies beyond the prompt, which has {len(prompt)} tokens")
        if answer < 0:
            raise ValueError(f"answers[{i}]={answer} is no token")
        before, after = prompt[: position + 1], prompt[position + 1 :]
        if bool((after == answer).any()) or (answer not in self._labels and bool((before == answer).any())):
            raise ValueError(f"prompts[{i}] holds the answer, token {answer}: nothing would have to be known")

    def _refuse_shown(self, i: int, context: Tensor, k: int) -> None:
        """Raise where the context holds the answer; of a label, where it holds the question with its answer."""
        answer = self.answers[i : i + 1]
        asked = self._prompts[i][: int(self._positions[i]) + 1]
        sought = torch.cat([asked, answer]) if int(answer) in self._labels else answer
        if len(context) >= len(sought) and bool((context.unfold(0, len(sought), 1) == sought).all(1).any()):
            what = "the answer" if len(sought) == 1 else "the question and its answer"
            raise ValueError(
                f"with k={k} examples, what stands before question {i} holds {what}, token {int(answer)}: it could be copied. "
                "Take aliases at random and combinations that the examples leave out; labels= is for answers like yes and no"
            )


def in_context(
    model: nn.Module,
    reference: nn.Module,
    questions: Questions,
    *,
    concept: str,
    k: int | Sequence[int] = 0,
    confidence: float = 0.95,
    batch_size: int = 256,
) -> tuple[Measurement, ...]:
    """How many questions about a concept a model answers with k examples in context, beside a model that never saw it.

    An answer is right where its token has a larger score than every other one has; a tie is wrong.
    Both models are asked the same questions, in evaluation mode. Prompts of one length are batches, and nothing is padded.

    Args:
        model: what was released: from (b, length) tokens to scores of shape (b, length, tokens), or something that has them as
            `logits`.
        reference: of the same kind, trained in the same way on data without the concept.
        questions: about the concept.
        concept: its name, for the measurement's.
        k: how many examples in context, one number or several; 0 is without context.
        confidence: of the limits. They speak of questions drawn like these, put to these two models.
        batch_size: questions at a time.

    Returns:
        A measurement for each k: the model's share of right answers, and as its null the reference's.

    Raises:
        ValueError: k is larger than the number of examples, an example holds the answer, scores that are NaN or of another
            shape, a reference of another kind of output.
    """
    _validate.text(concept=concept)
    _validate.whole(batch_size=batch_size)
    found: list[Measurement] = []
    for shown in _each(k):
        asked = questions.asked(shown)
        hits, width = _right_answers("model", model, asked, questions.answers, batch_size)
        null, other = _right_answers("reference", reference, asked, questions.answers, batch_size)
        if width != other:
            raise ValueError(f"reference is of another kind: it has scores for {other} tokens, and model for {width}")
        told = f"k={shown} in context" if shown else "without context"
        found.append(_beside(f"answers about {concept}, {told}", hits, null, confidence))
    return tuple(found)


def nearest_class_means(
    features: Features,
    reference: Features,
    shots: tuple[Tensor, Tensor],
    asked: tuple[Tensor, Tensor],
    *,
    concept: str,
    k: int | Sequence[int] = 1,
    confidence: float = 0.95,
) -> tuple[Measurement, ...]:
    """How many rows are classified by the nearest of class means over k rows a class, beside a model that never saw them.

    For classifiers, which take no context: the released model's features, and k labelled rows of each class. A row is right
    where the mean of its class is nearer, in Euclidean distance, than every other one; a tie is wrong.

    Args:
        features: of the released model, from rows (b, ...) to (b, d), e.g. the network without its last layer. A module is
            put in evaluation mode.
        reference: of a model trained in the same way on data without the concept; d may be another.
        shots: labelled rows (x, y) of every class that can be the answer; of each class the first k are taken.
        asked: rows (x, y) to classify, e.g. of the class that was forgotten, none of them among the shots.
        concept: its name, for the measurement's.
        k: how many rows a class, one number or several.
        confidence: of the limits. They speak of rows drawn like those asked about, given these shots and models.

    Returns:
        A measurement for each k: the share of right rows with the released features, and as its null with the reference's.

    Raises:
        ValueError: k is larger than the number of rows of a class, a row is asked about and shown, a label has no shots,
            features that are NaN or of another shape.

    Source: nearest class means on features as in Snell, Swersky & Zemel 2017, arXiv 1703.05175, without their training.
    """
    _validate.text(concept=concept)
    (x, y), (rows, labels) = _labelled("shots", shots), _labelled("asked", asked)
    if missing := sorted(set(labels.tolist()) - set(y.tolist())):
        raise ValueError(f"asked holds the label {missing[0]}, of which shots hold no row")
    found: list[Measurement] = []
    for few in _each(k):
        taken = _first_of_each(y, few)
        if rows_held([x[taken]], (rows,)):
            raise ValueError("a row of asked is among the shots: its answer would be shown")
        hits, null = (
            _by_means(_computed(name, of, x[taken]), y[taken], _computed(name, of, rows), labels)
            for name, of in (("features", features), ("reference", reference))
        )
        found.append(_beside(f"nearest class means of {concept}, k={few} rows a class", hits, null, confidence))
    return tuple(found)


def _each(k: int | Sequence[int]) -> Sequence[int]:
    return (k,) if isinstance(k, int) else k


def _beside(name: str, hits: Tensor, null: Tensor, confidence: float) -> Measurement:
    seen = Shares(hits=int(hits.sum()), of=len(hits), null_hits=int(null.sum()), null_of=len(null))
    return Measurement(
        name=f"{name}, beside a model that never saw it", unit="share of right answers", direction=_DIRECTION,
        confidence=confidence, evidence=seen,
    )  # fmt: skip


def _tokens(name: str, given: object) -> Tensor:
    tokens = wholes(name, given, "tokens, whole numbers").cpu()
    if not len(tokens):
        raise ValueError(f"{name} holds no token")
    if int(tokens.min()) < 0:
        raise ValueError(f"{name} holds {int(tokens.min())}, which is no token")
    return tokens


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def _right_answers(
    name: str, model: nn.Module, asked: Sequence[tuple[Tensor, int]], answers: Tensor, batch_size: int
) -> tuple[Tensor, int]:
    """Whether each question is answered, shape (n,), and how many tokens there are scores for."""
    right = torch.zeros(len(asked), dtype=torch.bool)
    width = 0
    with mode(model, training=False):
        for rows in _of_one_length(asked, batch_size):
            tokens = torch.stack([asked[i][0] for i in rows])
            scores = _scores(name, model, tokens)
            width = scores.shape[-1]
            if int(answers.max()) >= width:
                raise ValueError(f"answers hold token {int(answers.max())}, and {name} has scores for {width} tokens")
            at = scores[torch.arange(len(rows)), torch.tensor([asked[i][1] for i in rows])]
            right[rows] = _largest(at, answers[rows])
    return right, width


def _of_one_length(asked: Sequence[tuple[Tensor, int]], batch_size: int) -> Iterator[list[int]]:
    """Which questions are put together: prompts of one length, since padding could change an answer."""
    by_length: dict[int, list[int]] = {}
    for i, (tokens, _) in enumerate(asked):
        by_length.setdefault(len(tokens), []).append(i)
    for rows in by_length.values():
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size]


def _scores(name: str, model: nn.Module, tokens: Tensor) -> Tensor:
    """Shape (b, length, tokens)."""
    scores = scores_of(model, _beside_weights(model, tokens)).cpu()
    if scores.dim() != 3 or scores.shape[:2] != tokens.shape:
        raise ValueError(
            f"{name} must have scores of shape (b, length, tokens) = {(*tokens.shape, 'tokens')}, not {tuple(scores.shape)}"
        )
    return scores


def _beside_weights(model: nn.Module, rows: Tensor) -> Tensor:
    """Rows on the model's device, where it has one."""
    weight = next(model.parameters(), None)
    return rows if weight is None else rows.to(weight.device)


def _largest(scores: Tensor, answers: Tensor) -> Tensor:
    """Whether the answer's score is larger than all others, shape (b,)."""
    if bool(scores.isnan().any()):
        raise ValueError("scores are NaN: the model answers nothing")
    own = scores.gather(1, answers[:, None])
    return ((scores >= own).sum(1) == 1) & (own[:, 0] > -torch.inf)


def _labelled(name: str, given: Any) -> tuple[Tensor, Tensor]:
    if not isinstance(given, tuple | list) or len(given) != 2:
        raise TypeError(f"{name} must be rows and their labels, (x, y), not {_validate.shown(given)}")
    x, y = as_tensor(f"{name}: x", given[0]), wholes(f"{name}: y", given[1], "labels, whole numbers").cpu()
    if len(x) != len(y) or not len(y):
        raise ValueError(f"{name} must hold a label for each row, and at least one, not {len(y)} for {len(x)} rows")
    return x, y


def _first_of_each(labels: Tensor, k: int) -> Tensor:
    """Positions of the first k rows of each class."""
    _validate.whole(k=k)
    found: list[Tensor] = []
    for label in labels.unique():
        own = (labels == label).nonzero().flatten()
        if len(own) < k:
            raise ValueError(f"k={k} is larger than the number of shots of class {int(label)}, {len(own)}")
        found.append(own[:k])
    return torch.cat(found)


@torch.no_grad()  # pyright: ignore[reportUntypedFunctionDecorator]
def _computed(name: str, of: Features, rows: Tensor) -> Tensor:
    """Features in double precision, shape (n, d)."""
    if isinstance(of, nn.Module):
        with mode(of, training=False):
            parts = [of(_beside_weights(of, part)) for part in rows.split(_ROWS)]
    else:
        parts = [of(part) for part in rows.split(_ROWS)]
    found = torch.cat(parts).double().cpu()
    if found.dim() != 2 or len(found) != len(rows):
        raise ValueError(f"{name} must return shape (b, d) for b rows, not {tuple(found.shape)} for {len(rows)}")
    if not bool(found.isfinite().all()):
        raise ValueError(f"{name} returns NaN or infinity")
    return found


def _by_means(shown: Tensor, of: Tensor, asked: Tensor, labels: Tensor) -> Tensor:
    """Whether the mean of its class is nearer to a row than every other one, shape (n,)."""
    classes = of.unique()
    means = torch.stack([shown[of == label].mean(0) for label in classes])
    distances = torch.cdist(asked, means, compute_mode="donot_use_mm_for_euclid_dist")
    return _largest(-distances, torch.searchsorted(classes, labels))
