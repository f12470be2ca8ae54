"""The command line: each command parses, calls one function, prints.

Exit codes: 0 done, 1 refused (a guarantee, certificate, model or file), 2 a mistake in the call, 3 an error in the user's own
code, 4 an audit that could have refuted nothing, 5 a fault of expunge, 130 interrupted; see `expunge.exits`.
"""

import functools
import inspect
import json
import math
import os
import shlex
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NewType, cast, get_type_hints

import typer
from rich.console import Console
from rich.table import Column, Table

import expunge as ex
from expunge._files import write_new
from expunge.certificate import verdict
from expunge.cli.commitment import commitment
from expunge.errors import NothingTested, OutputError, RunError
from expunge.exits import INTERRUPTED, NOTHING_TESTED, exit_codes
from expunge.jobs.options import COMPARED, FAMILIES, HEADS, LANES, Noisy, Settings, refuse_extreme, refuse_options

__all__ = ["app", "main"]

app = typer.Typer(
    help="Certified machine unlearning.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
)
app.add_typer(commitment, name="commitment")
_out = Console()
_RECORDED = "By default as the certificate's record says."

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
Epsilon = Annotated[float, typer.Option(help="Budget: epsilon.")]
Delta = Annotated[float, typer.Option(help="Budget: delta.")]
InRelation = Annotated[ex.Relation, typer.Option(help="The reading to certify.")]
Typed = NewType("Typed", frozenset[str])
"""Of a command's parameters: the names of the options that were typed, which are not asked for."""
TaskName = Annotated[str, typer.Argument(help="module:function or file.py:function that returns an expunge.Task.")]


def _command(run: Callable[..., None]) -> Callable[..., None]:
    """Make a command; a parameter whose type is a dataclass of settings becomes an option for each of its fields."""
    hints = get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(run).parameters.values():
        hint = hints[parameter.name]
        annotation = typer.Context if hint is Typed else hint
        plain = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        parameters.extend(_options(hint) if is_dataclass(hint) else [plain])

    @functools.wraps(run)
    def command(**given: Any) -> None:
        try:
            run(**{name: _built(hints[name], name, given) for name in inspect.signature(run).parameters})
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    cast("Any", command).__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return app.command()(command)


def _options(settings: Any) -> Iterator[inspect.Parameter]:
    """One option for each field of a dataclass, and of those that are its fields."""
    hints = get_type_hints(settings)
    for entry in fields(settings):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from _options(hint)
        else:
            told = Annotated[hint, typer.Option(help=entry.metadata["help"])]
            yield inspect.Parameter(
                entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=told
            )  # fmt: skip


def _built(hint: Any, name: str, given: dict[str, Any]) -> Any:
    """A parameter of the command from the options that were given."""
    if hint is Typed:
        sources = {option: given[name].get_parameter_source(option) for option in given if option != name}
        return frozenset(option for option, source in sources.items() if source.name == "COMMANDLINE")
    if not is_dataclass(hint):
        return given[name]
    inner = get_type_hints(hint)
    return cast("Any", hint)(**{entry.name: _built(inner[entry.name], entry.name, given) for entry in fields(hint)})


def main() -> None:
    """Run the command line; errors become messages and exit codes (`expunge.exits`)."""
    with exit_codes():
        app()


@_command
def calibrate(
    noisy: Noisy,
    typed: Typed,
    mechanism: Annotated[str, typer.Option(help=f"One of: {', '.join(FAMILIES)}.")] = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    interval: Annotated[
        bool, typer.Option(help="Also a proved lower bound: what an adversary attains. Seconds for many steps.")
    ] = False,
    as_json: Json = False,
) -> None:
    """The least noise that meets a budget. Needs no torch."""
    if mechanism in FAMILIES:
        refuse_options(mechanism, typed)
    found = noisy.calibrated(mechanism, _budget(epsilon, delta), relation)
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


@_command
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
    claim, found = loaded.claim, verdict(loaded)
    if as_json:
        checked = {"weights_checked": weights is not None, "audit_checked": audit is not None and untested is None}
        told = {"untested": untested, "verdict": vars(found), "claim": loaded.content["claim"]}
        _print_json({"verified": True} | checked | told)
        if untested is not None:
            raise typer.Exit(NOTHING_TESTED)
        return
    what = "claim and weights" if weights else "claim only: give --weights to compare the weights"
    _out.print(f"verified ({what})", style="green")
    if claim.kind is ex.Kind.EPSILON_DELTA:
        _out.print(f"{claim.kind}: epsilon={claim.epsilon:.6g}, delta={claim.delta:g}, relation '{claim.relation}'")
    else:
        _out.print("exact" if claim.kind is ex.Kind.EXACT else "none: nothing is proven", highlight=False)
    _out.print(found.headline, found.meaning, *found.checks, sep="\n", highlight=False, markup=False)
    for text in found.warnings:
        _out.print(f"Warning: {text}", style="yellow", highlight=False, markup=False)
    _out.print(loaded.content["claim"]["proves"], highlight=False)
    if untested is not None:
        _out.print(f"{untested}.", style="red", highlight=False)
        raise typer.Exit(NOTHING_TESTED)


@_command
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
    page = render(ex.Certificate.load(certificate), None if curves is None else _comparison(curves), seen)
    write_new(out, page.encode())
    _out.print(f"wrote {out}")


@_command
def unlearn(
    task: TaskName,
    out: Annotated[Path, typer.Option(help="The folder to make.")],
    settings: Settings,
    typed: Typed,
    mechanism: Annotated[str, typer.Option(help=f"One of: {', '.join(LANES)}.")] = "gradient_clipping",
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    relation: InRelation = ex.Relation.RETRAINED,
    resume: Annotated[bool, typer.Option(help="Go on where an interrupted call stopped.")] = False,
    as_json: Json = False,
) -> None:
    """Unlearn, recover, certify; writes certificate, weights and report into a new folder, keys into OUT.secret."""
    settings.refuse_foreign(mechanism, typed)
    budget = _budget(epsilon, delta)
    from expunge.jobs.lanes import run_lane

    summary = run_lane(task, out, mechanism, budget, settings, relation=relation, resume=resume)
    if as_json:
        _print_json(summary)
    else:
        _print_summary(summary)


@_command
def plan(
    task: TaskName,
    settings: Settings,
    typed: Typed,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    training_epochs: Annotated[float, typer.Option(help="Retraining: epochs.")] = 30,
    run: Annotated[bool, typer.Option("--run", help="Take the recommended lane; needs --out.")] = False,
    out: Annotated[Path | None, typer.Option(help="The folder to make, with --run.")] = None,
    as_json: Json = False,
) -> None:
    """Compare the lanes for a task's forget set before anything is run: guarantee, cost, what they read."""
    refuse_extreme(training_epochs=training_epochs)
    if run and out is None:
        raise ValueError("out is not given: --run needs --out, the folder to make")
    if out is not None and not run:
        raise ValueError(f"out={out} is of use with --run alone: without it nothing is written")
    if out is not None and os.path.lexists(out):
        raise OutputError(f"{out} exists already and is not overwritten; choose another name or remove it")
    budget = _budget(epsilon, delta)
    noisy = {name: settings.noisy.calibrated(name, budget, ex.Relation.RETRAINED) for name in FAMILIES}
    from expunge.jobs.heads import load_head
    from expunge.jobs.lanes import run_lane
    from expunge.jobs.planner import plan as compare_lanes
    from expunge.jobs.replays import open_trace
    from expunge.training.task import load_task

    traced = None if settings.trace is None else open_trace(settings.trace)
    head = None if settings.head is None else load_head(settings.head)
    found = compare_lanes(
        load_task(task), budget, mechanisms=noisy, recipe=ex.Recipe(batch_size=settings.batch_size),
        recovery_epochs=settings.epochs, training_epochs=training_epochs, ridge=settings.ridge,
        grid=settings.grid, trace=traced if isinstance(traced, ex.Trace) else None,
        shards=traced if isinstance(traced, ex.Shards) else None, head=head,
    )  # fmt: skip
    lane, chosen = found.lane, settings.for_lane(found.lane)
    if lane == ex.Retrain.name:
        chosen = replace(chosen, epochs=training_epochs)
    if lane in HEADS and isinstance(head, ex.AnalyticHead) is not (lane == ex.ExactRidge.name):
        chosen = replace(chosen, head=None)  # a head of the other kind: this one is new
    if not as_json:
        _print_plan(found)
        if not run and lane in LANES:
            _out.print(_unlearn_command(task, lane, budget, chosen), highlight=False, soft_wrap=True)
    if lane in LANES:
        refuse_options(lane, typed, also=COMPARED)  # what the comparison read was of use
    if not run:
        if as_json:
            _print_json(found.to_dict())
        return
    if lane not in LANES:
        raise RunError(f"nothing is run: {found.reason}")
    summary = run_lane(task, cast("Path", out), lane, budget, chosen)
    if as_json:
        _print_json(found.to_dict() | {"run": summary})
    else:
        _print_summary(summary)


@_command
def audit(
    task: TaskName,
    certificate: Annotated[Path, typer.Option(help="The certificate to attack.")],
    out: Annotated[Path, typer.Option(help="The audit.json to write.")] = Path("audit.json"),
    weights: Annotated[
        Path | None, typer.Option(help="The released weights; by default model.safetensors beside the certificate.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help=f"Recovery: epochs. {_RECORDED}")] = None,
    training_epochs: Annotated[
        float | None, typer.Option(help=f"Training of models to attack: epochs. {_RECORDED}")
    ] = None,
    recovery_lr: Annotated[
        float | None, typer.Option(help=f"Peak learning rate of recovery and training. {_RECORDED}")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help=f"sgd or adamw. {_RECORDED}")] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Examples a batch. {_RECORDED}")] = None,
    rescale: Annotated[bool | None, typer.Option(help=f"Recovery: first rescale layers. {_RECORDED}")] = None,
    confidence: Annotated[float, typer.Option(help="Of each part of the audit, from 0.5 to 1 - 1e-9.")] = 0.95,
    quick: Annotated[bool, typer.Option(help="Fewer runs: under a minute for a small task.")] = False,
    shadows: Annotated[bool, typer.Option(help="Train shadow models; not for models too large for it.")] = True,
    seed: Annotated[int, typer.Option(help="Of all coins.")] = 0,
    as_json: Json = False,
) -> None:
    """Attack a certificate: in two worlds, from the null start, by membership, by canaries of one training.

    Exit code 1 where it is refuted, 4 where nothing could be tested.
    """
    from expunge.audit.evidence import sure
    from expunge.jobs.audits import Asked, run_audit

    sure(confidence)
    asked = Asked(
        epochs=epochs, training_epochs=training_epochs, recovery_lr=recovery_lr, optimizer=optimizer, batch_size=batch_size,
        rescale=rescale,
    )  # fmt: skip
    found = run_audit(
        task,
        certificate,
        out,
        weights=weights,
        asked=asked,
        confidence=confidence,
        quick=quick,
        shadows=shadows,
        seed=seed,
    )
    done, refuted = found.audit, found.refuting
    if as_json:
        verdict = {"refuted_by": [finding.attack for finding in refuted], "untested": found.untested}
        _print_json(json.loads(done.to_json()) | verdict)
    else:
        table = Table("attack", "epsilon at least", "null", "could show", "confidence", title="lower bounds on epsilon")
        for f in done.findings:
            null = "" if f.null_epsilon is None else f"{f.null_epsilon:.3f}"
            row = (
                f"{f.epsilon:.3f}",
                null,
                "no limit" if f.ceiling == math.inf else f"{f.ceiling:.2f}",
                f"{f.confidence:.4g}",
            )
            table.add_row(f.attack, *row, style="red" if f in refuted else None)
        if done.findings:
            _out.print(table)
        for name, reason in done.left_out.items():
            _out.print(f"left out, {name}: {reason}", highlight=False)
        verdict = f"REFUTED by {len(refuted)} of" if refuted else "not refuted by any of"
        told = f"The claim is {verdict} {len(done.findings)} findings. An audit never proves. See {out}"
        nothing = f"This is no pass: nothing could be tested. {found.untested}. See {out}"
        _out.print(told if found.untested is None else nothing, highlight=False)
    if refuted:
        raise typer.Exit(1)
    if found.untested is not None:
        raise typer.Exit(NOTHING_TESTED)


@_command
def demo(
    out: Annotated[Path, typer.Option(help="The folder to make.")] = Path("demo"),
    seeds: Annotated[int, typer.Option(help="Runs of each method.")] = 5,
    epochs: Annotated[int, typer.Option(help="Epochs of recovery.")] = 5,
    epsilon: Epsilon = 1.0,
    delta: Delta = 1e-5,
    as_json: Json = False,
) -> None:
    """Forget a tenth of scikit-learn's digits with every method; certify, verify, compare, report."""
    from expunge.jobs.demos import run_demo

    comparison, rows, control = run_demo(out, _budget(epsilon, delta), seeds=seeds, epochs=epochs)
    if as_json:
        _print_json(comparison.to_dict())
        return
    table = Table("method", "guarantee", "steps", "seconds", "held out", "forgotten", title=comparison.title)
    for row in rows:
        proven = f"epsilon={row['epsilon']:.4g}" if row["kind"] == "epsilon_delta" else row["kind"]
        measured = (row["held_out"], row["forget"])  # one run has no spread that is known
        spread = [f"{mean:.3f} ± {half:.3f}" if seeds > 1 else f"{mean:.3f}" for mean, half in measured]
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


def _print_summary(summary: dict[str, Any]) -> None:
    table = Table("accuracy", "held out", "forgotten data")
    for name in ("original", "released"):
        table.add_row(name, *(f"{summary['accuracy'][name][part]:.3f}" for part in ("held_out", "forget")))
    _out.print(table)
    proven = f"epsilon={summary['epsilon']:.6g} at delta={summary['delta']:g}, relation '{summary['relation']}'"
    _out.print(f"{'exact' if summary['kind'] == 'exact' else proven}; see {summary['folder']}/report.html")
    _out.print(f"Keys, and the state of a head, are in {summary['secret']}: do not publish them.", highlight=False)
    replayed = summary.get("replayed")
    if replayed and replayed["before"]:
        _out.print(f"{summary['trace']} had forgotten these records before: nothing was replayed.", highlight=False)
    elif replayed:
        steps = f"{replayed['steps']} of {replayed['total']} steps ({100 * replayed['fraction']:.1f} % of the training)"
        _out.print(f"Replayed {steps}. {summary['trace']} has forgotten; delete copies of it.", highlight=False)
    if summary.get("delete"):
        _out.print(f"{summary['delete']} still holds what the forgotten rows added: delete it.", highlight=False)


def _print_plan(found: Any) -> None:
    table = Table(Column("lane", no_wrap=True), "guarantee", "steps", "seconds", "noise / weights", "reads")
    table.columns[0].min_width = max(len(o.lane) for o in found.options)
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


def _unlearn_command(task: str, lane: str, budget: ex.Budget, settings: Settings) -> str:
    """The call that takes this lane with these settings."""
    asked = {
        name: value
        for name, value, default in (("epsilon", budget.epsilon, 1.0), ("delta", budget.delta, 1e-5))
        if value != default
    }
    words = ["expunge", "unlearn", task, "--mechanism", lane]
    for name, value in (asked | settings.changed()).items():
        option = name.replace("_", "-")
        words += [f"--{'' if value else 'no-'}{option}"] if isinstance(value, bool) else [f"--{option}", str(value)]
    return shlex.join([*words, "--out", "unlearned"])


def _fields(mechanism: ex.Mechanism) -> dict[str, Any]:
    return asdict(cast("Any", mechanism))


def _comparison(path: Path) -> Any:
    from expunge.report import Comparison, Lane

    try:
        plain = json.loads(path.read_text(encoding="utf-8"))
        return Comparison(**plain | {"lanes": [Lane(**lane) for lane in plain["lanes"]]})
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise OutputError(f"{path} is not a comparison.json, as demo makes it") from error


def _budget(epsilon: float, delta: float) -> ex.Budget:
    refuse_extreme(epsilon=epsilon, delta=delta)
    return ex.Budget(epsilon=epsilon, delta=delta)


def _print_json(content: dict[str, Any]) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))
