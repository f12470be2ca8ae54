"""How functions become commands: parameters, errors, and options made of the fields of settings."""

import functools
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, NewType, cast, get_args, get_origin, get_type_hints

import typer
from typer.models import ArgumentInfo, OptionInfo, ParameterInfo

from expunge._version import __version__
from expunge.exits import INTERRUPTED, exit_codes

__all__ = ["Typed", "assembled"]

Typed = NewType("Typed", frozenset[str])
"""Of a command's parameters: the names of the options that were typed, which are not asked for."""

_MADE = "out"  # the parameter that names what a command makes; every other path is read, and must be there


def assembled(
    commands: Mapping[str, Callable[..., None]], groups: Mapping[str, typer.Typer] | None = None, *, help_: str
) -> typer.Typer:
    """Make an application of its commands, in the order of its help, and of groups of commands.

    Help is plain text: in a marked-up one, square brackets would be taken for markup.
    """
    app = typer.Typer(
        help=help_, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    for name, run in commands.items():
        first = inspect.getdoc(run) or ""
        app.command(name, short_help=first.partition("\n\n")[0])(_command(run))  # click would cut it in a sentence
    for name, group in (groups or {}).items():
        app.add_typer(group, name=name)
    app.callback(help=help_)(_nothing if groups is None else _global_options)
    return app


def _nothing() -> None:
    """With it, a group of one command stays a group."""


def _say_version(asked: bool) -> None:
    if asked:
        typer.echo(f"expunge {__version__}")
        raise typer.Exit


def _global_options(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - said by the callback
        bool, typer.Option("--version", help="Say which version this is.", is_eager=True, callback=_say_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the whole traceback of an error.")] = False,
) -> None:
    if isinstance(context.obj, exit_codes):
        context.obj.debug = debug


def _command(run: Callable[..., None]) -> Callable[..., None]:
    """Make a command; a parameter whose type is a dataclass of settings becomes an option for each of its fields."""
    hints = get_type_hints(run, include_extras=True)
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(run).parameters.values():
        hint = _declared(hints[parameter.name])
        annotation = typer.Context if hint is Typed else _checked(parameter, hint)
        plain = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY, annotation=annotation)
        parameters.extend(_options(hint) if is_dataclass(hint) else [plain])

    @functools.wraps(run)
    def command(**given: Any) -> None:
        try:
            run(**{name: _built(_declared(hints[name]), name, given) for name in inspect.signature(run).parameters})
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None

    cast("Any", command).__signature__ = inspect.Signature(parameters)
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def _declared(hint: Any) -> Any:
    """The dataclass of options behind `Annotated[Any, Options]`, as one made at run time is named; or the hint itself."""
    inside = getattr(hint, "__metadata__", ())
    return inside[0] if inside and is_dataclass(inside[0]) else hint


def _options(settings: Any) -> Iterator[inspect.Parameter]:
    """One option for each field of a dataclass, and of those that are its fields."""
    hints = get_type_hints(settings)
    for entry in fields(settings):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from _options(hint)
        else:
            option = inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default)
            told = Annotated[hint, typer.Option(help=entry.metadata["help"])]
            yield option.replace(annotation=_checked(option, told))


def _checked(parameter: inspect.Parameter, hint: Any) -> Any:
    """The type of a parameter; a path that is read must be there, and so must the folder of one that is made."""
    kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    if Path not in (kind, *get_args(kind)):
        return hint
    required = parameter.default is inspect.Parameter.empty
    info: ParameterInfo = next(
        (entry for entry in told if isinstance(entry, ParameterInfo)),
        ArgumentInfo(default=...) if required else OptionInfo(default=...),
    )
    info.callback = _in_a_folder if parameter.name == _MADE else _there
    return Annotated[kind, info]


def _there(given: Path | list[Path] | None) -> Path | list[Path] | None:
    """Paths that exist, or are those of jobs of which the secret folder alone is left."""
    for path in given if isinstance(given, list) else [given]:
        if path is not None and not path.exists() and not path.with_name(f"{path.name}.secret").exists():
            raise typer.BadParameter(f"path {str(path)!r} does not exist")
    return given


def _in_a_folder(out: Path | None) -> Path | None:
    if out is not None and not out.absolute().parent.is_dir():
        raise typer.BadParameter(f"there is no folder {str(out.parent)!r} to make it in")
    return out


def _built(hint: Any, name: str, given: dict[str, Any]) -> Any:
    """A parameter of the command from the options that were given."""
    if hint is Typed:
        sources = {option: given[name].get_parameter_source(option) for option in given if option != name}
        return frozenset(option for option, source in sources.items() if source.name == "COMMANDLINE")
    if not is_dataclass(hint):
        return given[name]
    inner = get_type_hints(hint)
    return cast("Any", hint)(**{entry.name: _built(inner[entry.name], entry.name, given) for entry in fields(hint)})
