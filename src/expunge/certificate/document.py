"""The whole document as one table of fields, one for each schema; the published JSON Schema is written from it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from expunge.accounting import MECHANISMS, Kind, Relation
from expunge.certificate import fields as f
from expunge.certificate.mechanism import mechanism_from_dict
from expunge.certificate.record import COVERAGES
from expunge.certificate.words import mechanisms_of
from expunge.errors import MalformedCertificate

__all__ = ["DOCUMENTS", "KINDS", "NO_STREAM", "PROFILE_AT", "STREAMS", "json_schema"]

KINDS = tuple(Kind)  # that a certificate may state
PROFILE_AT = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
NO_STREAM = "none"
STREAMS = ("aes-256-ctr/1", NO_STREAM)  # noise that can be inverted is read from schema 1 alone
GENERATORS = ("secret", "given", "none")
BUFFERS = ("none", "public", "reset")
DTYPES = ("float32", "bfloat16", "float64", "float16")
# Retraining could be certified for any model before schema 2.
_DTYPES_1 = (*DTYPES, "complex64", "complex128")


@dataclass(frozen=True)
class Mechanism:
    """Name and fields of a mechanism of the closed table."""

    names: tuple[str, ...]

    def check(self, where: str, value: object) -> None:
        """The mechanism itself says what its fields may be; its texts are bounded as all others."""
        name = mechanism_from_dict(cast("Mapping[str, Any]", value)).name
        if name not in self.names:
            raise MalformedCertificate(f"unknown mechanism '{name}': certificates of this schema do not hold it")
        for name, entry in cast("dict[str, object]", value).items():
            if isinstance(entry, str):
                f.Text().check(f"{where}.{name}", entry)

    def schema(self) -> dict[str, Any]:
        """One alternative a mechanism, from its annotations."""
        return {
            "oneOf": [
                _mechanism_schema(name, mechanism) for name, mechanism in MECHANISMS.items() if name in self.names
            ]
        }


def _mechanism_schema(name: str, mechanism: type[Any]) -> dict[str, Any]:
    hints = get_type_hints(mechanism)
    signed = getattr(mechanism, "signed", ())  # its numbers that may be negative
    own = {p.name: f.Number(-math.inf) if p.name in signed else _annotation(hints[p.name]) for p in fields(mechanism)}
    return f.Object({"name": f.OneOf((name,)), **own}).schema()


def _annotation(hint: Any) -> f.Field:
    plain: dict[Any, f.Field] = {float: f.Number(), int: f.Whole(), bool: f.Flag(), str: f.Text()}
    if get_origin(hint) is Literal:
        return f.OneOf(get_args(hint))
    return f.ListOf(plain[get_args(hint)[0]], least=1) if get_origin(hint) is tuple else plain[hint]


def _claim(text: f.Matching) -> f.Object:
    return f.Object(
        {
            "kind": f.OneOf(tuple(map(str, KINDS))),
            "relation": f.OneOf(tuple(map(str, Relation))),
            "epsilon": f.Number(),
            "delta": f.Number(0.0, 1.0),
            "mu": f.Either((f.Number(), f.OneOf((None,))), "a finite number of at least 0, or null"),
            "theorem": text,
            "assumptions": f.ListOf(text, least=1, most=100, unique=True),
            "certifier": text,
            "proves": text,
        },
        optional={"predicate": text, "region": text},
    )


def _run(version: int, name: f.Matching) -> f.Object:
    std = f.Either((f.Number(), f.ListOf(f.Number(), least=1)), "a finite number of at least 0, or a list of them")
    noise: dict[str, f.Field] = {
        "count": f.Whole(),
        "std": std,
        "dimension": f.Whole(),
        "self_test": f.OneOf(("passed", "none")),
        "generator": f.OneOf(GENERATORS),
    }
    run: dict[str, f.Field] = {
        "mechanism": Mechanism(mechanisms_of(version)),
        "steps_done": f.Whole(),
        "layers": f.ListOf(f.Pair(name, f.Whole(1 if version > 1 else 0)), least=1),
        "weights_dtype": f.OneOf(DTYPES if version > 1 else _DTYPES_1),
        "center": f.Either((f.OneOf(("zero",)), f.DIGEST), "'zero' or a digest 'sha256:...'"),
        "buffers": f.OneOf(BUFFERS),
        "public": f.ListOf(name, unique=True),
        "certified": f.DIGEST,
        "environment": f.MappingOf(f.Text(), f.Text(0)),
    }
    if version > 1:
        noise |= {"stream": f.OneOf(STREAMS), "grid": f.Number()}
        run |= {
            "estimated": f.ListOf(name, unique=True),
            "coverage": f.OneOf(COVERAGES),
            "procedure": f.Object({}, optional=_PROCEDURE),
        }
    return f.Object(run | {"noise": f.Object(noise)})


_SETTING = f.Either(
    (f.Number(), f.Flag(), f.Text(0), f.OneOf((None,))), "a number of at least 0, true, false, null or a text"
)
_RECIPE = f.MappingOf(f.Text(), _SETTING)
_FINE_TUNING = f.Object({"epochs": f.Number(), "rescale": f.Flag(), "recipe": _RECIPE})
_FREE = f.Either(
    (f.Number(-math.inf), f.Flag(), f.Text(0), f.OneOf((None,))), "a finite number, true, false, null or a text"
)
_NAMED = f.Object({"name": f.Text(), "settings": f.MappingOf(f.Text(), _FREE)})
_PROCEDURE: Mapping[str, f.Field] = {
    "batch_size": f.Whole(1),
    "recovery": f.Either(
        (_FINE_TUNING, _NAMED), "fine-tuning {epochs, rescale, recipe}, or another recovery {name, settings}"
    ),
    "training": f.Object({"epochs": f.Number(), "recipe": _RECIPE}),
    "start": _NAMED,
    "unlearner": _NAMED,
}


def _document(schema: str, version: int) -> f.Object:
    # Schema 1 let names and the words on recovery be any text.
    name, line = (f.Text(), f.Text()) if version > 1 else (f.Text(lines=True), f.Text(0, 10_000, lines=True))
    text = f.Text(1, 4000)
    new: dict[str, f.Field] = {"unchecked": f.Text(0)} if version > 1 else {}
    return f.Object(
        {
            "schema": f.OneOf((schema,)),
            "asked": f.Object({"epsilon": f.Number(), "delta": f.Number(0.0, 1.0, strict=True)}, nullable=True),
            "claim": _claim(text),
            "also_proven": _claim(text),
            "profile": f.ListOf(
                f.Object({"epsilon": f.Number(), "delta": f.Number(0.0, 1.0)}), len(PROFILE_AT), len(PROFILE_AT)
            ),
            "run": _run(version, name),
            "weights": f.Object({"certified": f.DIGEST, "released": f.DIGEST}),
            "commitments": f.MappingOf(f.Text(), f.COMMITMENT),
            "recovery": line,
            "does_not_prove": f.ListOf(text, least=1, most=20),
            "issued": f.DATE,
            "digest": f.DIGEST,
        }
        | new
    )


DOCUMENTS: Mapping[str, f.Object] = {
    f"expunge.certificate/{version}": _document(f"expunge.certificate/{version}", version) for version in (1, 2)
}


def json_schema(name: str) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of a certificate of this schema: what it rejects, `verify` refuses."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name}
    return head | DOCUMENTS[name].schema()
