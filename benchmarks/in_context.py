"""What do a definition in context, or a few labelled rows, give back of what was forgotten? Three seeds, two parts.

A transformer of two layers is trained on concepts, each an alias for three attributes: on facts about sixty aliases without
context, and on prompts that define aliases at random. The facts of twenty aliases are forgotten; their combinations of
attributes occur in no prompt of the training. And a digits network forgets a class.

OMP_NUM_THREADS=1 python benchmarks/in_context.py
"""

import json
import time
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch
from environment import environment
from torch import Tensor, nn
from torch.nn import functional as F

import expunge as ex
from expunge.attacks import Questions, in_context, nearest_class_means
from expunge.audit import Measurement, Shares
from expunge.jobs.digits_task import digits, training
from expunge.training.task import accuracy
from expunge.unlearners import GradientClipping, Retraining, train_from_scratch
from expunge.unlearners.heuristics import NegativePreference

SEEDS = 3
BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
NAMES = (
    "trained, nothing done",
    "retrained",
    "negative preference",
    "gradient clipping, (1, 1e-5)",
)

# The language: 0 is padding; aliases; three attributes of six values; three questions; three answers to each.
ALIASES, VALUES, SLOTS, WIDTH = 60, 6, 3, 32
ALIAS = 1
ATTRIBUTE = ALIAS + ALIASES
QUESTION = ATTRIBUTE + SLOTS * VALUES
ANSWER = QUESTION + SLOTS
TOKENS = ANSWER + 3 * SLOTS
FORGOTTEN, COPIES, PROMPTS, IGNORED = 20, 6, 4000, -100
LENGTH = 1 + SLOTS + 2  # a definition and a question
EPOCHS, RECIPE = 12, ex.Recipe(optimizer="adamw", learning_rate=1e-2, batch_size=128)
CLASS = 3  # of the digits
Seen = tuple[float, list[Measurement]]


class Block(nn.Module):
    """Causal attention with two heads, and two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attends, self.mixes = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.thinks = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.ReLU(), nn.Linear(2 * WIDTH, WIDTH))

    def forward(self, h: Tensor) -> Tensor:
        """From (b, length, WIDTH) to the same."""
        b, length, _ = h.shape
        query, key, value = self.attends(self.first(h)).view(b, length, 3, 2, WIDTH // 2).permute(2, 0, 3, 1, 4)
        later = torch.full((length, length), -torch.inf).triu(1)
        weights = (query @ key.transpose(-1, -2) * (WIDTH // 2) ** -0.5 + later).softmax(-1)
        h = h + self.mixes((weights @ value).transpose(1, 2).flatten(2))
        return h + self.thinks(self.second(h))


class Reader(nn.Module):
    """A causal transformer of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(TOKENS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.blocks = nn.Sequential(Block(), Block())
        self.scores = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, TOKENS))

    def forward(self, tokens: Tensor) -> Tensor:
        """From (b, length) to (b, length, TOKENS)."""
        return self.scores(self.blocks(self.token(tokens) + self.place.weight[: tokens.shape[1]]))


def loss(model: nn.Module, batch: Any) -> Tensor:
    """Cross-entropy at the questions."""
    return F.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), ignore_index=IGNORED)


def right(model: nn.Module, batch: Any) -> Tensor:
    """Whether each question is answered."""
    return ((model(batch[0]).argmax(-1) == batch[1]) | (batch[1] == IGNORED)).all(1)


@dataclass(frozen=True)
class Language:
    """What an alias means, what follows from an attribute, and which rows teach it."""

    meaning: Tensor  # (ALIASES, SLOTS), values of the attributes; the first FORGOTTEN are of what is forgotten
    follows: Tensor  # (SLOTS, VALUES), answers
    facts: ex.Examples
    prompts: ex.Examples

    def definition(self, alias: Tensor, meaning: Tensor) -> Tensor:
        """Alias and attributes, shape (..., 1 + SLOTS)."""
        return torch.cat([alias[..., None] + ALIAS, meaning + ATTRIBUTE + VALUES * torch.arange(SLOTS)], dim=-1)

    def questions(self) -> Questions:
        """Three about each forgotten alias, and for the context its definition."""
        alias = torch.arange(FORGOTTEN).repeat_interleave(SLOTS)
        slot = torch.arange(SLOTS).repeat(FORGOTTEN)
        answers = ANSWER + 3 * slot + self.follows[slot, self.meaning[alias, slot]]
        shown = self.definition(alias, self.meaning[alias])[:, None]
        return Questions(torch.stack([ALIAS + alias, QUESTION + slot], dim=1), answers, examples=shown)


def language(coins: torch.Generator) -> Language:
    """One at random. Prompts of the training leave out the combinations of what is forgotten."""
    combinations = torch.tensor(list(product(range(VALUES), repeat=SLOTS)))
    order = torch.randperm(len(combinations), generator=coins)
    meaning, others = combinations[order[:ALIASES]], combinations[order[FORGOTTEN:]]
    follows = torch.stack([torch.randperm(VALUES, generator=coins) % 3 for _ in range(SLOTS)])
    empty = ex.Examples(torch.zeros(1, 2), ids=["none"])
    made = Language(meaning, follows, empty, empty)
    return replace(made, facts=_facts(made), prompts=_prompts(made, others, coins))


def _facts(of: Language) -> ex.Examples:
    """Alias and question, and nothing before them; each COPIES times."""
    alias, slot = torch.arange(ALIASES).repeat_interleave(SLOTS * COPIES), torch.arange(SLOTS).repeat(ALIASES * COPIES)
    x, y = (torch.full((len(alias), LENGTH), fill) for fill in (0, IGNORED))
    x[:, 0], x[:, 1] = ALIAS + alias, QUESTION + slot
    y[:, 1] = ANSWER + 3 * slot + of.follows[slot, of.meaning[alias, slot]]
    return ex.Examples(x, y, ids=[f"alias {a}, fact {k}" for k, a in enumerate(alias.tolist())])


def _prompts(of: Language, others: Tensor, coins: torch.Generator) -> ex.Examples:
    """The definition of an alias, both at random, and a question about it."""
    alias, which, slot = (torch.randint(n, (PROMPTS,), generator=coins) for n in (ALIASES, len(others), SLOTS))
    means, row = others[which], torch.arange(PROMPTS)
    x = torch.cat([of.definition(alias, means), (ALIAS + alias)[:, None], (QUESTION + slot)[:, None]], dim=1)
    y = torch.full_like(x, IGNORED)
    y[:, -1] = ANSWER + 3 * slot + of.follows[slot, means[row, slot]]
    return ex.Examples(x, y, ids=[f"prompt {row}" for row in range(PROMPTS)])


def sequences(seed: int) -> dict[str, Seen]:
    """By model: what it gets right of the retained rows, and measurements without context and with the definition."""
    coins = torch.Generator().manual_seed(seed)
    made = language(coins)
    everything = made.facts + made.prompts
    gone = ex.Request.rows([name for name in made.facts.ids if int(name.split()[1].rstrip(",")) < FORGOTTEN])
    trained = train_from_scratch(Reader, everything, loss=loss, epochs=EPOCHS, recipe=RECIPE, generator=coins).model
    task = ex.Task(model=trained, data=everything, loss=loss, make_model=Reader, training_epochs=EPOCHS)
    unlearners = (
        Retraining(trains=RECIPE),
        NegativePreference(retention=1.0, epochs=15, learning_rate=0.3, beta=1.0, next_token=False),
        GradientClipping(
            epochs=EPOCHS, recovery_lr=RECIPE.learning_rate, optimizer="adamw", steps=20, learning_rate=0.01
        ),
    )
    released = [trained, *(ex.unlearn(task, gone, way, budget=BUDGET, seed=seed).model for way in unlearners)]
    never = train_from_scratch(
        Reader, task.parts(gone).retain, loss=loss, epochs=EPOCHS, recipe=RECIPE, generator=coins
    ).model
    asked, retain = made.questions(), task.parts(gone).retain
    return {
        name: (
            accuracy(model, retain, right),
            list(in_context(model, never, asked, concept="forgotten aliases", k=(0, 1))),
        )
        for name, model in zip(NAMES, released, strict=True)
    }


def classes(seed: int) -> dict[str, Seen]:
    """By model: what it gets right of other held-out rows, and of those of the class by its last layer, by 1 and 5 rows a class."""
    task = digits(seed)
    everything, recipe = task.everything(), training(30)
    gone = ex.Request.rows([name for name, y in zip(everything.ids, everything.tensors[1], strict=True) if y == CLASS])
    whole = replace(task, data=everything, retain=None, forget=None)
    unlearners = (
        Retraining(**recipe),
        NegativePreference(retention=1.0, epochs=15, learning_rate=0.05, beta=1.0),
        GradientClipping(init_clip=0.5, grad_clip=1.0, learning_rate=0.01, weight_decay=20.0, steps=20, **training(5)),
    )
    released = [task.model, *(ex.unlearn(whole, gone, way, budget=BUDGET, seed=seed).model for way in unlearners)]
    never = ex.unlearn(whole, gone, Retraining(**recipe), seed=seed + 100).model
    (x, y), (rows, labels) = everything.tensors, task.held_out.tensors
    asked = (rows[labels == CLASS], labels[labels == CLASS])
    others = ex.Examples(rows[labels != CLASS], labels[labels != CLASS])
    found: dict[str, Seen] = {}
    for name, model in zip(NAMES, released, strict=True):
        own, null = ((m(asked[0]).argmax(1) == CLASS) for m in (model, never))
        layer = Measurement(
            name="rows of the forgotten class, own last layer", unit="share of right answers",
            direction="above its null: more was kept", confidence=0.95,
            evidence=Shares(hits=int(own.sum()), of=len(own), null_hits=int(null.sum()), null_of=len(null)),
        )  # fmt: skip
        means = nearest_class_means(model[:2], never[:2], (x, y), asked, concept=f"class {CLASS}", k=(1, 5))
        found[name] = (accuracy(model, others), [layer, *means])
    return found


def pooled(seeds: list[dict[str, Seen]]) -> list[dict[str, Any]]:
    """One row a model and number of examples: counts of all seeds together, and the shares of each."""
    rows: list[dict[str, Any]] = []
    for name in NAMES:
        kept = [seed[name][0] for seed in seeds]
        print(f"{name}: of what stays {sum(kept) / len(kept):.3f}")
        for own in zip(*(seed[name][1] for seed in seeds), strict=True):
            seen = [one.evidence for one in own]
            whole = Shares(
                hits=sum(s.hits for s in seen), of=sum(s.of for s in seen),
                null_hits=sum(s.null_hits for s in seen), null_of=sum(s.null_of for s in seen),
            )  # fmt: skip
            told = replace(own[0], evidence=whole)
            by_seed = {"value": [one.value for one in own], "null": [one.null for one in own], "of_what_stays": kept}
            rows.append({"model": name, "by_seed": by_seed} | told.to_dict())
            low, high = told.values["low"], told.values["high"]
            null = f"null {told.null:.3f} ({told.values['null_low']:.3f} to {told.values['null_high']:.3f})"
            print(f"    {told.name}: {told.value:.3f} ({low:.3f} to {high:.3f}), {null}")
    return rows


def main() -> None:
    """Run, print and keep."""
    begun = time.perf_counter()
    parts = {part.__name__: pooled([part(seed) for seed in range(SEEDS)]) for part in (sequences, classes)}
    result = {
        **environment("scikit-learn"),
        "seeds": list(range(SEEDS)), "seconds": time.perf_counter() - begun, "processor_seconds": time.process_time(), **parts,
    }  # fmt: skip
    where = Path(__file__).parent / "results" / "in_context.json"
    where.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{result['seconds']:.0f} s, of a processor {result['processor_seconds']:.0f} s")


if __name__ == "__main__":
    main()
