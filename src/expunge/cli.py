"""The command line: each command parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from rich.console import Console
from rich.table import Table

import expunge as ex
from expunge._files import write_new
from expunge.accounting import MECHANISMS, Mechanism
from expunge.errors import ExpungeError, OutputError

__all__ = ["app", "main"]

app = typer.Typer(
    help="Certified machine unlearning.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
_out = Console()

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Epsilon = Annotated[float, typer.Option(help="Budget: epsilon.")]
Delta = Annotated[float, typer.Option(help="Budget: delta.")]
InRelation = Annotated[ex.Relation, typer.Option(help="The reading to certify.")]
# The mechanisms whose settings fit on a command line; the others are for the library.
_FAMILIES = {m.name: m for m in (ex.GradientClipping, ex.ModelClipping, ex.OutputPerturbation)}
_NAMES = ", ".join([*_FAMILIES, ex.Retrain.name])
Kind = Annotated[str, typer.Option("--mechanism", help=f"One of: {_NAMES}; for unlearn also {ex.ExactRidge.name}.")]
Ridge = Annotated[float, typer.Option(help="Exact head: ridge.")]
InitClip = Annotated[float, typer.Option(help="Radius of the start (fixed without looking at the model).")]
GradClip = Annotated[float, typer.Option(help="Radius of each minibatch gradient.")]
ModelClip = Annotated[float, typer.Option(help="Radius of the weights after each step.")]
LearningRate = Annotated[float, typer.Option(help="Learning rate of the noisy steps.")]
WeightDecay = Annotated[float, typer.Option(help="Decay towards the centre in the noisy steps.")]
Steps = Annotated[int, typer.Option(help="Number of noisy steps.")]


def main() -> None:
    """Run the command line and translate errors to exit codes."""
    try:
        app()
    except ExpungeError as error:
        Console(stderr=True).print(f"refused: {error}", style="red", markup=False, highlight=False)
        sys.exit(1)
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        Console(stderr=True).print("refused: this command needs torch: pip install 'expunge[torch]'", markup=False)
        sys.exit(1)
    except (ValueError, TypeError) as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(2)


@app.command()
def calibrate(
    mechanism: Kind = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    init_clip: InitClip = 0.5,
    grad_clip: GradClip = 1.0,
    model_clip: ModelClip = 0.5,
    learning_rate: LearningRate = 0.01,
    weight_decay: WeightDecay = 20.0,
    steps: Steps = 50,
    interval: Annotated[
        bool, typer.Option(help="Also what an adversary attains: [proved lower, proved upper]. Seconds for many steps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The least noise that meets a budget. Needs no torch."""
    settings = {
        "init_clip": init_clip, "grad_clip": grad_clip, "model_clip": model_clip,
        "learning_rate": learning_rate, "weight_decay": weight_decay, "steps": steps,
    }  # fmt: skip
    found = _calibrated(mechanism, settings, ex.Budget(epsilon=epsilon, delta=delta), relation)
    proven = [ex.guarantee(found, delta=delta, relation=r) for r in ex.Relation]
    lower = {r: ex.interval(found, delta=delta, relation=r, tolerance=1e-4)[0] for r in ex.Relation if interval}
    if as_json:
        guarantees = [asdict(p) | ({"epsilon_lower": lower[p.relation]} if interval else {}) for p in proven]
        _print_json({"mechanism": {"name": found.name} | _fields(found), "guarantees": guarantees})
        return
    table = Table("field", "value", title=found.name)
    for name, value in _fields(found).items():
        table.add_row(name, f"{value:.9g}")
    for p in proven:
        table.add_row(f"epsilon ({p.relation})", f"{p.epsilon:.6f} at delta={p.delta:g} (mu={p.mu:.6f})")
        if interval:
            table.add_row("  proved lower", f"{lower[p.relation]:.6f}")
    _out.print(table)


@app.command()
def verify(
    certificate: Path,
    weights: Annotated[Path | None, typer.Option(help="The released weights (safetensors).")] = None,
    certified_weights: Annotated[Path | None, typer.Option(help="The weights before recovery.")] = None,
    audit: Annotated[Path | None, typer.Option(help="An audit of it: its bounds are computed again.")] = None,
    as_json: Json = False,
) -> None:
    """Prove a certificate again and compare the weights. Needs no torch."""
    loaded = ex.Certificate.load(certificate)
    ex.verify(loaded, weights=weights, certified_weights=certified_weights, audit=audit)
    claim = loaded.claim
    if as_json:
        checked = {"weights_checked": weights is not None, "audit_checked": audit is not None}
        _print_json({"verified": True} | checked | {"claim": loaded.content["claim"]})
        return
    what = "claim and weights" if weights else "claim only: give --weights to compare the weights"
    _out.print(f"verified ({what})", style="green")
    if claim.kind is ex.Kind.EPSILON_DELTA:
        _out.print(f"{claim.kind}: epsilon={claim.epsilon:.6g}, delta={claim.delta:g}, relation '{claim.relation}'")
    else:
        _out.print("exact" if claim.kind is ex.Kind.EXACT else "none: nothing is proven", highlight=False)
    _out.print(loaded.content["claim"]["proves"], highlight=False)


@app.command()
def report(
    certificate: Path,
    output: Annotated[Path, typer.Option("--output", "-o", help="The HTML page to write.")] = Path("report.html"),
    curves: Annotated[Path | None, typer.Option(help="A comparison.json made by demo.")] = None,
    audit: Annotated[Path | None, typer.Option(help="An audit.json made by audit.")] = None,
) -> None:
    """One self-contained HTML page of a certificate. Needs no torch."""
    from expunge.audit import Audit
    from expunge.report import render

    seen = None if audit is None else Audit.load(audit)
    page = render(ex.Certificate.load(certificate), None if curves is None else _comparison(curves), seen)
    write_new(output, page.encode())
    _out.print(f"wrote {output}")


@app.command()
def unlearn(
    task: Annotated[str, typer.Argument(help="module:function or file.py:function that returns an expunge.Task.")],
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    mechanism: Kind = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    init_clip: InitClip = 0.5,
    grad_clip: GradClip = 1.0,
    model_clip: ModelClip = 0.5,
    learning_rate: LearningRate = 0.01,
    weight_decay: WeightDecay = 20.0,
    steps: Steps = 50,
    epochs: Annotated[float, typer.Option(help="Recovery (or retraining): epochs.")] = 5,
    recovery_lr: Annotated[float, typer.Option(help="Recovery: peak learning rate.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="Recovery: sgd or adamw.")] = "sgd",
    batch_size: Annotated[int, typer.Option(help="Examples a batch.")] = 128,
    rescale: Annotated[bool, typer.Option(help="Recovery: first rescale layers.")] = True,
    ridge: Ridge = 1.0,
    head: Annotated[Path | None, typer.Option(help="Exact head: the folder of the last call, to forget from.")] = None,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted call stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Unlearn, recover, certify; writes certificate, weights, commitment key and report into a new folder."""
    settings = {
        "init_clip": init_clip, "grad_clip": grad_clip, "model_clip": model_clip,
        "learning_rate": learning_rate, "weight_decay": weight_decay, "steps": steps,
    }  # fmt: skip
    budget = ex.Budget(epsilon=epsilon, delta=delta)
    if mechanism == ex.ExactRidge.name:
        from expunge.session import run_head

        _print_summary(run_head(task, out, budget, ridge=ridge, previous=head), as_json=as_json)
        return
    chosen = ex.Retrain() if mechanism == "retrain" else _calibrated(mechanism, settings, budget, relation)
    recipe = ex.Recipe(optimizer=cast("Any", optimizer), learning_rate=recovery_lr, batch_size=batch_size)
    from expunge.session import run_task

    summary = run_task(
        task, out, chosen, budget, relation=relation, epochs=epochs, recipe=recipe, rescale=rescale, resume=resume
    )
    _print_summary(summary, as_json=as_json)


@app.command()
def plan(
    task: Annotated[str, typer.Argument(help="module:function or file.py:function that returns an expunge.Task.")],
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    init_clip: InitClip = 0.5,
    grad_clip: GradClip = 1.0,
    model_clip: ModelClip = 0.5,
    learning_rate: LearningRate = 0.01,
    weight_decay: WeightDecay = 20.0,
    steps: Steps = 50,
    epochs: Annotated[float, typer.Option(help="Recovery: epochs.")] = 5,
    training_epochs: Annotated[float, typer.Option(help="Retraining: epochs.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Examples a batch.")] = 128,
    ridge: Ridge = 1.0,
    trace: Annotated[Path | None, typer.Option(help="The folder of a traced training.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the lanes for a task's forget set before anything is run: guarantee, cost, what they read."""
    settings = {
        "init_clip": init_clip, "grad_clip": grad_clip, "model_clip": model_clip,
        "learning_rate": learning_rate, "weight_decay": weight_decay, "steps": steps,
    }  # fmt: skip
    budget = ex.Budget(epsilon=epsilon, delta=delta)
    noisy = {name: _calibrated(name, settings, budget, ex.Relation.RETRAINED) for name in _FAMILIES}
    from expunge.planner import plan as compare_lanes
    from expunge.task import load_task
    from expunge.trace import Trace

    found = compare_lanes(
        load_task(task), budget, mechanisms=noisy, recipe=ex.Recipe(batch_size=batch_size), recovery_epochs=epochs,
        training_epochs=training_epochs, ridge=ridge, trace=None if trace is None else Trace(trace),
    )  # fmt: skip
    if as_json:
        _print_json(found.to_dict())
        return
    table = Table("lane", "guarantee", "steps", "seconds", "noise / weights", "reads")
    for o in found.options:
        proven = f"epsilon={o.epsilon:.4g}" if o.kind == ex.Kind.EPSILON_DELTA else o.kind
        seconds = "" if o.seconds is None else f"{o.seconds:.3g}"
        noise = "" if o.noise_to_weight is None else f"{o.noise_to_weight:.3g}"
        row = (proven, str(o.steps), seconds, noise, o.reads) if o.applies else ("does not apply",)
        style = "bold green" if o.lane == found.recommended else None if o.applies and o.keeps else "dim"
        table.add_row(o.lane, *row, style=style)
    _out.print(table)
    for o in found.options:
        _out.print(f"{o.lane}: {o.why}", highlight=False)
    _out.print(f"Recommended: {found.recommended}: {found.reason}.", highlight=False)
    if found.recommended in (ex.ExactRidge.name, ex.Retrain.name, *_FAMILIES):
        _out.print(f"expunge unlearn {task} --mechanism {found.recommended} --out unlearned", highlight=False)


@app.command()
def audit(
    task: Annotated[str, typer.Argument(help="module:function or file.py:function that returns an expunge.Task.")],
    certificate: Annotated[Path, typer.Option(help="The certificate to attack.")],
    out: Annotated[Path, typer.Option(help="The audit.json to write.")] = Path("audit.json"),
    epochs: Annotated[int, typer.Option(help="Recovery: epochs, as in unlearn.")] = 5,
    training_epochs: Annotated[int, typer.Option(help="Training of the shadow models: epochs.")] = 30,
    recovery_lr: Annotated[float, typer.Option(help="Peak learning rate of recovery and training.")] = 0.1,
    optimizer: Annotated[str, typer.Option(help="sgd or adamw.")] = "sgd",
    batch_size: Annotated[int, typer.Option(help="Examples a batch.")] = 128,
    rescale: Annotated[bool, typer.Option(help="Recovery: first rescale layers.")] = True,
    confidence: Annotated[float, typer.Option(help="Of each part of the audit.")] = 0.95,
    quick: Annotated[bool, typer.Option(help="Fewer runs: under a minute for a small task.")] = False,
    shadows: Annotated[bool, typer.Option(help="Train shadow models; not for models too large for it.")] = True,
    seed: Annotated[int, typer.Option(help="Of all coins.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a certificate: in two worlds, from the null start, by membership, by canaries of one training. Exit code 1 where it is refuted."""
    recipe = ex.Recipe(optimizer=cast("Any", optimizer), learning_rate=recovery_lr, batch_size=batch_size)
    from expunge.session import run_audit

    done, refuted = run_audit(
        task, certificate, out, recipe=recipe, recovery_epochs=epochs, training_epochs=training_epochs, rescale=rescale,
        confidence=confidence, quick=quick, shadows=shadows, seed=seed,
    )  # fmt: skip
    if as_json:
        _print_json(json.loads(done.to_json()) | {"refuted_by": [finding.attack for finding in refuted]})
    else:
        table = Table("attack", "epsilon at least", "null", "could show", "confidence", title="lower bounds on epsilon")
        for f in done.findings:
            null = "" if f.null_epsilon is None else f"{f.null_epsilon:.3f}"
            row = (f"{f.epsilon:.3f}", null, f"{f.ceiling:.2f}", f"{f.confidence:.4g}")
            table.add_row(f.attack, *row, style="red" if f in refuted else None)
        _out.print(table)
        for name, part in done.details.items():
            if isinstance(part, dict) and "left_out" in part:
                _out.print(f"left out, {name}: {cast('dict[str, Any]', part)['left_out']}", highlight=False)
        verdict = f"REFUTED by {len(refuted)} of" if refuted else "not refuted by any of"
        _out.print(
            f"The claim is {verdict} {len(done.findings)} findings. An audit never proves. See {out}", highlight=False
        )
    if refuted:
        raise typer.Exit(1)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of recovery.")] = 5,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    as_json: Json = False,
) -> None:
    """Forget a tenth of scikit-learn's digits with every method; certify, verify, compare, report."""
    from expunge.session import run_demo

    comparison, rows, control = run_demo(out, ex.Budget(epsilon=epsilon, delta=delta), seeds=seeds, epochs=epochs)
    if as_json:
        _print_json(comparison.to_dict())
        return
    table = Table("method", "guarantee", "steps", "seconds", "held out", "forgotten", title=comparison.title)
    for row in rows:
        proven = f"epsilon={row['epsilon']:.4g}" if row["kind"] == "epsilon_delta" else row["kind"]
        spread = [f"{mean:.3f} ± {half:.3f}" for mean, half in (row["held_out"], row["forget"])]
        seconds = "" if row["seconds"] is None else f"{row['seconds']:.3g}"
        table.add_row(row["label"], proven, str(row["steps"]), seconds, *spread)
    _out.print(table)
    verdict = "refuted" if control["refuted"] else "not refuted"
    _out.print(
        f"Control: null start {control['null'][0]:.3f}, trained start {control['trained'][0]:.3f}; "
        f"a mean above {control['bound']:.3f} would refute the certificate: {verdict}.",
        highlight=False,
    )
    _out.print(f"All certificates verified. Open {out}/report.html", highlight=False)


def _print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        _print_json(summary)
        return
    table = Table("accuracy", "held out", "forgotten data")
    for name in ("original", "released"):
        table.add_row(name, *(f"{summary['accuracy'][name][part]:.3f}" for part in ("held_out", "forget")))
    _out.print(table)
    proven = f"epsilon={summary['epsilon']:.6g} at delta={summary['delta']:g}, relation '{summary['relation']}'"
    _out.print(f"{'exact' if summary['kind'] == 'exact' else proven}; see {summary['folder']}/report.html")
    if summary.get("delete"):
        _out.print(f"{summary['delete']} still holds what the forgotten rows added: delete it.", highlight=False)


def _calibrated(name: str, settings: dict[str, Any], budget: ex.Budget, relation: ex.Relation) -> Mechanism:
    if name == ex.Retrain.name:
        raise ValueError("retrain meets every budget and has nothing to calibrate")
    if name not in _FAMILIES:
        library = " (from Python: expunge.calibrate)" if name in MECHANISMS else ""
        raise ValueError(f"mechanism must be one of {', '.join(_FAMILIES)}, not {name!r}{library}")
    family = _FAMILIES[name]
    used = {key: value for key, value in settings.items() if key in _field_names(family)}
    return ex.calibrate(lambda s: cast("Any", family)(**used, noise_std=s), budget, relation=relation)


def _field_names(family: type[Mechanism]) -> set[str]:
    return set(cast("Any", family).__dataclass_fields__)


def _fields(mechanism: Mechanism) -> dict[str, Any]:
    return asdict(cast("Any", mechanism))


def _comparison(path: Path) -> Any:
    from expunge.report import Comparison, Lane

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Comparison(**plain | {"lanes": [Lane(**lane) for lane in plain["lanes"]]})
    except (OSError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise OutputError(f"{path} is not a comparison.json: {error}") from error


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
