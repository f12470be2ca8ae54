"""Two verifiers, written from one page, agree on every vector; so do the published schemas and words."""

import ast
import json
import sys
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

import second_verifier
from expunge import Certificate, verify
from expunge.errors import CertificateError
from vectors import faults, make

FOLDER = make.VECTORS
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
VECTORS = [test for file in FILES.values() for test in file["tests"]]
BY_NAME = {test["name"]: test for test in VECTORS}
SCHEMAS = {
    f"expunge.certificate/{version}": jsonschema.Draft202012Validator(
        json.loads((make.SCHEMAS / f"certificate-{version}.schema.json").read_text())
    )
    for version in (1, 2)
}


def text_of(vector):
    """The text of the certificate that a vector stands for."""
    if "text" in vector:
        return vector["text"]
    if "certificate" in vector:
        return json.dumps(vector["certificate"])
    content = faults.patched(BY_NAME[vector["base"]]["certificate"], vector["patch"])
    if vector["redigest"]:
        content["digest"] = second_digest(content)
    return json.dumps(content)


def second_digest(content):
    """By the canonical form of the second verifier, so that faults of ours cannot hide in the vectors."""
    text = second_verifier.canonical({key: value for key, value in content.items() if key != "digest"})
    return "sha256:" + second_verifier.hashlib.sha256(text.encode()).hexdigest()


def first_says(text):
    try:
        verify(Certificate.from_json(text))
    except CertificateError:
        return "invalid"
    return "valid"


def second_says(text):
    try:
        second_verifier.verify(text.encode())
    except second_verifier.Refused:
        return "invalid"
    return "valid"


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_both_verifiers_say_of_a_vector_what_it_says_of_itself(vector):
    text = text_of(vector)
    assert (first_says(text), second_says(text)) == (vector["result"], vector["result"])


def test_there_are_at_least_200_vectors_of_every_sort_with_names_of_their_own():
    results = Counter(vector["result"] for vector in VECTORS)
    assert results["valid"] >= 40
    assert results["invalid"] >= 200
    assert sum("historical" in vector["flags"] for vector in VECTORS) >= 11
    assert len(BY_NAME) == len(VECTORS)
    assert all(vector["why"] and vector["flags"] for vector in VECTORS if vector["result"] == "invalid")
    assert all(path.stat().st_size < 2 * 2**20 for path in FOLDER.iterdir())


def test_every_mechanism_and_relation_has_a_valid_vector():
    valid = [v["certificate"] for v in VECTORS if v["result"] == "valid" and "historical" not in v["flags"]]
    seen = {(c["run"]["mechanism"]["name"], c["claim"]["relation"]) for c in valid}
    assert seen == {
        (name, relation)
        for name in set(make.mechanisms_of(2)) - set(make.OF_WEIGHTS)
        for relation in ("retrained", "center")
    }


@pytest.mark.parametrize("vector", [v for v in VECTORS if "text" not in v], ids=lambda vector: vector["name"])
def test_what_the_published_schema_rejects_is_invalid(vector):
    content = json.loads(text_of(vector))
    schema = SCHEMAS.get(str(content.get("schema")))
    if vector["result"] == "valid":
        assert schema is not None
        schema.validate(content)


def test_the_published_schema_rejects_most_faults_of_single_fields():
    faults = [
        json.loads(text_of(v)) for v in VECTORS if v["flags"][0] in ("vocabulary", "date", "number", "keys", "digest")
    ]
    rejected = [c for c in faults if str(c.get("schema")) not in SCHEMAS or not SCHEMAS[c["schema"]].is_valid(c)]
    assert len(rejected) >= 0.8 * len(faults)


def test_schemas_words_and_vectors_are_those_that_the_script_makes():
    """After a change run `python tests/vectors/make.py`; a published vector may be joined by others, not altered."""
    for name, text in make.schemas().items():
        assert (make.SCHEMAS / name).read_text() == text, name
    assert make.PAGE.read_text(encoding="utf-8") == make.page()
    assert {name: [test["name"] for test in file["tests"]] for name, file in FILES.items()} == {
        name: [test["name"] for test in tests] for name, tests in make.vectors().items()
    }


def test_the_second_verifier_imports_the_standard_library_alone():
    tree = ast.parse(Path(second_verifier.__file__).read_text(encoding="utf-8"))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= sys.stdlib_module_names


def test_both_verifiers_write_numbers_canonically_alike():
    import struct

    import numpy as np
    import rfc8785

    generator = np.random.default_rng(0)
    bits = generator.integers(0, 2**64, 2000, dtype=np.uint64)
    numbers = [struct.unpack("<d", int(word).to_bytes(8, "little"))[0] for word in bits]
    numbers += [1e21, 1e20, 999999999999999900000.0, 1e-6, 1e-7, 123456.789, 0.1, -0.0, 5e-324, 1.7976931348623157e308]
    for x in numbers:
        if np.isfinite(x):
            assert second_verifier.shortest(x).encode() == rfc8785.dumps(x)
