"""The part of the page for engineers: rows of settings, layers, accuracies and attacks, each with something to say."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from math import floor, log10, sqrt
from statistics import fmean
from typing import Any, cast

from expunge.accounting import EpsilonDeltaClaim
from expunge.audit import Finding
from expunge.audit.measurement import Measurement
from expunge.audit.words import explained, told
from expunge.certificate import Certificate
from expunge.certificate.record import RunRecord
from expunge.report.curves import Comparison, Curve, interval, null_start_bound
from expunge.report.figures import Figures
from expunge.report.plain import noise_hides

__all__ = ["accuracies", "attacks", "control", "layers", "measurements", "run", "settings", "table", "versions"]

Row = tuple[str, str]
_NOISE = 10.0  # noise / what survives, in norm
_LISTED = 6  # numbers of a schedule that are shown in full


def settings(certificate: Certificate) -> list[Row]:
    """The mechanism's fields, and the procedure around it."""
    record = certificate.record
    fields = {"mechanism": record.mechanism.name} | asdict(cast("Any", record.mechanism))
    return _said((name, _shown(value)) for name, value in (fields | _flat(record.procedure)).items())


def run(certificate: Certificate, figures: Figures | None) -> list[Row]:
    """What the run did, as recorded; of noise only where some was drawn."""
    record, content = certificate.record, certificate.content
    dimension, noise = sum(size for _, size in record.layers), record.noise
    drawn = noise.count > 0
    seconds = None if figures is None else figures.seconds
    rows = [
        ("seconds, as measured", "" if seconds is None else f"{seconds:.3g}" if seconds < 1000 else f"{seconds:,.0f}"),
        ("gradient steps under the claim", f"{record.steps_done:,}" if record.steps_done else ""),
        ("noise vectors drawn", f"{noise.count:,}" if drawn else ""),
        ("noise, self-test", noise.self_test if drawn else ""),
        ("noise, generator", noise.generator if drawn else ""),
        ("noise, stream", noise.stream if drawn else ""),
        ("noise, rounded to steps of", f"{noise.grid:.6g}" if noise.grid else ""),
        ("centre of the noise", record.center if drawn else ""),
        ("weights covered", f"{dimension:,} in {record.weights_dtype}"),
        ("declared public", ", ".join(record.public)),
        ("buffers", "" if record.buffers == "none" else record.buffers),
        ("estimated again on the retained data", ", ".join(record.estimated)),
        ("retained data checked", content["run"].get("coverage", "not recorded (schema 1)")),
        ("recovery", content["recovery"]),
    ]
    return _said(rows)


def versions(record: RunRecord) -> list[Row]:
    """Versions of the software and the device, as recorded."""
    return _said(record.environment.items())


def layers(certificate: Certificate) -> list[dict[str, Any]]:
    """Noise beside what can survive of the trained weights, from public numbers alone; none where nothing is to be hidden."""
    mechanism = certificate.mechanism
    if not noise_hides(mechanism) or mechanism.surviving_norm == 0:
        return []
    ratios = [
        mechanism.output_noise_std * sqrt(size) / mechanism.surviving_norm for _, size in certificate.record.layers
    ]
    return [
        {"name": name, "size": size, "ratio": _rounded_down(ratio), "says": _says(ratio)}
        for (name, size), ratio in zip(certificate.record.layers, ratios, strict=True)
    ]


def _says(ratio: float) -> str:
    """Of a layer, in a word; judged by norms, which is how a network's function fares and not what is proven."""
    return "noise" if ratio >= _NOISE else "mostly noise" if ratio >= 1 else "may hold more of the training than noise"


def _rounded_down(ratio: float) -> str:
    """To three digits, in figures."""
    unit = 10.0 ** (floor(log10(ratio)) - 2) if ratio > 0 else 1.0
    down = floor(ratio / unit * (1 + 1e-12)) * unit
    return f"{down:,.0f}" if down >= 100 else f"{down:.3g}"


def accuracies(
    certificate: Certificate, figures: Figures | None, comparison: Comparison | None
) -> list[dict[str, str]]:
    """Before and after where they were measured; of a noisy run also null start and retraining, or that they were not."""
    rows = [
        _measured(label, (figures.accuracy if figures else {}).get(model, {}))
        for model, label in (("original", "before: the trained model"), ("released", "after: the released model"))
    ]
    rows = [row for row in rows if row["held_out"] or row["forget"]]
    mechanism = certificate.mechanism
    null = comparison and comparison.null_start_of(mechanism.name)
    if null or noise_hides(mechanism):
        rows.append(_curve("null start: the same procedure, no training to begin with", null))
    retrained = comparison and comparison.retraining
    if isinstance(certificate.claim, EpsilonDeltaClaim) or (retrained and retrained.name != mechanism.name):
        rows.append(_curve("retraining from new weights", retrained))
    return rows


def table(comparison: Comparison) -> list[dict[str, Any]]:
    """One row a curve: final accuracies with their intervals, steps, guarantee."""
    return [
        {
            "name": curve.name,
            "label": curve.label,
            "kind": curve.kind,
            "epsilon": curve.epsilon,
            "steps": curve.steps,
            "before": interval([run[0] for run in curve.held_out]),
            "held_out": interval(_last(curve.held_out)),
            "forget": interval(_last(curve.forget)),
            "seconds": fmean(curve.seconds) if curve.seconds else None,
            "shown": {
                "before": _mean([run[0] for run in curve.held_out]),
                "held_out": _mean(_last(curve.held_out)),
                "forget": _mean(_last(curve.forget)),
            },
        }
        for curve in comparison.curves
    ]


def control(comparison: Comparison, name: str) -> dict[str, Any] | None:
    """A curve beside its null start and retraining, and the most that its certificate allows; None where one was not run."""
    trained, null, retrain = comparison.curve(name), comparison.null_start_of(name), comparison.retraining
    if trained is None or trained.mu is None or null is None or retrain is None or trained is null:
        return None  # without a finite μ nothing is claimed that could be refuted
    mean_trained, mean_null, retrained = (interval(_last(curve.held_out)) for curve in (trained, null, retrain))
    mu = trained.mu
    return {
        "trained": mean_trained,
        "null": mean_null,
        "retrained": retrained,
        "bound": null_start_bound(mean_null[0], mu),
        "refuted": mean_trained[0] - mean_trained[1] > null_start_bound(min(mean_null[0] + mean_null[1], 1.0), mu),
        "retraining_as_good": retrained[0] >= mean_trained[0] - mean_trained[1],
    }


def attacks(findings: Iterable[Finding]) -> list[Row]:
    """The attacks among the findings and what they do, each said once, in their order."""
    return list(dict.fromkeys(told for told in (explained(f.attack) for f in findings) if told))


def measurements(measured: Iterable[Measurement]) -> list[dict[str, str]]:
    """One row a measurement: what it is, value and null with their limits, unit, what a value above its null means."""
    return [
        {
            "name": one.name, "explained": told(one.name), "unit": one.unit, "direction": one.direction,
            "value": _between(one.value, one.values["low"], one.values["high"]),
            "null": _between(one.null, one.values["null_low"], one.values["null_high"]), "confidence": f"{one.confidence:.4g}",
        }
        for one in measured
    ]  # fmt: skip


def _between(value: float, low: float, high: float) -> str:
    return f"{value:.3f} ({low:.3f} to {high:.3f})"


def _last(runs: Iterable[Any]) -> list[float]:
    return [run[-1] for run in runs]


def _mean(values: list[float]) -> str:
    """Of several seeds with the interval of the mean; one run has no spread that is known."""
    mean, half = interval(values)
    return f"{mean:.3f} ± {half:.3f}" if len(values) > 1 else f"{mean:.3f}"


def _curve(label: str, curve: Curve | None) -> dict[str, str]:
    if curve is None:
        return {"label": label, "held_out": "not measured", "forget": ""}
    return {"label": label, "held_out": _mean(_last(curve.held_out)), "forget": _mean(_last(curve.forget))}


def _measured(label: str, parts: Mapping[str, float]) -> dict[str, str]:
    return {"label": label} | {p: f"{parts[p]:.3f}" if p in parts else "" for p in ("held_out", "forget")}


def _said(rows: Iterable[Row]) -> list[Row]:
    return [(name, value) for name, value in rows if value]


def _flat(plain: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in plain.items():
        inner = f"{above}{name.replace('_', ' ')}"
        flat |= _flat(cast("Mapping[str, Any]", value), f"{inner}: ") if isinstance(value, Mapping) else {inner: value}
    return flat


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:.9g}"
    if isinstance(value, tuple | list):
        listed = [_shown(one) for one in cast("list[Any]", value)]
        if len(listed) <= _LISTED:
            return ", ".join(listed)
        return f"{', '.join(listed[:2])}, …, {listed[-1]} ({len(listed):,} values)"
    return str(value)
