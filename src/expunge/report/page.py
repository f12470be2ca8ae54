"""One HTML page: what was asked, what is proven, what it cost, what it does not mean."""

from dataclasses import asdict
from math import isfinite, sqrt
from statistics import fmean
from typing import Any, cast

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from expunge.accounting import Kind
from expunge.audit import Audit
from expunge.certificate import Certificate, verdict, verify
from expunge.errors import NothingTested
from expunge.report import plots
from expunge.report.curves import Comparison, interval, null_start_bound

__all__ = ["render", "table"]


def render(certificate: Certificate, comparison: Comparison | None = None, audit: Audit | None = None) -> str:
    """The page as HTML text that needs nothing else; the certificate is verified first.

    Args:
        certificate: what is proven.
        comparison: accuracies of several procedures, where they were measured.
        audit: what attacks have shown.

    Raises:
        CertificateError: the certificate does not verify, or the audit refutes it; no page vouches for it.
        MalformedAudit: the audit is about another certificate.
    """
    untested = None
    try:
        verify(certificate, audit=audit)
    except NothingTested as reason:
        untested = str(reason)
    claim, record = certificate.claim, certificate.record
    environment = Environment(
        loader=PackageLoader("expunge.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html.j2").render(
        content=certificate.content,
        verdict=verdict(certificate),
        noise=record.noise,
        coverage=certificate.content["run"].get("coverage", "not recorded (schema 1)"),
        claim=claim,
        exact=claim.kind is Kind.EXACT,
        nothing=claim.kind is Kind.NONE,
        also=certificate.content["also_proven"],
        fields=asdict(cast("Any", record.mechanism)),
        mechanism=record.mechanism,
        layers=_layers(certificate),
        dimension=sum(size for _, size in record.layers),
        profile=Markup(plots.privacy_profile(record.mechanism, epsilon=claim.epsilon, delta=claim.delta or 0.5)),  # noqa: S704  our own SVG
        curves=None if comparison is None else Markup(plots.accuracy_curves(comparison)),  # noqa: S704  our own SVG
        rows=[] if comparison is None else table(comparison),
        control=None if comparison is None else control(comparison),
        comparison=comparison,
        audit=None if audit is None else _audit(certificate, audit) | {"untested": untested},
    )


def _audit(certificate: Certificate, audit: Audit) -> dict[str, Any]:
    """Plots and one row a finding."""
    details = audit.details
    drawn = {
        "bounds": plots.audit_bounds(audit.findings, claimed=certificate.claim.epsilon) if audit.findings else "",
        "worlds": plots.world_histograms(details.get("two worlds", {})),
        "roc": plots.roc_curves(details.get("membership", {})),
    }
    return {name: Markup(svg) for name, svg in drawn.items()} | {"findings": audit.findings, "left_out": audit.left_out}  # noqa: S704  our own SVG


def table(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a lane: final accuracies with their intervals, steps, guarantee."""
    rows: list[dict[str, Any]] = []
    for lane in comparison.lanes:
        held_out, forget = (interval([run[-1] for run in runs]) for runs in (lane.held_out, lane.forget))
        first = interval([run[0] for run in lane.held_out])
        rows.append(
            {
                "name": lane.name,
                "label": lane.label,
                "kind": lane.kind,
                "epsilon": lane.epsilon,
                "steps": lane.steps,
                "before": first,
                "held_out": held_out,
                "forget": forget,
                "seconds": fmean(lane.seconds) if lane.seconds else None,
            }
        )
    return rows


def control(comparison: Comparison) -> dict[str, Any]:
    """The null-start control: trained start against null start, and the most that the certificate allows."""
    trained, null = comparison.lane("gradient_clipping"), comparison.lane("null_start")
    mean_trained = interval([run[-1] for run in trained.held_out])
    mean_null = interval([run[-1] for run in null.held_out])
    retrained = interval([run[-1] for run in comparison.lane("retrain").held_out])
    bound = null_start_bound(mean_null[0], trained.mu or 0.0)
    return {
        "trained": mean_trained,
        "null": mean_null,
        "retrained": retrained,
        "bound": bound,
        "refuted": mean_trained[0] - mean_trained[1]
        > null_start_bound(min(mean_null[0] + mean_null[1], 1.0), trained.mu or 0.0),
        "retraining_as_good": retrained[0] >= mean_trained[0] - mean_trained[1],
    }


def _layers(certificate: Certificate) -> list[dict[str, Any]]:
    """Noise against what can survive of the trained weights, from public numbers alone; none where nothing bounds it."""
    record = certificate.record
    noise_std, survives = record.mechanism.output_noise_std, record.mechanism.surviving_norm
    if not isfinite(survives):
        return []
    return [
        {
            "name": name,
            "size": size,
            "noise": noise_std * sqrt(size),
            "survives": survives,
            "ratio": noise_std * sqrt(size) / survives if survives > 0 else None,
        }
        for name, size in record.layers
    ]
