"""How functions become commands: parameters, errors, and options made of the fields of settings."""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, NewType, cast, get_args, get_origin, get_type_hints

import click
from click.core import ParameterSource

from expunge._version import __version__
from expunge.exits import INTERRUPTED, exit_codes

__all__ = ["Argument", "Later", "Option", "Typed", "assembled"]

Typed = NewType("Typed", frozenset[str])
"""Of a command's parameters: the names of the options that were typed, which are not asked for."""

_MADE = "out"  # the parameter that names what a command makes; every other path is read, and must be there


@dataclass(frozen=True)
class Option:
    """A parameter of a command that is given by name, as in `Annotated[float, Option(help="Budget: epsilon.")]`.

    Args:
        names: "--json", "-o"; by default the parameter's own, and for a bool also "--no-...".
        help: in a sentence.
        hidden: from help.
    """

    names: tuple[str, ...] = ()
    help: str = ""
    hidden: bool = False


@dataclass(frozen=True)
class Argument:
    """A parameter of a command that is given by its place; the default where a parameter has no default."""

    help: str = ""


@dataclass(frozen=True)
class Later:
    """A function that is imported when its command is called: nobody waits for another command's.

    Args:
        where: "module:function".
        help: the first sentence of its docstring, which the list of commands shows.
    """

    where: str
    help: str


def assembled(
    commands: Mapping[str, Callable[..., None] | Later],
    groups: Mapping[str, click.Group] | None = None,
    *,
    help_: str,
) -> click.Group:
    """Make an application of commands and of groups of commands.

    Args:
        commands: name and function, in the order of the help.
        groups: that stand behind the commands; None for a group itself, which has no options of its own.
        help_: a sentence.
    """
    app = _Group(commands, help=help_, no_args_is_help=True)
    for name, group in (groups or {}).items():
        app.add_command(group, name)
    if groups is not None:
        click.version_option(__version__, message="expunge %(version)s", help="Say which version this is.")(app)
        app.params.append(click.Option(["--debug"], is_flag=True, help="Show the whole traceback of an error."))
        app.callback = _global_options
    return app


class _Group(click.Group):
    """Shows commands in the order in which they were given, and makes each when it is asked for."""

    def __init__(self, runs: Mapping[str, Callable[..., None] | Later], **settings: Any) -> None:
        super().__init__(**settings)
        self._runs = runs

    def list_commands(self, ctx: click.Context) -> list[str]:
        del ctx
        return [*self._runs, *(name for name in self.commands if name not in self._runs)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self._runs and cmd_name not in self.commands:
            self.commands[cmd_name] = _command(cmd_name, _function(self._runs[cmd_name]))
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The first sentence of every command, of one that is imported later without importing it."""
        told: list[tuple[str, str]] = []
        for name in self.list_commands(ctx):
            run = self._runs.get(name)
            command = None if isinstance(run, Later) else self.get_command(ctx, name)
            told.append((name, run.help if isinstance(run, Later) else command.get_short_help_str() if command else ""))
        with formatter.section("Commands"):
            formatter.write_dl(told)


def _function(run: Callable[..., None] | Later) -> Callable[..., None]:
    if not isinstance(run, Later):
        return run
    module, _, name = run.where.partition(":")
    return cast("Callable[..., None]", getattr(importlib.import_module(module), name))


def _global_options(*, debug: bool) -> None:
    codes = click.get_current_context().obj
    if isinstance(codes, exit_codes):
        codes.debug = debug


def _command(name: str, run: Callable[..., None]) -> click.Command:
    """Make a command; a parameter whose type is a dataclass of settings becomes an option for each of its fields."""
    hints = {key: _declared(hint) for key, hint in get_type_hints(run, include_extras=True).items()}
    parameters: list[click.Parameter] = []
    for parameter in inspect.signature(run).parameters.values():
        hint = hints[parameter.name]
        if is_dataclass(hint):
            parameters.extend(_options(hint))
        elif hint is not Typed:
            parameters.append(_parameter(parameter.name, hint, parameter.default))

    @functools.wraps(run)
    def command(**given: Any) -> None:
        try:
            run(**{key: _built(hints[key], key, given) for key in inspect.signature(run).parameters})
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None

    told = inspect.getdoc(run) or ""
    first = " ".join(told.partition("\n\n")[0].split())  # of itself click would cut it in a sentence
    return click.Command(name, params=parameters, callback=command, help=told, short_help=first)


def _declared(hint: Any) -> Any:
    """The dataclass of options behind `Annotated[Any, Options]`, as one made at run time is named; or the hint itself."""
    inside = getattr(hint, "__metadata__", ())
    return inside[0] if inside and isinstance(inside[0], type) and is_dataclass(inside[0]) else hint


def _options(settings: Any) -> Iterator[click.Parameter]:
    """One option for each field of a dataclass, and of those that are its fields."""
    hints = get_type_hints(settings)
    for entry in fields(settings):
        hint = hints[entry.name]
        if is_dataclass(hint):
            yield from _options(hint)
        else:
            yield _parameter(entry.name, Annotated[hint, Option(help=entry.metadata["help"])], entry.default)


def _parameter(name: str, hint: Any, default: object) -> click.Parameter:
    """A parameter of a command; a path that is read must be there, and so must the folder of one that is made."""
    kind, *told = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    kind, many = _plain(kind)
    required = default is inspect.Parameter.empty
    info = told[0] if told else Argument() if required else Option()
    attributes: dict[str, Any] = {"required": required, "help": info.help, "type": _TYPES.get(kind, kind)}
    if not required:
        attributes["default"] = str(default) if isinstance(default, StrEnum) else default
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        attributes |= {"type": click.Choice([str(one) for one in kind]), "callback": _member_of(kind)}
    if kind is Path:
        attributes["callback"] = _in_a_folder if name == _MADE else _there
    if isinstance(info, Argument):
        return click.Argument([name], nargs=-1 if many else 1, **attributes)
    names = info.names or (_names(name, negatable=kind is bool),)
    flag: dict[str, Any] = {"is_flag": True} if kind is bool else {"multiple": True} if many else {}
    shown = default is not None and not info.names
    return click.Option([*names, name], hidden=info.hidden, show_default=shown, **flag, **attributes)


_TYPES: Mapping[object, "click.Path | None"] = {Path: click.Path(path_type=Path), bool: None}


def _names(name: str, *, negatable: bool) -> str:
    plain = name.replace("_", "-")
    return f"--{plain}/--no-{plain}" if negatable else f"--{plain}"


def _plain(kind: Any) -> tuple[Any, bool]:
    """What `X | None`, `list[X]` and `tuple[X, ...]` are made of, and whether there may be several."""
    if get_origin(kind) in (list, tuple):
        return get_args(kind)[0], True
    if isinstance(kind, UnionType):
        return next(one for one in get_args(kind) if one is not type(None)), False
    return kind, False


def _member_of(kind: type[StrEnum]) -> Callable[[click.Context, click.Parameter, str], StrEnum]:
    return lambda _context, _parameter, given: kind(given)


def _there(_context: click.Context, _parameter: click.Parameter, given: Any) -> Any:
    """Paths that exist, or are those of jobs of which the secret folder alone is left."""
    for path in given if isinstance(given, tuple) else [given]:
        if path is not None and not path.exists() and not path.with_name(f"{path.name}.secret").exists():
            raise click.BadParameter(f"path {str(path)!r} does not exist")
    return list(given) if isinstance(given, tuple) else given


def _in_a_folder(_context: click.Context, _parameter: click.Parameter, out: Path | None) -> Path | None:
    if out is not None and not out.absolute().parent.is_dir():
        raise click.BadParameter(f"there is no folder {str(out.parent)!r} to make it in")
    return out


def _built(hint: Any, name: str, given: dict[str, Any]) -> Any:
    """A parameter of the function from the options that were given."""
    if hint is Typed:
        source = click.get_current_context().get_parameter_source
        return frozenset(option for option in given if source(option) is ParameterSource.COMMANDLINE)
    if not is_dataclass(hint):
        return given[name]
    inner = get_type_hints(hint)
    return cast("Any", hint)(**{entry.name: _built(inner[entry.name], entry.name, given) for entry in fields(hint)})
