"""How functions become commands: parameters, errors, and options made of the fields of settings."""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, NewType, cast, get_type_hints

import typer

from expunge.exits import INTERRUPTED

__all__ = ["Typed", "assembled"]

Typed = NewType("Typed", frozenset[str])
"""Of a command's parameters: the names of the options that were typed, which are not asked for."""


def assembled(commands: Iterable[Callable[..., None]], groups: dict[str, typer.Typer]) -> typer.Typer:
    """Make the application of its commands, in the order of its help, and of groups of commands."""
    app = typer.Typer(
        help="Certified machine unlearning.", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False
    )
    for run in commands:
        app.command()(_command(run))
    for name, group in groups.items():
        app.add_typer(group, name=name)
    return app


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
    return command


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
