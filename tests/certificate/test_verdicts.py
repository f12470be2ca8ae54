"""A certificate says in plain words what it means, and its page opens with them."""

import json
import re

import pytest
from click.testing import CliRunner

from expunge import Certificate, GradientClipping, Relation, guarantee
from expunge.certificate import verdict
from expunge.certificate.verdicts import _factor, _one_in, _percent
from expunge.certificate.words import words_of
from expunge.cli.commands import app
from expunge.report import render
from test_vectors import BY_NAME
from vectors import make

VALID = {name: Certificate(v["certificate"]) for name, v in BY_NAME.items() if v["result"] == "valid"}


def of(name):
    return verdict(VALID[name])


@pytest.mark.parametrize("name", list(make.BASES))
@pytest.mark.parametrize("relation", list(Relation))
def test_the_claim_is_a_sentence(name, relation):
    mechanism = make.BASES[name]
    words = words_of(mechanism)
    sentence = words.sentence(guarantee(mechanism, delta=1e-5, relation=relation))
    assert re.fullmatch(r"[A-Z].*[a-z]\.", sentence)
    assert not re.search(r"  |\{|\}|;|, no data|of at most 1 examples|that of ", sentence)
    if "that they would have under" in sentence:
        follows = sentence.partition("that they would have under ")[2]
        assert follows == words.certifier[relation] + "."
        assert re.match(r"(the|noise|ridge regression) ", follows)  # a procedure under which weights have a law


@pytest.mark.parametrize("name", sorted(VALID))
def test_every_verdict_is_made_of_whole_sentences(name):
    found = of(name)
    for text in (found.headline, *re.split(r"(?<=[.”]) ", found.meaning), *found.checks, *found.warnings):
        assert re.fullmatch(r"[A-Z].*[.”]", text), text


def test_epsilon_is_said_as_odds_and_as_what_can_be_believed():
    budgeted = of("schema 1: gradient_clipping")
    assert budgeted.headline == "The data are forgotten within a stated limit."
    assert (
        "a factor of at most e^1 = 2.719, but for a probability of at most 1e-05 (one in 100,000)" in budgeted.meaning
    )
    assert "can be 73.2 % sure of it at most" in budgeted.meaning


def test_a_wide_limit_is_called_weak():
    assert "weak sense only" in of("output_perturbation, large mu, retrained").headline
    assert "weak sense only" not in of("output_perturbation, retrained").headline  # epsilon = 4.38: 98.8 %


@pytest.mark.parametrize(
    ("name", "headline", "meaning"),
    [
        ("retrain, retrained", "The data are forgotten exactly.", "had it never seen the forgotten data"),
        ("undeclared_features, center", "Nothing is proven about this model.", "may hold the forgotten data in full"),
        ("dp_training, retrained", "The data are forgotten within", "no more than 3 examples are forgotten."),
        ("dp_training, one example, center", "The data are forgotten within", "no more than 1 example is forgotten."),
        ("model_clipping, center", "The data are forgotten within", "from noise around a public point"),
    ],
)
def test_each_kind_has_its_words(name, headline, meaning):
    assert of(name).headline.startswith(headline)
    assert meaning in of(name).meaning


def test_what_nobody_checked_and_what_is_not_secret_are_warnings():
    assert any("The issuer says why: “the data are gone”" in text for text in of("unchecked").warnings)
    assert any("does not say whether the retained data" in text for text in of("schema 1: retrain").warnings)
    assert any("Mersenne twister" in text for text in of("schema 1: output_perturbation").warnings)
    assert any("take the noise off again" in text for text in of("noise.generator: given").warnings)
    assert any("withdrawn" in text for text in of("schema 1: exact_ridge").warnings)
    assert of("gradient_clipping, retrained").warnings == ()
    assert any("AES-256" in text for text in of("gradient_clipping, retrained").checks)


def test_plain_numbers_are_rounded_to_the_safe_side():
    assert _factor(1.0) == "e^1 = 2.719"
    assert _factor(1000.0) == "e^1000, a number of 435 digits"
    assert (_one_in(1.23456e-5), _one_in(0.5)) == ("1.235e-05 (one in 81,001)", "50 %")
    assert (_percent(0.5), _percent(0.73106), _percent(0.9995)) == ("50.0 %", "73.2 %", "all but entirely")


@pytest.mark.parametrize(
    "name", ["gradient_clipping, retrained", "retrain, center", "undeclared_features, retrained", "unchecked"]
)
def test_the_page_opens_with_the_verdict(name):
    page = render(VALID[name])
    found = of(name)
    rest = page.index("What this does not mean")
    assert page.index(found.headline) < page.index(found.meaning.replace("'", "&#39;")) < rest
    for text in (*found.checks, *found.warnings):
        assert page.index(text) < rest


def test_the_page_shows_coverage_and_stream_on_its_face():
    page = render(VALID["unchecked"])
    assert "the data are gone" in page
    assert '<th scope="row">noise, stream</th><td>aes-256-ctr/1</td>' in page
    assert '<th scope="row">retained data checked</th><td>unchecked</td>' in page
    assert "not recorded (schema 1)" in render(VALID["schema 1: retrain"])


def test_words_of_schema_1_do_not_follow_the_code():
    mechanism = GradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=0.1, weight_decay=0.5, steps=3, noise_std=1.0
    )
    old, new = words_of(mechanism, version=1), words_of(mechanism)
    assert old.certifier[Relation.CENTER] != new.certifier[Relation.CENTER]
    assert old.proves != new.proves


def test_the_command_prints_the_verdict_and_its_warnings(tmp_path):
    path = tmp_path / "certificate.json"
    VALID["unchecked"].save(path)
    printed = " ".join(CliRunner().invoke(app, ["verify", str(path)]).output.split())
    assert (
        printed.index("verified") < printed.index(of("unchecked").headline) < printed.index("Warning: Nobody checked")
    )
    told = json.loads(CliRunner().invoke(app, ["verify", str(path), "--json"]).output)
    assert told["verdict"]["headline"] == of("unchecked").headline
