"""What a prompt or a few rows give back of a concept is counted beside a model that never saw it, and refutes nothing."""

from types import SimpleNamespace

import pytest
import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from expunge import Retrain, guarantee
from expunge.accounting import Relation
from expunge.attacks import Questions, in_context, nearest_class_means
from expunge.audit import Audit, Counts, Finding
from expunge.audit.words import told
from expunge.errors import ClaimRefused, NothingTested

# A language: nine aliases, each of one pair of attributes (all pairs occur); a question asks what follows from one of them.
ALIASES = range(9)
FIRST, SECOND, QUESTION, ANSWER, TOKENS = 9, 12, 15, 17, 23
PAIRS = {alias: (FIRST + alias // 3, SECOND + alias % 3) for alias in ALIASES}


def follows(question: int, attribute: int) -> int:
    """The answer: each question has three of its own, and each attribute one of them, so that a guess is right in 1/3."""
    return ANSWER + 3 * (question - QUESTION) + (attribute + 1) % 3


class Lookup(nn.Module):
    """Answers from the last definition before the question; else from memory; else by one and the same guess."""

    def __init__(self, remembered=(), tokens=TOKENS):
        super().__init__()
        self.remembered, self.tokens, self.dropout = {a: PAIRS[a] for a in remembered}, tokens, nn.Dropout(0.9)

    def forward(self, rows: Tensor) -> Tensor:
        scores = torch.zeros(*rows.shape, self.tokens)
        for row, said in enumerate(rows.tolist()):
            known = dict(self.remembered)
            for at in range(len(said) - 2):
                if said[at] in ALIASES and FIRST <= said[at + 1] < QUESTION:
                    known[said[at]] = (said[at + 1], said[at + 2])
            for at in range(1, len(said)):
                if QUESTION <= said[at] < ANSWER:
                    pair = known.get(said[at - 1])
                    which = said[at] - QUESTION
                    scores[row, at, follows(said[at], pair[which] if pair else FIRST)] = 1
        return self.dropout(scores)


def questions(**fields) -> Questions:
    """Both questions about every alias; in context first its definition, then that of the alias after it."""
    asked = [(alias, question) for alias in ALIASES for question in (QUESTION, QUESTION + 1)]
    shown = [[[a, *PAIRS[a]], [(a + 1) % 9, *PAIRS[(a + 1) % 9]]] for a, _ in asked]
    right = [follows(question, PAIRS[alias][question - QUESTION]) for alias, question in asked]
    given = {"prompts": torch.tensor(asked), "answers": torch.tensor(right), "examples": torch.tensor(shown)} | fields
    return Questions(given.pop("prompts"), given.pop("answers"), **given)


def test_a_definition_gives_everything_back_and_the_excess_is_that_of_memory():
    """The law of the audit: the reference gains as much from context; what is left of memory shows without context."""
    nothing = in_context(Lookup(), Lookup(), questions(), concept="aliases", k=(0, 1, 2))
    assert [(one.value, one.null) for one in nothing] == [(1 / 3, 1 / 3), (1.0, 1.0), (1.0, 1.0)]
    trained = in_context(Lookup(ALIASES), Lookup(), questions(), concept="aliases", k=(0, 1))
    assert [(one.value, one.null) for one in trained] == [(1.0, 1 / 3), (1.0, 1.0)]


@pytest.mark.parametrize("remembered", [(), (0, 4, 8), ALIASES])
def test_a_model_beside_itself_has_no_excess(remembered):
    model = Lookup(remembered)
    for one in in_context(model, model, questions(), concept="aliases", k=(0, 1)):
        assert one.value == one.null


def test_counts_and_limits_are_those_of_what_was_planted():
    """Of nine aliases 0, 1 and 2 are remembered: their six questions, and a third of the other twelve by the guess."""
    (one,) = in_context(Lookup((0, 1, 2)), Lookup(), questions(), concept="alias 7", confidence=0.9)
    guessed = [(a, w) for a in range(3, 9) for w in (0, 1) if (PAIRS[a][w] - FIRST) % 3 == 0]
    assert (one.evidence.hits, one.evidence.of) == (6 + len(guessed), 18)
    assert (one.evidence.null_hits, one.evidence.null_of) == (6, 18)
    own = binomtest(one.evidence.hits, 18).proportion_ci(0.9)
    assert (one.values["low"], one.values["high"]) == pytest.approx((own.low, own.high), abs=1e-6)
    assert one.name == "answers about alias 7, without context, beside a model that never saw it"
    (with_context,) = in_context(Lookup(), Lookup(), questions(), concept="alias 7", k=2)
    assert with_context.name == "answers about alias 7, k=2 in context, beside a model that never saw it"


def test_what_was_forgotten_to_excess_lies_below_the_null():
    class Averse(Lookup):
        def forward(self, rows):
            return -super().forward(rows)

    (one,) = in_context(Averse(), Lookup(), questions(), concept="aliases")
    assert (one.value, one.null) == (0.0, 1 / 3)


class Flat(nn.Module):
    """As models of Hugging Face answer: scores under the name logits, here all alike."""

    def forward(self, rows: Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=torch.zeros(*rows.shape, TOKENS))


def test_a_tie_is_no_answer():
    (one,) = in_context(Flat(), Lookup(), questions(), concept="aliases")
    assert one.value == 0.0


def test_models_are_asked_in_evaluation_mode_and_left_in_their_own():
    model, reference = Lookup(ALIASES).train(), Lookup().train()
    before = torch.get_rng_state()
    (one,) = in_context(model, reference, questions(), concept="aliases")
    assert one.value == 1.0
    assert model.training
    assert model.dropout.training
    assert torch.equal(torch.get_rng_state(), before)


class ByLength(nn.Module):
    """Says how long its prompt is, wherever it is asked: padding would change that, even to the right."""

    def forward(self, rows):
        return nn.functional.one_hot(torch.full(rows.shape, rows.shape[1]), TOKENS).float()


@pytest.mark.parametrize("batch_size", [1, 2, 256])
def test_sequences_of_any_lengths_are_put_together_without_padding(batch_size):
    prompts = [torch.zeros(n, dtype=torch.long) for n in (5, 2, 3, 2, 5)]
    examples = [[torch.ones(n, dtype=torch.long)] for n in (1, 2, 1, 3, 1)]
    begin = torch.tensor([0])
    for k, lengths in ((0, (6, 3, 4, 3, 6)), (1, (7, 5, 5, 6, 7))):
        asked = Questions(prompts, torch.tensor(lengths), examples=examples, begin=begin)
        (one,) = in_context(ByLength(), ByLength(), asked, concept="lengths", k=[k], batch_size=batch_size)
        assert (one.value, one.null) == (1.0, 1.0)


def test_the_answer_is_read_at_its_position_which_moves_with_the_context():
    """Behind the question stands another one, whose answer is not asked for."""
    longer = torch.cat([torch.tensor([[a, q] for a in ALIASES for q in (15, 16)]), torch.tensor([[0, 15]] * 18)], dim=1)
    at = torch.full((18,), 1)
    found = in_context(Lookup(), Lookup(), questions(prompts=longer, positions=at), concept="aliases", k=(0, 1))
    assert [one.value for one in found] == [1 / 3, 1.0]
    (moved,) = in_context(Lookup(), Lookup(), questions(prompts=longer), concept="aliases", k=[1])
    assert moved.value < 0.5


YES, NO = 21, 22


def yes_or_no(**fields) -> Questions:
    """Two questions, each with an example that answers another one."""
    examples = torch.tensor([[[2, 15, YES], [0, 15, NO]], [[2, 15, YES], [3, 15, NO]]])
    return Questions(
        torch.tensor([[0, 15], [1, 15]]), torch.tensor([NO, YES]), **{"examples": examples, "labels": (YES, NO)} | fields
    )  # fmt: skip


def test_labels_may_stand_in_examples_but_not_behind_the_question_itself():
    model = Lookup()
    assert len(in_context(model, model, yes_or_no(), concept="c", k=(0, 1))) == 2
    with pytest.raises(
        ValueError, match="k=2 examples, what stands before question 0 holds the question and its answer"
    ):
        in_context(model, model, yes_or_no(), concept="c", k=[2])
    with pytest.raises(ValueError, match="k=1 examples, what stands before question 1 holds the answer, token 21"):
        in_context(model, model, yes_or_no(labels=()), concept="c", k=[1])


ONE = {"prompts": torch.tensor([[0, 15]]), "answers": torch.tensor([17]), "examples": torch.tensor([[[0, 9, 12]]])}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"positions": torch.tensor([2])}, r"positions\[0\]=2 lies beyond the prompt, which has 2 tokens"),
        ({"positions": torch.tensor([-1])}, r"positions\[0\]=-1 lies beyond the prompt"),
        ({"positions": torch.tensor([1, 1])}, "positions must hold one entry for each of 1 prompts"),
        ({"prompts": torch.tensor([[17, 15]])}, r"prompts\[0\] holds the answer, token 17"),
        (
            {"prompts": torch.tensor([[0, 15, 17]]), "positions": torch.tensor([1]), "labels": (17,)},
            r"prompts\[0\] holds the answer, token 17",
        ),
        ({"answers": torch.tensor([17, 18])}, "answers must hold one entry for each of 1 prompts"),
        ({"answers": torch.tensor([-1])}, r"answers\[0\]=-1 is no token"),
        ({"prompts": []}, "there is no question"),
        ({"prompts": torch.zeros(1, 0, dtype=torch.long)}, r"prompts\[0\] holds no token"),
        ({"examples": torch.tensor([[[0, -9]]])}, r"examples\[0\]\[0\] holds -9, which is no token"),
        ({"examples": torch.zeros(2, 1, 3, dtype=torch.long)}, "examples must hold some for each of 1 prompts, not for 2"),
    ],
)  # fmt: skip
def test_questions_that_cannot_be_asked_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        questions(**ONE | change)


def test_tokens_are_whole_numbers():
    with pytest.raises(TypeError, match=r"prompts\[0\] must hold tokens, whole numbers, not torch.float32"):
        questions(**ONE | {"prompts": torch.zeros(1, 2)})


@pytest.mark.parametrize(
    ("model", "reference", "fields", "words"),
    [
        (Lookup(), Lookup(), {"k": [3]}, "k=3 is larger than the number of examples of question 0, 2"),
        (Lookup(), Lookup(), {"k": [-1]}, "k must be a whole number of at least 0"),
        (Lookup(), Lookup(tokens=24), {}, "reference is of another kind: it has scores for 24 tokens, and model for 23"),
        (Lookup(), nn.Embedding(TOKENS, 9), {}, "answers hold token 22, and reference has scores for 9 tokens"),
        (Lookup(), nn.Sequential(nn.Embedding(TOKENS, 9), nn.Flatten()), {}, "reference must have scores of shape"),
        (nn.Flatten(), Lookup(), {}, "model must have scores of shape"),
        (nn.Embedding(TOKENS, TOKENS, _weight=torch.full((TOKENS, TOKENS), torch.nan)), Lookup(), {}, "scores are NaN"),
        (Lookup(), Lookup(), {"concept": ""}, "concept must be one line of text"),
        (Lookup(), Lookup(), {"confidence": 0.1}, "confidence must be at least 0.5"),
    ],
)  # fmt: skip
def test_models_and_settings_that_cannot_be_compared_are_refused(model, reference, fields, words):
    with pytest.raises(ValueError, match=words):
        in_context(model, reference, questions(), **{"concept": "aliases"} | fields)


# Classifiers

SHOTS = (torch.tensor([[0.0, 0], [4, 0], [2, 0], [6, 2]]), torch.tensor([0, 1, 0, 1]))
ASKED = (torch.tensor([[2.0, 0.1], [3, 4], [3, -3], [9, 9]]), torch.tensor([0, 0, 0, 1]))


def same(rows):
    return rows


def test_nearest_class_means_are_those_by_hand():
    """Means for k=1 are (0, 0) and (4, 0), for k=2 they are (1, 0) and (5, 1), with the middle line 8x + 2y = 25."""
    one, two = nearest_class_means(same, torch.zeros_like, SHOTS, ASKED, concept="class 0", k=(1, 2))
    assert (one.evidence.hits, one.evidence.of) == (1, 4)  # a tie at x = 2, and x > 2 twice: wrong; (9, 9) right
    assert (two.evidence.hits, two.evidence.of) == (3, 4)  # 16.2 and 18 lie below 25, 90 above: right; 32: wrong
    assert (one.evidence.null_hits, two.evidence.null_hits) == (0, 0)  # features that tell nothing are ties
    assert one.name == "nearest class means of class 0, k=1 rows a class, beside a model that never saw it"


def test_class_means_do_not_depend_on_how_features_are_turned_or_scaled_and_a_model_beside_itself_has_no_excess():
    coins = torch.Generator().manual_seed(0)
    x, y = torch.randn(60, 5, generator=coins), torch.randint(3, (60,), generator=coins)
    turned = torch.linalg.qr(torch.randn(5, 5, generator=coins)).Q
    shots, asked = (x[:30], y[:30] + 7), (x[30:], y[30:] + 7)
    (one,) = nearest_class_means(same, lambda rows: 3 * rows @ turned + 1, shots, asked, concept="c", k=5)
    assert 0 < one.value == one.null < 1
    module = nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.9)).train()
    (own,) = nearest_class_means(module, module, shots, asked, concept="c", k=5)
    assert own.value == own.null
    assert module[1].training


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"k": [3]}, "k=3 is larger than the number of shots of class 0, 2"),
        ({"k": [0]}, "k must be a whole number of at least 1"),
        ({"asked": (ASKED[0], torch.tensor([0, 0, 0, 2]))}, "asked holds the label 2, of which shots hold no row"),
        ({"asked": SHOTS}, "a row of asked is among the shots"),
        ({"asked": (ASKED[0], torch.tensor([0]))}, "asked must hold a label for each row"),
        ({"reference": torch.flatten}, "reference must return shape"),
        ({"features": lambda rows: rows / 0}, "features returns NaN or infinity"),
    ],
)
def test_rows_that_cannot_be_shown_or_asked_about_are_refused(change, words):
    given = {"features": same, "reference": same, "shots": SHOTS, "asked": ASKED, "concept": "c", "k": [1]} | change
    with pytest.raises(ValueError, match=words):
        nearest_class_means(**given)


# In an audit

SEEN = Counts(positives=100, true_positives=99, negatives=100, false_positives=1)
EXACT = guarantee(Retrain(), delta=1e-5)


def test_measurements_change_no_verdict_are_saved_and_alone_test_nothing(tmp_path):
    measured = in_context(Lookup(ALIASES), Lookup(), questions(), concept="aliases", k=(0, 1))
    measured += nearest_class_means(same, same, SHOTS, ASKED, concept="class 0")
    assert all("neither breaks a certificate" in told(one.name) for one in measured)
    found = Finding(attack="a", relation=Relation.RETRAINED, delta=1e-5, confidence=0.95, evidence=SEEN)
    before = Audit(certificate="digest", findings=(found,), details={})
    after = before.with_measurements(*measured)
    assert after.measurements == measured
    assert after.refuting(EXACT) == before.refuting(EXACT) == [found]
    with pytest.raises(ClaimRefused):
        after.check(EXACT, certificate="digest")
    alone = Audit(certificate="digest", findings=(), details={}).with_measurements(*measured)
    assert alone.refuting(EXACT) == []
    with pytest.raises(NothingTested, match="there is no finding"):
        alone.check(EXACT, certificate="digest")
    after.save(tmp_path / "audit.json")
    again = Audit.load(tmp_path / "audit.json")
    assert again.measurements == measured
    assert again.findings == before.findings
