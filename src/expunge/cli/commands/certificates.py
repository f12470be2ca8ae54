"""Commands for whoever holds a certificate. They need no torch."""

from pathlib import Path
from typing import Annotated

import expunge as ex
from expunge.certificate import verdict
from expunge.cli.application import Option
from expunge.cli.parameters import Json
from expunge.cli.tables import print_json, print_verified
from expunge.cli.terminal import say
from expunge.errors import NothingTested
from expunge.exits import NOTHING_TESTED

__all__ = ["report", "verify"]


def verify(
    certificate: Path,
    weights: Annotated[Path | None, Option(help="The released weights (safetensors).")] = None,
    certified_weights: Annotated[Path | None, Option(help="The weights before recovery.")] = None,
    audit: Annotated[Path | None, Option(help="An audit of it: its bounds are computed again.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a certificate again and compare the weights. Needs no torch."""
    loaded = ex.Certificate.load(certificate)
    untested = None
    try:
        ex.verify(loaded, weights=weights, certified_weights=certified_weights, audit=audit)
    except NothingTested as reason:
        untested = str(reason)
    found = verdict(loaded)
    if as_json:
        checked = {"weights_checked": weights is not None, "audit_checked": audit is not None and untested is None}
        told = {"untested": untested, "verdict": vars(found), "claim": loaded.content["claim"]}
        print_json({"verified": True} | checked | told)
    else:
        print_verified(loaded, found, weights=weights is not None, untested=untested)
    if untested is not None:
        raise SystemExit(NOTHING_TESTED)


def report(
    certificate: Path,
    out: Annotated[
        Path,
        Option(
            (
                "--out",
                "-o",
            ),
            help="The HTML page to write.",
        ),
    ] = Path("report.html"),
    curves: Annotated[Path | None, Option(help="A comparison.json made by demo.")] = None,
    audit: Annotated[Path | None, Option(help="An audit.json made by audit.")] = None,
    weights: Annotated[
        Path | None,
        Option(
            help="The released weights, which a claim about behaviour is proven from; by default model.safetensors beside the certificate."
        ),
    ] = None,
    summary: Annotated[
        Path | None,
        Option(
            help="What unlearn measured; by default summary.json beside the certificate. That of OUT.secret tells of the "
            "trained model too, for a page that is not published."
        ),
    ] = None,
    organisation: Annotated[str, Option(help="Who answers for the model.")] = "",
    model: Annotated[str, Option(help="The model's name and version.")] = "",
    reference: Annotated[str, Option(help="Of the request, such as a file number.")] = "",
    received: Annotated[str, Option(help="The day on which the request came in: 2026-11-24.")] = "",
) -> None:
    """Write one self-contained HTML page of a certificate. Needs no torch."""
    from expunge.report import save

    beside = certificate.with_name("model.safetensors")
    weights = beside if weights is None and beside.is_file() else weights
    save(
        certificate, out, comparison=curves, audit=audit, weights=weights, summary=summary, organisation=organisation, model=model,
        reference=reference, received=received,
    )  # fmt: skip
    say(f"wrote {out}")
