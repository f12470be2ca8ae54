"""One HTML page for two readers: first for whoever must decide, then for whoever must check."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expunge._files import write_new
from expunge.accounting import EpsilonDeltaClaim, numbers_of
from expunge.audit import Audit
from expunge.certificate import Certificate, verdict, verify
from expunge.errors import NothingTested
from expunge.report import engineering, plain, plots
from expunge.report.curves import Comparison
from expunge.report.figures import Figures
from expunge.report.subject import Subject

__all__ = ["render", "save"]

_SUMMARY = "summary.json"
_File = str | os.PathLike[str]


def render(
    certificate: Certificate | _File,
    comparison: Comparison | _File | None = None,
    audit: Audit | _File | None = None,
    *,
    weights: _File | None = None,
    summary: Mapping[str, Any] | _File | None = None,
    organisation: str = "",
    model: str = "",
    reference: str = "",
    received: str = "",
) -> str:
    """The page as HTML text that needs nothing else; the certificate is verified first.

    Args:
        certificate: what is proven, or its file.
        comparison: accuracies of several procedures, where they were measured, or their file.
        audit: what attacks have shown, or its file.
        weights: the released weights' file, which a claim about behaviour is proven from; others need none.
        summary: what the job returned, or its file; by default `summary.json` beside the certificate's file, if it is
            there. It gives accuracies and seconds, which no certificate holds.
        organisation: that answers for the model.
        model: its name and version.
        reference: of the request, e.g. a file number.
        received: the day on which the request came in, as "2026-11-24".

    Raises:
        CertificateError: the certificate does not verify, or the audit refutes it; no page vouches for it.
        MalformedAudit: the audit is about another certificate.
        OutputError: a file cannot be read, or the summary is about another certificate.
        ValueError, TypeError: a text is no line, `received` no day, or one after the certificate was issued.
    """
    subject = Subject(organisation=organisation, model=model, reference=reference, received=received)
    loaded = certificate if isinstance(certificate, Certificate) else Certificate.load(certificate)
    seen = audit if isinstance(audit, Audit | None) else Audit.load(audit)
    curves = comparison if isinstance(comparison, Comparison | None) else Comparison.load(comparison)
    untested = None
    try:
        verify(loaded, weights=weights, audit=seen)
    except NothingTested as reason:
        untested = str(reason)
    figures = _figures(loaded, summary, None if loaded is certificate else Path(str(certificate)))
    environment = Environment(
        loader=PackageLoader("expunge.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        **_deciding(loaded, subject, figures, seen, untested),
        **_checking(loaded, figures, curves),
        audit=None if seen is None else _audit(loaded, seen) | {"untested": untested},
    )


def save(certificate: Certificate | _File, out: _File, **told: Any) -> Path:
    """Write the page of `render` to a new file, whole or not at all.

    Args:
        certificate: what is proven, or its file.
        out: the file to write.
        told: as in `render`.

    Raises:
        OutputError: the file exists, or cannot be written.
        ExpungeError, ValueError, TypeError: see `render`. Nothing is written then.
    """
    return write_new(out, render(certificate, **told).encode())


def _figures(certificate: Certificate, summary: Mapping[str, Any] | _File | None, file: Path | None) -> Figures | None:
    digest = certificate.content["digest"]
    if isinstance(summary, Mapping):
        return Figures.of(summary, certificate=digest)
    beside = None if file is None else file.with_name(_SUMMARY)
    if summary is None and (beside is None or not beside.is_file()):
        return None
    return Figures.load(summary if summary is not None else str(beside), certificate=digest)


def _deciding(
    certificate: Certificate, subject: Subject, figures: Figures | None, audit: Audit | None, untested: str | None
) -> dict[str, Any]:
    """For a regulator: who, what, when, and what follows."""
    content = certificate.content
    issued = content["issued"]
    waited = subject.waited(issued)
    started = figures.started if figures else None
    rows = [
        ("Organisation", subject.organisation),
        ("Model", subject.model),
        ("Request", subject.reference),
        ("Request received", subject.received),
        ("Carried out", _moment(started) if started else ""),
        ("Certificate issued", _moment(issued) + (f", {waited}" if waited else "")),
        ("Data concerned", "named by a keyed commitment alone" if content["commitments"] else ""),
    ]
    return {
        "facts": [(name, value) for name, value in rows if value],
        "verdict": verdict(certificate),
        "guessing": plain.guessing(certificate),
        "attacked": "" if audit is None else plain.attacked(certificate, audit, untested),
    }


def _checking(certificate: Certificate, figures: Figures | None, curves: Comparison | None) -> dict[str, Any]:
    """For an engineer: the claim with its proof, what was measured, what was run."""
    claim, mechanism = certificate.claim, certificate.mechanism
    limited = isinstance(claim, EpsilonDeltaClaim)
    profile = ""
    if isinstance(claim, EpsilonDeltaClaim):
        profile = plots.privacy_profile(mechanism, epsilon=claim.epsilon, delta=claim.delta)
    return {
        "content": certificate.content,
        "claim": claim,
        "limited": limited,
        "mechanism": mechanism,
        "also": certificate.content["also_proven"],
        "kept": plain.kept(certificate),
        "layers": engineering.layers(certificate),
        "profile": Markup(profile),  # noqa: S704  our own SVG
        "accuracies": engineering.accuracies(certificate, figures, curves),
        "measured": figures is not None and bool(figures.accuracy),
        "internal": figures is not None and figures.internal,
        "curves": None if curves is None else Markup(plots.accuracy_curves(curves)),  # noqa: S704  our own SVG
        "table": [] if curves is None else engineering.table(curves),
        "control": None if curves is None else engineering.control(curves, mechanism.name),
        "comparison": curves,
        "settings": engineering.settings(certificate),
        "run": engineering.run(certificate, figures),
        "versions": engineering.versions(certificate.record),
    }


def _audit(certificate: Certificate, audit: Audit) -> dict[str, Any]:
    """Plots, one row a finding and one a measurement, and what the attacks do."""
    details = audit.details
    drawn = {
        "bounds": plots.audit_bounds(audit.findings, claimed=numbers_of(certificate.claim)["epsilon"])
        if audit.findings
        else "",
        "worlds": plots.world_histograms(details.get("two worlds", {})),
        "roc": plots.roc_curves(details.get("membership", {})),
    }
    told = {
        "findings": audit.findings, "left_out": audit.left_out, "attacks": engineering.attacks(audit.findings),
        "measurements": engineering.measurements(audit.measurements),
    }  # fmt: skip
    return {name: Markup(svg) for name, svg in drawn.items()} | told  # noqa: S704  our own SVG


def _moment(iso: str) -> str:
    """2026-11-24T10:33:18+00:00 as 2026-11-24, 10:33 UTC."""
    day, _, time = iso.partition("T")
    zone = time[8:]
    return f"{day}, {time[:5]} {'UTC' if zone in ('+00:00', 'Z') else zone}".strip()
