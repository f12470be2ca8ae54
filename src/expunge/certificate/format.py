"""The file: JSON with unique keys and finite numbers, a digest over its canonical form, and what is fixed about it."""

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import rfc8785

from expunge._files import write_new
from expunge._json import strict
from expunge.accounting import Claim, Mechanism
from expunge.certificate.claim import claim_from_dict
from expunge.certificate.mechanism import mechanism_to_dict
from expunge.certificate.record import RunRecord
from expunge.errors import MalformedCertificate

__all__ = ["MOST_BYTES", "MOST_COMMAS", "SCHEMA", "VERSIONS", "Certificate", "digest", "refuse_too_long", "version_of"]

SCHEMA = "expunge.certificate/2"
VERSIONS = {"expunge.certificate/1": 1, SCHEMA: 2}

# Of a file, so that whoever reads it is not kept busy: a second or two.
MOST_BYTES, MOST_COMMAS = 8 * 2**20, 400_000


@dataclass(frozen=True)
class Certificate:
    """A certificate's content as JSON-ready fields.

    `issue` makes one, `Certificate.load` reads one; neither vouches for it, `verify` does.
    """

    content: Mapping[str, Any]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Certificate":
        """Read a certificate.

        Raises:
            MalformedCertificate: the file is missing, truncated, not JSON, repeats a key or holds NaN.
        """
        try:
            with Path(path).open("rb") as file:
                text = file.read(MOST_BYTES + 1).decode()
        except OSError as error:
            raise MalformedCertificate(f"cannot read {os.fspath(path)}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise MalformedCertificate(f"{os.fspath(path)} is no certificate: it is not text in UTF-8") from error
        return cls.from_json(text)

    @classmethod
    def from_json(cls, text: str) -> "Certificate":
        """Read a certificate from its JSON text; raises `MalformedCertificate`."""
        if len(text) > MOST_BYTES:
            raise MalformedCertificate(f"a certificate has at most {MOST_BYTES} bytes; this text is longer")
        if text.count(",") > MOST_COMMAS:
            raise MalformedCertificate(
                f"a certificate has at most {MOST_COMMAS} commas; this text has {text.count(',')}"
            )
        try:
            content = strict(text)
        except (ValueError, RecursionError) as error:
            raise MalformedCertificate(f"not a whole JSON document (truncated?): {error}") from error
        if not isinstance(content, dict):
            raise MalformedCertificate(f"a certificate is a JSON object, not {type(content).__name__}")
        return cls(cast("dict[str, Any]", content))

    def to_json(self) -> str:
        """Readable JSON; the digest is over the canonical form (RFC 8785), so layout does not matter."""
        return json.dumps(self.content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it to a new file, whole or not at all; raises `OutputError`."""
        write_new(path, self.to_json().encode())

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism, built from its fields."""
        return self.record.mechanism

    @property
    def record(self) -> RunRecord:
        """The run as recorded."""
        return RunRecord.from_dict(self.content["run"], version=version_of(self.content) or 2)

    @property
    def claim(self) -> Claim:
        """The claim as stated. Not yet verified."""
        return claim_from_dict("claim", self.content["claim"])


def refuse_too_long(mechanism: Mechanism) -> None:
    """Raise `ValueError` where no certificate can hold a mechanism, for its schedules: to be told before it is run.

    What else a certificate holds is left 256 KiB and 20,000 commas.
    """
    fields = {
        "run": {"mechanism": mechanism_to_dict(mechanism), "noise": {"std": getattr(mechanism, "noise_std", 0.0)}}
    }
    text = json.dumps(fields, indent=2)
    if len(text) > MOST_BYTES - 2**18 or text.count(",") > MOST_COMMAS - 20_000:
        raise ValueError(
            f"mechanism '{mechanism.name}' of {mechanism.gradient_steps} steps has schedules of {len(text)} bytes and "
            f"{text.count(',')} commas, and no certificate can hold it: a reader takes {MOST_BYTES} bytes and {MOST_COMMAS} "
            "commas at most. Take fewer steps, or a mechanism whose settings do not change"
        )


def version_of(content: Mapping[str, Any]) -> int | None:
    """Of the schema; None where it is none that this version reads."""
    schema: object = content.get("schema")
    return VERSIONS.get(schema) if isinstance(schema, str) else None


def digest(content: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON (RFC 8785) of the content, its own digest left out."""
    try:
        canonical = rfc8785.dumps(dict(content))
    except (rfc8785.CanonicalizationError, ValueError) as error:
        raise MalformedCertificate(f"no canonical form: {error}") from error
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
