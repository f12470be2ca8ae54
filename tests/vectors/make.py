"""Make the vectors of certificates, the published JSON Schemas, and the words on docs/certificate.md.

    python tests/vectors/make.py

Deterministic on one machine; another may write other last digits of a number, which are as valid.
"""

import copy
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge import Budget, Relation, issue
from expunge import accounting as ac
from expunge.accounting.mechanisms import assumptions
from expunge.certificate import digest
from expunge.certificate.document import DOCUMENTS, json_schema
from expunge.certificate.record import NO_NOISE, NoiseRecord, RunRecord
from expunge.certificate.words import DOES_NOT_PROVE, NO_RECOVERY, PROVES, mechanisms_of
from expunge.randomness.grid import grid_of

sys.path.insert(0, str(Path(__file__).parent.parent))
from vectors.faults import (
    CERTIFIED,
    COMMITMENT,
    CONTRADICTION,
    DIGEST,
    FORGERY,
    OTHER,
    PUBLIC,
    RELEASED,
    VOCABULARY,
    add,
    invalid,
    set_,
    texts,
)  # fmt: skip

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VECTORS = HERE / "certificates"
SCHEMAS = ROOT / "src" / "expunge" / "certificate" / "schema"
PAGE = ROOT / "docs" / "certificate.md"
WORDS_1 = ROOT / "src" / "expunge" / "certificate" / "words_1.json"
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
    "unproven": ac.Unproven(method="scrub"),
}  # fmt: skip
OF_WEIGHTS = {
    "prune": ac.Prune(
        layers=("linear", "relu", "linear"), input_shape=(64,), lowest=0.0, highest=1.0, patches=3, margin=0.001
    ),
}  # claims about weights, which no certificate alone proves
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
        ("procedure", {"recovery": {"epochs": 5, "rescale": True, "recipe": {"momentum": 0.9}}}),
        ("procedure", {"start": {"name": "just_in_time", "settings": {"epochs": 1, "noise": 0.01, "detached": True}}}),
        ("procedure", {"recovery": {"name": "last_layer", "settings": {"shift": -0.5, "layers.0": "head", "limit": None}}}),
    ]:  # fmt: skip
        record = record_of(BASES["gradient_clipping"], **{field: value})
        yield vector(f"{field}: {value}", "Another value of the vocabulary.", plain(record), field)
    norms = record_of(BASES["gradient_clipping"], buffers="reset", estimated=("norm.running_mean", "norm.running_var"))
    yield vector("estimated buffers", "BatchNorm statistics of the retained data.", plain(norms), "estimated")
    for field, value in [("generator", "given"), ("grid", 2.0**-20)]:
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
    for name, mechanism in (BASES | OF_WEIGHTS).items():
        sentences |= {names[text]: text for text in mechanism.assumptions}
        mechanisms[name] = {
            "kind": str(mechanism.kind), "covers": mechanism.covers, "theorem": mechanism.theorem,
            "assumptions": [names[text] for text in mechanism.assumptions],
            "certifier": {str(relation): mechanism.certifier(relation) for relation in Relation},
            **({"proves": mechanism.proves} if hasattr(mechanism, "proves") else {}),
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
    return {
        "valid": good,
        "invalid": list(invalid(good, list(BASES))),
        "text": list(texts(first)),
        "historical": list(historical()),
    }


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
