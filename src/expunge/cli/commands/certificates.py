"""Commands for whoever holds a certificate. They need no torch."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

import expunge as ex
from expunge._files import write_new
from expunge.certificate import verdict
from expunge.cli.parameters import Json
from expunge.cli.tables import print_json, print_verified
from expunge.cli.terminal import say
from expunge.errors import NothingTested, OutputError
from expunge.exits import NOTHING_TESTED

__all__ = ["report", "verify"]


def verify(
    certificate: Path,
    weights: Annotated[Path | None, typer.Option(help="The released weights (safetensors).")] = None,
    certified_weights: Annotated[Path | None, typer.Option(help="The weights before recovery.")] = None,
    audit: Annotated[Path | None, typer.Option(help="An audit of it: its bounds are computed again.")] = None,
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
        raise typer.Exit(NOTHING_TESTED)


def report(
    certificate: Path,
    out: Annotated[Path, typer.Option("--out", "-o", help="The HTML page to write.")] = Path("report.html"),
    curves: Annotated[Path | None, typer.Option(help="A comparison.json made by demo.")] = None,
    audit: Annotated[Path | None, typer.Option(help="An audit.json made by audit.")] = None,
) -> None:
    """One self-contained HTML page of a certificate. Needs no torch."""
    from expunge.audit import Audit
    from expunge.report import render

    seen = None if audit is None else Audit.load(audit)
    page = render(ex.Certificate.load(certificate), None if curves is None else _read_comparison(curves), seen)
    write_new(out, page.encode())
    say(f"wrote {out}")


def _read_comparison(path: Path) -> Any:
    from expunge.report import Comparison, Lane

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Comparison(**plain | {"lanes": [Lane(**lane) for lane in plain["lanes"]]})
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is not a comparison.json, as demo makes it") from error
