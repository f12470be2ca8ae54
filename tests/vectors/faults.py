"""Faults of certificates: patches of valid ones, and texts that are none."""

import copy
import json
from collections.abc import Iterator
from typing import Any

CERTIFIED, RELEASED, OTHER = ("sha256:" + digit * 64 for digit in "abc")
COMMITMENT = "hmac-sha256:" + "d" * 64
PUBLIC = "trained on ImageNet"
Fault = tuple[str, str, str, list[dict[str, Any]]]  # name, why, flag, patch

FORGERY = "A reader would believe a stronger claim than the fields prove."
CONTRADICTION = "Two fields cannot both be true: the record was not written by a run."
TYPE = "A reader in another language would crash, or read another value."
WORDS = "What is claimed would be said in other words than those that were proven."
VOCABULARY = "Free text where a reader expects a word that has a meaning."
DIGEST = "No weights and no data can ever be held against it."


def set_(path: str, value: Any) -> dict[str, Any]:
    """An operation of RFC 6902."""
    return {"op": "replace", "path": path, "value": value}


def add(path: str, value: Any) -> dict[str, Any]:
    """An operation of RFC 6902."""
    return {"op": "add", "path": path, "value": value}


def remove(path: str) -> dict[str, Any]:
    """An operation of RFC 6902."""
    return {"op": "remove", "path": path}


def resolve(content: Any, path: str) -> Any:
    """What a JSON pointer (RFC 6901) names."""
    for step in path.split("/")[1:]:
        content = content[int(step)] if isinstance(content, list) else content[step]
    return content


def patched(content: dict[str, Any], patch: list[dict[str, Any]]) -> dict[str, Any]:
    """A copy with the patch applied."""
    content = copy.deepcopy(content)
    for operation in patch:
        parent, _, last = operation["path"].rpartition("/")
        place = resolve(content, parent)
        key: Any = last if isinstance(place, dict) else len(place) if last == "-" else int(last)
        if operation["op"] == "remove":
            del place[key]
        elif operation["op"] == "add" and isinstance(place, list):
            place.insert(key, operation["value"])
        else:
            place[key] = operation["value"]
    return content


def every(bases: dict[str, dict[str, Any]]) -> Iterator[tuple[str, str, str, str, list[dict[str, Any]]]]:
    """Faults that any certificate can have: (base, name, why, flag, patch)."""
    for base, content in bases.items():
        claim, kind = content["claim"], content["claim"]["kind"]
        if kind == "epsilon_delta":
            margin = 0.9 if content["run"]["mechanism"]["name"] == "dp_training" else 1 - 1e-9
            for part in ("claim", "also_proven"):
                yield (
                    base,
                    f"{part}.epsilon too small",
                    FORGERY,
                    part,
                    [set_(f"/{part}/epsilon", content[part]["epsilon"] * margin)],
                )
                yield (
                    base,
                    f"{part}.mu too small",
                    FORGERY,
                    part,
                    [set_(f"/{part}/mu", content[part]["mu"] * (1 - 1e-9))],
                )
            yield base, "claim.delta halved", FORGERY, "claim", [set_("/claim/delta", claim["delta"] / 2)]
            yield (
                base,
                "profile too small",
                FORGERY,
                "profile",
                [set_("/profile/0/delta", content["profile"][0]["delta"] * min(margin, 1 - 1e-9))],
            )
            yield (
                base,
                "called exact",
                FORGERY,
                "kind",
                [
                    set_("/claim/kind", "exact"),
                    set_("/claim/epsilon", 0),
                    set_("/claim/delta", 0),
                    set_("/claim/mu", 0),
                ],
            )
        if kind == "exact":
            yield base, "exact with mu", CONTRADICTION, "claim", [set_("/claim/mu", 1e308)]
            yield base, "exact with epsilon", CONTRADICTION, "claim", [set_("/claim/epsilon", 1.0)]
            yield base, "exact with a profile", CONTRADICTION, "profile", [set_("/profile/0/delta", 0.5)]
            yield base, "exact with noise", CONTRADICTION, "noise", [set_("/run/noise/std", 1.0)]
        if kind == "none":
            yield (
                base,
                "nothing, called exact",
                FORGERY,
                "kind",
                [set_("/claim/kind", "exact"), set_("/claim/delta", 0), set_("/claim/mu", 0)],
            )
            yield base, "nothing at a smaller delta", FORGERY, "claim", [set_("/claim/delta", 0.5)]
            yield base, "nothing but a hair", FORGERY, "profile", [set_("/profile/7/delta", 1 - 1e-12)]
            yield base, "nothing with mu", FORGERY, "claim", [set_("/claim/mu", 1.0)]
        yield base, "other theorem", WORDS, "words", [set_("/claim/theorem", "Trust me.")]
        yield base, "an assumption left out", WORDS, "words", [remove("/claim/assumptions/0")]
        yield base, "other certifier", WORDS, "words", [set_("/claim/certifier", "retraining")]
        yield base, "other sentence", WORDS, "words", [set_("/claim/proves", "The data are gone.")]


def single() -> Iterator[Fault]:
    """Faults of one field, on gradient clipping: (name, why, flag, patch)."""

    def one(path: str, *values: Any, why: str, flag: str) -> Iterator[Fault]:
        for value in values:
            shown = json.dumps(value, ensure_ascii=True)
            yield f"{path} = {shown[:100]}", why, flag, [set_(path, value)]

    for path in ("/run/certified", "/weights/certified", "/weights/released", "/run/center"):
        yield from one(
            path,
            "sha256:zz",
            "sha256:" + "A" * 64,
            "sha256:" + "a" * 63,
            "sha256:" + "a" * 65,
            "md5:" + "a" * 32,
            "",
            7,
            None,
            why=DIGEST,
            flag="digest",
        )
    yield from one(
        "/commitments",
        {"forget": "hmac-sha256:00"},
        {"forget": "row 17"},
        {"forget": "hmac-sha256:" + "G" * 64},
        {"": COMMITMENT},
        {"x": 3},
        [],
        None,
        why=DIGEST,
        flag="commitments",
    )
    for path, values in {
        "/run/noise/generator": ["published", "", "Secret", None, 3], "/run/noise/stream": ["mt19937", "torch-mersenne", "torch-philox", "", None],
        "/run/noise/self_test": ["failed", "", "not run", None], "/run/weights_dtype": ["float8", "a poem", "torch.float32", None],
        "/run/buffers": ["a poem", "", None, True], "/run/coverage": ["checked", "", None], "/claim/kind": ["empirical", "behavioural", "perfect", None],
        "/claim/relation": ["nearby", "", None], "/run/mechanism/name": ["wishful", "", None, ["gradient_clipping"]],
    }.items():  # fmt: skip
        yield from one(path, *values, why=VOCABULARY, flag="vocabulary")
    yield from one(
        "/issued",
        "yesterday",
        "2026-13-01T00:00:00+00:00",
        "2026-02-30T00:00:00+00:00",
        "2026-11-26T25:00:00+00:00",
        "2026-11-26T12:00:00",
        "2026-11-26",
        "2026-11-26T12:00:00Z",
        "",
        None,
        1764158400,
        why="The date is none, or in another form than readers parse.",
        flag="date",
    )
    for path in (
        "/claim/epsilon",
        "/claim/delta",
        "/claim/mu",
        "/profile/0/delta",
        "/run/noise/std",
        "/run/noise/grid",
        "/run/mechanism/noise_std",
    ):
        yield from one(path, "1", True, None, [], {}, -1, why=TYPE, flag="number")
    for path in (
        "/run/steps_done",
        "/run/noise/count",
        "/run/noise/dimension",
        "/run/layers/0/1",
        "/run/mechanism/steps",
    ):
        yield from one(path, "100", True, None, 99.5, -1, 0, why=TYPE, flag="number")
    yield from one("/run/noise/std", ["a"], [0.5], 0, why=CONTRADICTION, flag="noise")
    yield from one(
        "/run/noise/grid",
        0,
        0.3,
        1.0,
        2.0**-10,
        -(2.0**-14),
        why="The release was not rounded to a step that hides its low bits.",
        flag="noise",
    )
    yield from one(
        "/run/layers",
        [],
        [["a"]],
        [["a", 12, 1]],
        [[1, 12]],
        [["a", 6], ["a", 6]],
        [["a", 13], ["b", -1]],
        [["a", 12], ["b", 0]],
        "ab",
        why="Nothing, or not what is said, was covered by the noise.",
        flag="layers",
    )
    yield from one(
        "/run/public", ["weight"], ["x", "x"], [3], "x", why="A name is both covered and not.", flag="layers"
    )
    yield from one(
        "/run/estimated", ["weight"], ["x", "x"], [3], None, why="A name is both covered and not.", flag="layers"
    )
    yield from one(
        "/run/environment", {"a": 3}, {"a": "line\nline"}, [], {"": "x"}, {"a": "x" * 1001}, why=TYPE, flag="text"
    )
    yield from one(
        "/run/procedure",
        {"seed": 3},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"training": {}},
        {"recovery": {"epochs": -1, "rescale": False, "recipe": {}}},
        {"recovery": {"epochs": 1, "rescale": False, "recipe": {}, "name": "x"}},
        {"recovery": {"name": "", "settings": {}}},
        {"recovery": {"name": "x"}},
        {"recovery": {"name": "x", "settings": {"layers": ["a"]}}},
        [],
        why="A setting that no audit knows, or that cannot be.",
        flag="procedure",
    )
    yield from one(
        "/recovery",
        "",
        "a\u202eb",
        "x" * 1001,
        7,
        None,
        "none: the released weights are the certified weights",
        why="It hides what was done after the mechanism.",
        flag="text",
    )
    yield from one("/unchecked", "nobody looked", None, 3, why="The record says that it was checked.", flag="coverage")
    yield (
        "statistics estimated, buffers none",
        CONTRADICTION,
        "estimated",
        [set_("/run/estimated", ["norm.running_mean"])],
    )
    yield "buffers reset, nothing estimated", CONTRADICTION, "estimated", [set_("/run/buffers", "reset")]
    yield (
        "unchecked without words",
        "Nobody checked, and nobody says why.",
        "coverage",
        [set_("/run/coverage", "unchecked")],
    )
    yield from one(
        "/run/coverage", "any group", why="Only training that covers groups needs no check.", flag="coverage"
    )
    yield from one(
        "/asked",
        {"epsilon": 10.0, "delta": 1e308},
        {"epsilon": 10.0, "delta": 0.0},
        {"epsilon": 10.0, "delta": 1.0},
        {"epsilon": -1.0, "delta": 0.5},
        {"epsilon": 0.1, "delta": 1e-5},
        {"epsilon": 10.0, "delta": 1e-6},
        {"epsilon": 10.0},
        3,
        [],
        why="No budget, or one that the claim does not meet.",
        flag="asked",
    )
    yield from one("/profile", [], None, [3], why=TYPE, flag="profile")
    yield from one("/profile/0/delta", 7, 1.0000001, why="No probability.", flag="profile")
    yield from one(
        "/profile/4/epsilon",
        1.5,
        0.5,
        "1",
        why="The profile is stated at fixed points, so that none can be picked.",
        flag="profile",
    )
    yield from one("/profile/8/delta", 1.0, 0.5, why=CONTRADICTION, flag="profile")
    yield from one("/does_not_prove", [], ["All is well."], None, why=WORDS, flag="words")
    yield "does_not_prove shortened", WORDS, "words", [remove("/does_not_prove/0")]
    yield from one(
        "/run/mechanism/noise_std", 1.0, 0.25, why="The run drew other noise than its mechanism says.", flag="mechanism"
    )
    yield from one(
        "/run/mechanism/steps", 101, 99, why="The run took other steps than its mechanism says.", flag="mechanism"
    )
    yield from one(
        "/run/mechanism/learning_rate", 3.0, 0.0, why="The step overshoots the centre, or is none.", flag="mechanism"
    )
    yield from one("/run/mechanism", {"name": "retrain"}, None, [], {}, why=CONTRADICTION, flag="mechanism")
    yield "noise from no generator", CONTRADICTION, "noise", [set_("/run/noise/generator", "none")]
    yield "noise from no stream", CONTRADICTION, "noise", [set_("/run/noise/stream", "none")]
    yield (
        "self-test left out",
        "The noise may not have reached the weights.",
        "noise",
        [set_("/run/noise/self_test", "none")],
    )
    yield "half precision under noise", CONTRADICTION, "noise", [set_("/run/weights_dtype", "float16")]
    yield "other certified weights", CONTRADICTION, "digest", [set_("/weights/certified", OTHER)]
    yield "epsilon overstated, sentence kept", WORDS, "words", [set_("/claim/epsilon", 50.0)]
    yield "one relation twice", "The weaker reading is hidden.", "claim", [set_("/also_proven", None)]
    yield "claim of the other relation", FORGERY, "claim", [set_("/claim/relation", "center")]
    yield "schema 3", "Its meaning is not known.", "schema", [set_("/schema", "expunge.certificate/3")]
    yield (
        "read as schema 1",
        "Fields that schema 1 does not have.",
        "schema",
        [set_("/schema", "expunge.certificate/1")],
    )
    yield from one("/schema", None, 2, [], why="Its meaning is not known.", flag="schema")
    for path in ("/bonus", "/claim/bonus", "/run/bonus", "/run/noise/bonus", "/weights/bonus", "/run/mechanism/bonus"):
        yield f"{path} added", "A field that no verifier checks carries a claim.", "keys", [add(path, 1)]
    for path in (
        "/profile",
        "/claim",
        "/run",
        "/run/noise",
        "/run/noise/stream",
        "/run/coverage",
        "/unchecked",
        "/run/estimated",
        "/claim/certifier",
        "/weights/released",
        "/issued",
        "/run/mechanism/steps",
    ):
        yield f"{path} removed", "What is missing cannot be checked.", "keys", [remove(path)]


def invalid(good: list[dict[str, Any]], mechanisms: list[str]) -> Iterator[dict[str, Any]]:
    """Patches of valid certificates; the digest is computed anew unless it is the fault."""
    by_name = {vector["name"]: vector["certificate"] for vector in good}
    bases = {
        f"{name}, {relation}": by_name[f"{name}, {relation}"]
        for name, relation in zip(mechanisms, ["retrained", "center"] * 6, strict=False)
    }
    base = "gradient_clipping, retrained"

    def vector(
        base: str, name: str, why: str, flag: str, patch: list[dict[str, Any]], *, redigest: bool = True
    ) -> dict[str, Any]:
        return {
            "name": f"{base}: {name}",
            "comment": "A patch of a valid certificate.",
            "why": why,
            "flags": [flag],
            "result": "invalid",
            "base": base,
            "patch": patch,
            "redigest": redigest,
        }

    for fault in every(bases):
        yield vector(*fault)
    for name, why, flag, patch in single():
        if name == "one relation twice":
            patch = [set_("/also_proven", by_name[base]["claim"])]
        yield vector(base, name, why, flag, patch)
    exact = "retrain, retrained"
    for name, patch in {
        "noise.dimension": set_("/run/noise/dimension", 12), "noise.generator": set_("/run/noise/generator", "secret"),
        "noise.stream": set_("/run/noise/stream", "aes-256-ctr/1"), "noise.grid": set_("/run/noise/grid", 2.0**-20),
        "noise.self_test": set_("/run/noise/self_test", "passed"), "noise.count": set_("/run/noise/count", 1),
        "steps": set_("/run/steps_done", 3), "center": set_("/run/center", OTHER),
    }.items():  # fmt: skip
        yield vector(exact, f"{name} in an exact record", CONTRADICTION, "noise", [patch])
    yield vector("dp_training, center", "coverage by ids", CONTRADICTION, "coverage", [set_("/run/coverage", "ids")])
    yield vector("dp_training, center", "a smaller group", FORGERY, "words", [set_("/run/mechanism/group_size", 2)])
    yield vector("dp_training, center", "a larger group", FORGERY, "claim", [set_("/run/mechanism/group_size", 4)])
    yield vector(
        "dp_training, center", "sampling rate above 1", TYPE, "mechanism", [set_("/run/mechanism/sampling_rate", 1.5)]
    )
    yield vector(
        "grid_ridge, center", "provenance with a line break", TYPE, "text", [set_("/run/mechanism/provenance", "a\nb")]
    )
    yield vector(
        "grid_ridge, center",
        "no provenance",
        "The feature map may hold the forgotten data.",
        "text",
        [set_("/run/mechanism/provenance", "")],
    )
    schedules = "scheduled_gradient_clipping, center"
    yield vector(
        schedules, "schedules of unequal length", TYPE, "mechanism", [set_("/run/mechanism/learning_rate", [0.02])]
    )
    yield vector(
        schedules, "true in a schedule", TYPE, "mechanism", [set_("/run/mechanism/learning_rate", [0.02, True])]
    )
    yield vector(schedules, "the noise of one step changed", FORGERY, "noise", [set_("/run/noise/std/1", 3.0)])
    ridge = {"name": "exact_ridge", "ridge": 1.0, "rounding": 1e-9, "provenance": PUBLIC}
    yield vector(
        "grid_ridge, center",
        "a withdrawn mechanism",
        "Float sums kept the order of additions.",
        "mechanism",
        [set_("/run/mechanism", ridge)],
    )
    for path, value in {"/claim/epsilon": 0.5, "/recovery": "SGD", "/issued": "2026-11-27T12:00:00+00:00"}.items():
        yield vector(
            base,
            f"{path} altered, digest kept",
            "A field was altered after the certificate was issued.",
            "digest",
            [set_(path, value)],
            redigest=False,
        )
    for value in (None, 3, "sha256:zz", "sha256:" + "0" * 64):
        yield vector(
            base,
            f"digest = {value!r:.20}",
            "Damage would go unseen.",
            "digest",
            [set_("/digest", value)],
            redigest=False,
        )


def texts(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Faults of the text, below the level of fields."""
    whole = json.dumps(good, ensure_ascii=False)
    epsilon = f'"epsilon": {json.dumps(good["claim"]["epsilon"])}'
    assert epsilon in whole
    for name, why, text in [
        ("truncated", "Half a file.", whole[: len(whole) // 2]),
        ("empty", "No file.", ""),
        ("array", "No certificate.", "[]"),
        ("text behind it", "Two documents in one file: readers may see either.", whole + "{}"),
        ("NaN", "Compares with nothing: NaN < proven is false.", whole.replace(epsilon, '"epsilon": NaN', 1)),
        ("Infinity", "No number of JSON.", whole.replace(epsilon, '"epsilon": Infinity', 1)),
        ("1e999", "No double.", whole.replace(epsilon, '"epsilon": 1e999', 1)),
        ("a repeated key", "Readers differ in which of the two they see.", '{"asked": null, ' + whole[1:]),
        ("a repeated key inside", "Readers differ in which of the two they see.", whole.replace('"claim": {', '"claim": {"kind": "exact", ', 1)),
        ("a whole number beyond 2^53", "Readers round it to different numbers.", whole.replace('"steps_done": 100', '"steps_done": 9007199254740993', 1)),
        ("a lone surrogate", "No UTF-8, so no digest.", whole.replace('"recovery": "', '"recovery": "\\ud800', 1)),
        ("deep nesting", "It would exhaust a reader's stack.", whole.replace('"asked": null', '"asked": ' + "[" * 3000 + "]" * 3000, 1)),
    ]:  # fmt: skip
        assert text != whole
        yield {
            "name": name,
            "comment": "The text of the file itself.",
            "why": why,
            "flags": ["text"],
            "result": "invalid",
            "text": text,
        }
