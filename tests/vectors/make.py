"""Make the vectors of certificates, the published JSON Schemas, and the words on docs/certificate.md.

    python tests/vectors/make.py

Deterministic on one machine; another may write other last digits of a number, which are as valid.
"""

import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge import Budget, Relation, issue
from expunge import accounting as ac
from expunge.accounting.mechanisms import assumptions
from expunge.certificate import digest
from expunge.certificate.document import DOCUMENTS, json_schema
from expunge.certificate.words import DOES_NOT_PROVE, NO_RECOVERY, PROVES, mechanisms_of
from expunge.randomness.grid import grid_of
from expunge.record import NO_NOISE, NoiseRecord, RunRecord

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VECTORS = HERE / "certificates"
SCHEMAS = ROOT / "src" / "expunge" / "certificate" / "schema"
PAGE = ROOT / "docs" / "certificate.md"
WORDS_1 = ROOT / "src" / "expunge" / "certificate" / "words_1.json"
CERTIFIED, RELEASED, OTHER = ("sha256:" + digit * 64 for digit in "abc")
COMMITMENT = "hmac-sha256:" + "d" * 64

PUBLIC = "trained on ImageNet"
BASES = {
    "gradient_clipping": ac.GradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=0.01, weight_decay=0.5, steps=100, noise_std=0.5
    ),
    "scheduled_gradient_clipping": ac.ScheduledGradientClipping(
        init_clip=1.0, grad_clip=1.0, learning_rate=(0.02, 0.01), weight_decay=0.5, noise_std=(3.0, 2.5)
    ),
    "blockwise_gradient_clipping": ac.BlockwiseGradientClipping(
        block_sizes=(5, 7), block_clips=(1.0, 0.5), grad_clip=1.0, learning_rate=0.01, weight_decay=0.5, steps=3,
        noise_std=0.9, blind=True,
    ),
    "model_clipping": ac.ModelClipping(model_clip=1.0, learning_rate=0.01, steps=5, noise_std=1.0),
    "output_perturbation": ac.OutputPerturbation(init_clip=1.0, noise_std=2.0),
    "retrain": ac.Retrain(),
    "dp_training": ac.DPTraining(sample_clip=1.0, noise_multiplier=4.0, sampling_rate=0.1, steps=50, group_size=3),
    "grid_ridge": ac.GridRidge(ridge=1.0, grid=2.0**-12, rounding=1e-9, provenance=PUBLIC),
    "measured_residual": ac.MeasuredResidual(
        residual=1e-9, strong_convexity=1e-4, noise_std=1e-4, provenance=PUBLIC
    ),
    "replay": ac.Replay(shards=4),
    "undeclared_features": ac.UndeclaredFeatures(head="exact_ridge"),
}  # fmt: skip
MORE = {
    "gradient_clipping, no decay": ac.GradientClipping(
        init_clip=0.3, grad_clip=2.0, learning_rate=0.05, weight_decay=0.0, steps=1000, noise_std=0.4
    ),
    "gradient_clipping, full decay": ac.GradientClipping(
        init_clip=0.3, grad_clip=2.0, learning_rate=0.05, weight_decay=20.0, steps=7, noise_std=0.4
    ),
    "gradient_clipping, one step": ac.GradientClipping(
        init_clip=2.0, grad_clip=0.1, learning_rate=1.0, weight_decay=0.1, steps=1, noise_std=3.0
    ),
    "gradient_clipping, 2^40 steps": ac.GradientClipping(
        init_clip=100.0, grad_clip=0.001, learning_rate=1e-6, weight_decay=1e-3, steps=2**40, noise_std=1e-4
    ),
    "blockwise_gradient_clipping, not blind": ac.BlockwiseGradientClipping(
        block_sizes=(4, 4, 4), block_clips=(1.0, 0.5, 2.0), grad_clip=1.0, learning_rate=0.05, weight_decay=0.5, steps=9,
        noise_std=1.3, blind=False,
    ),
    "model_clipping, many steps": ac.ModelClipping(model_clip=1.0, learning_rate=0.1, steps=60, noise_std=0.4),
    "output_perturbation, tiny mu": ac.OutputPerturbation(init_clip=1e-9, noise_std=1.0),
    "output_perturbation, large mu": ac.OutputPerturbation(init_clip=1.0, noise_std=0.1),
    "dp_training, every example in every batch": ac.DPTraining(
        sample_clip=2.0, noise_multiplier=20.0, sampling_rate=1.0, steps=10, group_size=2
    ),
    "dp_training, one example": ac.DPTraining(
        sample_clip=1.0, noise_multiplier=1.1, sampling_rate=0.05, steps=200, group_size=1
    ),
    "undeclared_features, with noise": ac.UndeclaredFeatures(head="measured_residual", noise_std=0.5),
}  # fmt: skip


def record_of(mechanism: Any, **changes: Any) -> RunRecord:
    """A run as the mechanism says, over twelve weights."""
    noise = NO_NOISE
    if mechanism.noise_draws:
        last = mechanism.noise_std[-1] if isinstance(mechanism.noise_std, tuple) else mechanism.noise_std
        noise = NoiseRecord(
            count=mechanism.noise_draws, std=mechanism.noise_std, dimension=12, self_test="passed",
            generator="secret", stream="aes-256-ctr/1", grid=grid_of(last),
        )  # fmt: skip
    group = "{" in mechanism.covers
    values: dict[str, Any] = {
        "mechanism": mechanism, "steps_done": mechanism.gradient_steps, "noise": noise,
        "layers": (("weight", 8), ("bias", 4)), "weights_dtype": "float32", "center": "zero", "buffers": "none",
        "public": (), "certified": CERTIFIED, "environment": {"expunge": "vector", "device": "cpu"},
        "coverage": "any group" if group else "ids",
    }  # fmt: skip
    return RunRecord(**values | changes)


def plain(record: RunRecord, **options: Any) -> dict[str, Any]:
    """A certificate with a fixed date."""
    content = dict(issue(record, **{"released": RELEASED} | options).content)
    return redigested(content | {"issued": "2026-11-26T12:00:00+00:00"})


def redigested(content: dict[str, Any]) -> dict[str, Any]:
    """The content digest computed anew."""
    return content | {"digest": digest({key: value for key, value in content.items() if key != "digest"})}


def valid() -> Iterator[dict[str, Any]]:
    """One certificate of every mechanism and relation, and what else must be accepted."""

    def vector(name: str, comment: str, certificate: dict[str, Any], *flags: str) -> dict[str, Any]:
        return {"name": name, "comment": comment, "flags": list(flags), "result": "valid", "certificate": certificate}

    for name, mechanism in (BASES | MORE).items():
        for relation in Relation:
            flags = [mechanism.name, str(relation)]
            yield vector(f"{name}, {relation}", "As issued.", plain(record_of(mechanism), relation=relation), *flags)
    gradient = record_of(BASES["gradient_clipping"])
    yield vector("unchanged", "No recovery.", plain(gradient, released=CERTIFIED), "recovery")
    yield vector("asked", "A budget was asked for.", plain(gradient, asked=Budget(epsilon=10.0, delta=1e-6)), "asked")
    yield vector(
        "commitment", "A keyed commitment.", plain(gradient, commitments={"forget": COMMITMENT}), "commitments"
    )
    yield vector("own words", "Recovery in the issuer's words.", plain(gradient, recovery="SGD, 5 epochs"), "recovery")
    yield vector("small delta", "A claim at 1e-12.", plain(gradient, delta=1e-12), "claim")
    unchecked = record_of(BASES["gradient_clipping"], coverage="unchecked")
    yield vector(
        "unchecked", "Nobody checked the retained data.", plain(unchecked, unchecked="the data are gone"), "coverage"
    )
    for field, value in [
        ("center", OTHER), ("buffers", "public"), ("weights_dtype", "bfloat16"), ("weights_dtype", "float64"),
        ("public", ("head.scale",)), ("environment", {}), ("coverage", "content"), ("coverage", "ids and content"),
        ("coverage", "ledger"), ("procedure", {"batch_size": 128, "training": {"epochs": 5, "recipe": {"optimizer": "sgd"}}}),
    ]:  # fmt: skip
        record = record_of(BASES["gradient_clipping"], **{field: value})
        yield vector(f"{field}: {value}", "Another value of the vocabulary.", plain(record), field)
    norms = record_of(BASES["gradient_clipping"], buffers="reset", estimated=("norm.running_mean", "norm.running_var"))
    yield vector("estimated buffers", "BatchNorm statistics of the retained data.", plain(norms), "estimated")
    for field, value in [("generator", "given"), ("stream", "torch-philox"), ("grid", 2.0**-20)]:
        noise = {**gradient.to_dict()["noise"], field: value}
        yield vector(
            f"noise.{field}: {value}",
            "Another value.",
            plain(record_of(gradient.mechanism, noise=NoiseRecord(**noise))),
            "noise",
        )
    good = plain(gradient)
    weaker = copy.deepcopy(good)
    weaker["claim"]["mu"] *= 2
    weaker["profile"][0]["delta"] = 1.0
    yield vector("weaker than proven", "An upper bound may be larger than it need be.", redigested(weaker), "claim")
    accent = good | {"recovery": "rétablissement: SGD 🙂"}
    yield vector("not ASCII", "RFC 8785 writes such characters as they are.", redigested(accent), "digest")


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


def single() -> Iterator[tuple[str, str, str, list[dict[str, Any]]]]:
    """Faults of one field, on gradient clipping: (name, why, flag, patch)."""

    def one(path: str, *values: Any, why: str, flag: str) -> Iterator[tuple[str, str, str, list[dict[str, Any]]]]:
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
        "/run/noise/generator": ["published", "", "Secret", None, 3], "/run/noise/stream": ["mt19937", "", None],
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


def invalid(good: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Patches of valid certificates; the digest is computed anew unless it is the fault."""
    by_name = {vector["name"]: vector["certificate"] for vector in good}
    bases = {
        f"{name}, {relation}": by_name[f"{name}, {relation}"]
        for name, relation in zip(BASES, ["retrained", "center"] * 6, strict=False)
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


def historical() -> Iterator[dict[str, Any]]:
    """Certificates that were issued, and faults of their schema."""
    old = {
        path.stem: json.loads(path.read_text())
        for path in sorted((ROOT / "tests" / "certificates" / "v1").glob("*.json"))
    }
    for name, content in old.items():
        yield {
            "name": f"schema 1: {name}",
            "comment": "Issued by expunge 0.1.0.",
            "flags": ["historical"],
            "result": "valid",
            "certificate": content,
        }
    for name, base, why, patch in [
        ("stream", "gradient_clipping", "Schema 1 has no such field.", [add("/run/noise/stream", "aes-256-ctr/1")]),
        ("coverage", "gradient_clipping", "Schema 1 has no such field.", [add("/run/coverage", "ids")]),
        ("unchecked", "gradient_clipping", "Schema 1 has no such field.", [add("/unchecked", "")]),
        ("generator", "gradient_clipping", VOCABULARY, [set_("/run/noise/generator", "published")]),
        ("dtype", "gradient_clipping", VOCABULARY, [set_("/run/weights_dtype", "a poem")]),
        ("epsilon", "gradient_clipping", FORGERY, [set_("/claim/epsilon", 0.9)]),
        ("no layer", "exact_ridge", "Nothing was covered.", [set_("/run/layers", [])]),
        ("exact with mu", "exact_ridge", CONTRADICTION, [set_("/claim/mu", 1e308)]),
        ("exact with noise", "replay", CONTRADICTION, [set_("/run/noise/std", 1)]),
        ("digest", "retrain", DIGEST, [set_("/weights/released", "sha256:zz")]),
        ("date", "retrain", "The date is none.", [set_("/issued", "last week")]),
        ("asked", "retrain", "No budget.", [set_("/asked/delta", 1e308)]),
        ("a later mechanism", "exact_ridge", "Schema 1 has no words for it.", [set_("/run/mechanism", {"name": "grid_ridge", "ridge": 1.0, "grid": 0.5, "target_grid": 0.0, "rounding": 1e-9, "provenance": "x"})]),
    ]:  # fmt: skip
        yield {
            "name": f"schema 1, {base}: {name}",
            "comment": "A patch of an issued certificate.",
            "why": why,
            "flags": ["historical"],
            "result": "invalid",
            "base": f"schema 1: {base}",
            "patch": patch,
            "redigest": True,
        }


def words_2() -> dict[str, Any]:
    """The words of schema 2 as the page prints them."""
    names = {text: name for name, text in vars(assumptions).items() if name.isupper() and isinstance(text, str)}
    sentences: dict[str, str] = {}
    mechanisms: dict[str, Any] = {}
    for name, mechanism in BASES.items():
        sentences |= {names[text]: text for text in mechanism.assumptions}
        mechanisms[name] = {
            "kind": str(mechanism.kind), "covers": mechanism.covers, "theorem": mechanism.theorem,
            "assumptions": [names[text] for text in mechanism.assumptions],
            "certifier": {str(relation): mechanism.certifier(relation) for relation in Relation},
        }  # fmt: skip
    assert set(mechanisms) == set(mechanisms_of(2))
    return {
        "proves": {str(kind): text for kind, text in PROVES.items()}, "no_recovery": NO_RECOVERY,
        "does_not_prove": list(DOES_NOT_PROVE), "sentences": sentences, "mechanisms": mechanisms,
    }  # fmt: skip


def page() -> str:
    """docs/certificate.md with the words of today."""
    text = PAGE.read_text(encoding="utf-8")
    for version, words in {2: words_2(), 1: json.loads(WORDS_1.read_text(encoding="utf-8"))}.items():
        block = f"<!-- words {version} -->\n\n```json\n{json.dumps(words, indent=1, ensure_ascii=False)}\n```\n\n<!-- end -->"
        text = re.sub(rf"<!-- words {version} -->.*?<!-- end -->", lambda _, block=block: block, text, flags=re.S)
    return text


def vectors() -> dict[str, list[dict[str, Any]]]:
    """All files by name."""
    good = list(valid())
    first = {vector["name"]: vector["certificate"] for vector in good}["gradient_clipping, retrained"]
    return {"valid": good, "invalid": list(invalid(good)), "text": list(texts(first)), "historical": list(historical())}


def schemas() -> dict[str, str]:
    """The published JSON Schemas by file name."""
    return {
        f"certificate-{name.rpartition('/')[2]}.schema.json": json.dumps(json_schema(name), indent=1, ensure_ascii=True)
        + "\n"
        for name in DOCUMENTS
    }


def main() -> None:
    """Write everything."""
    VECTORS.mkdir(exist_ok=True)
    SCHEMAS.mkdir(exist_ok=True)
    for name, tests in vectors().items():
        lines = ",\n".join("  " + json.dumps(test, ensure_ascii=True) for test in tests)
        (VECTORS / f"{name}.json").write_text(
            f'{{"schema": "expunge.vectors/1", "tests": [\n{lines}\n]}}\n', encoding="utf-8"
        )
    for name, text in schemas().items():
        (SCHEMAS / name).write_text(text, encoding="utf-8")
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
