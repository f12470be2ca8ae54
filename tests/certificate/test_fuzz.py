"""Certificates altered at random, their digest computed anew: two verifiers accept the same ones, and no nonsense."""

import copy
import json
import math
import random
import time

import pytest

import second_verifier
from expunge import Certificate, verify
from expunge.errors import CertificateError
from test_vectors import VECTORS, second_digest

BASES = [vector for vector in VECTORS if vector["result"] == "valid"]
WORDS = [
    "", "none", "exact", "center", "retrained", "secret", "given", "a poem", "sha256:zz", "sha256:" + "e" * 64,
    "hmac-sha256:" + "f" * 64, "2026-11-26T12:00:00+00:00", "x" * 5000, "\x00", "a\u202eb", "ids", "any group", "1", "🙂",
]  # fmt: skip
NUMBERS = [0, 1, -1, 0.5, 1e-300, 5e-324, 1e308, 2**53 - 1, 2**53, -0.0, 7, 1 - 1e-16, 2.0**-20, 1e-5, 100]
OTHERS = [None, True, False, [], {}, [[]], {"a": 1}, ["a"], [1, 2]]


def nodes(node, path=()):
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from nodes(child, (*path, key))


def altered(coins, content):
    """One to three edits anywhere: values, types, keys, entries, numbers by a hair or by far."""
    content = copy.deepcopy(content)
    for _ in range(coins.choice([1, 1, 1, 2, 3])):
        paths = [path for path in nodes(content) if path]
        path = coins.choice(paths)
        place = content
        for step in path[:-1]:
            place = place[step]
        edit(coins, content, place, path[-1], paths)
    content["digest"] = second_digest(content)
    return content


def edit(coins, content, place, key, paths):
    old, what = place[key], coins.random()
    if isinstance(old, (int, float)) and not isinstance(old, bool) and what < 0.6:
        number = coins.choice(
            [
                old * (1 + coins.choice([-1, 1]) * 10.0 ** -coins.randint(1, 16)),
                old * coins.choice([0.5, 2, 0.1, 10]),
                old + coins.choice([-1, 1]),
                coins.choice(NUMBERS),
            ]
        )
        place[key] = number if math.isfinite(number) else old  # no JSON for 10 times 1e308, hence no digest
    elif isinstance(old, str) and what < 0.6:
        at = coins.randint(0, len(old))
        place[key] = coins.choice(
            [coins.choice(WORDS), old[:at] + coins.choice("aZ0 \n\u200b.") + old[at:], old[:-1], old.upper()]
        )
    elif isinstance(old, list) and old and what < 0.6:
        coins.choice([old.pop, lambda: old.append(copy.deepcopy(coins.choice(old))), old.reverse])()
    elif isinstance(place, dict) and what < 0.7:
        place[coins.choice(["bonus", "stream", "mu", "name"])] = coins.choice(WORDS + NUMBERS)
    elif isinstance(place, dict) and what < 0.75:
        del place[key]
    elif what < 0.9:  # what stands elsewhere
        value = content
        for step in coins.choice(paths):
            if isinstance(value, (dict, list)) and (step in value if isinstance(value, dict) else step < len(value)):
                value = value[step]
        place[key] = copy.deepcopy(value)
    else:
        place[key] = copy.deepcopy(coins.choice(WORDS + NUMBERS + OTHERS))


def accepted_by_first(text):
    try:
        verify(Certificate.from_json(text))
    except CertificateError:
        return False
    return True


def accepted_by_second(text):
    try:
        second_verifier.verify(text.encode())
    except second_verifier.Refused:
        return False
    return True


def private(content):
    """Whether the second verifier computes for seconds, and allows itself a wider margin."""
    run = content.get("run")
    mechanism = run.get("mechanism") if isinstance(run, dict) else None
    return isinstance(mechanism, dict) and mechanism.get("name") == "dp_training"


def at_the_border(base, content):
    """Whether the two differ in δ of the profile alone, by less than 1e-9: where runs are very long expunge states as much more."""
    apart = [(one["delta"], other["delta"]) for one, other in zip(base["profile"], content["profile"], strict=True)]
    same = {key: value for key, value in content.items() if key not in ("profile", "digest")}
    return all(base[key] == value for key, value in same.items()) and all(
        abs(a - b) < 1e-9 * a for a, b in apart if a != b
    )


def fuzz(seed, count):
    coins = random.Random(seed)
    tally = {"accepted": 0, "refused": 0, "slowest": 0.0}
    for _ in range(count):
        base = coins.choice(BASES)
        try:
            content = altered(coins, base["certificate"])
            text = json.dumps(content)
        except (UnicodeEncodeError, OverflowError):
            continue
        begun = time.process_time()
        try:
            accepted = accepted_by_first(text)
        except Exception as error:  # anything but a refusal
            raise AssertionError(text) from error
        tally["slowest"] = max(tally["slowest"], time.process_time() - begun)
        tally["accepted" if accepted else "refused"] += 1
        if (accepted or not private(content)) and accepted_by_second(text) is not accepted:
            assert not accepted, (base["name"], text)
            assert at_the_border(base["certificate"], content), (base["name"], text)
        if accepted:
            assert_sense(base["certificate"], content)
    return tally


def assert_sense(base, content):
    """What was accepted claims no more than the certificate it was made from, unless it is of another run."""
    claim = content["claim"]
    assert 0 <= claim["epsilon"] < math.inf
    assert 0 <= claim["delta"] <= 1
    if content["run"]["mechanism"] == base["run"]["mechanism"] and claim["relation"] == base["claim"]["relation"]:
        assert claim["epsilon"] >= base["claim"]["epsilon"] * (1 - 1e-10) or claim["delta"] > base["claim"]["delta"]
        assert claim["kind"] == base["claim"]["kind"]
    assert all(len(value) < 5000 for value in texts(content))
    assert not any(second_verifier.HIDDEN.search(value) for value in texts(content["run"]["environment"]))


def texts(node):
    if isinstance(node, str):
        yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from texts(child)


def test_a_thousand_altered_certificates_are_told_alike_by_both_verifiers():
    tally = fuzz(seed=0, count=1000)
    assert tally["refused"] > 500
    assert tally["accepted"] > 20  # the edits are not all absurd
    assert tally["slowest"] < 2


@pytest.mark.long
def test_forty_thousand_altered_certificates_are_told_alike_by_both_verifiers():
    tally = fuzz(seed=1, count=40_000)
    print(tally)
    assert tally["refused"] > 20_000
    assert tally["slowest"] < 4  # seconds of a busy core; on one of its own under 2
