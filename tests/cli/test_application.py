"""What holds for every command, whatever it does; new ones and their options are found by walking all."""

import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import expunge as ex
from commands import run
from expunge.cli.commands import app
from expunge.cli.terminal import print_on_any_terminal

CERTIFICATE = Path(__file__).parent.parent / "certificates" / "v1" / "gradient_clipping.json"


@dataclass(frozen=True)
class Parameter:
    name: str
    is_path: bool
    required: bool
    option: str | None  # None for an argument
    help: str


def commands_of(app: click.Group) -> dict[str, click.Command]:
    context = click.Context(app)
    return {name: app.get_command(context, name) for name in app.list_commands(context)}


def walked(app: click.Group, *names: str) -> Iterator[tuple[tuple[str, ...], list[Parameter]]]:
    """Every command: the words that call it, and its parameters."""
    for name, command in commands_of(app).items():
        if isinstance(command, click.Group):
            yield from walked(command, *names, name)
        else:
            yield (*names, name), [parameter(one) for one in command.params if not getattr(one, "hidden", False)]


def parameter(one: click.Parameter) -> Parameter:
    option = None if isinstance(one, click.Argument) else next(opt for opt in one.opts if opt.startswith("--"))
    return Parameter(one.name, isinstance(one.type, click.Path), one.required, option, one.help or "")


COMMANDS = dict(walked(app))


def groups_of(app: click.Group) -> Iterator[click.Group]:
    yield app
    for command in commands_of(app).values():
        if isinstance(command, click.Group):
            yield from groups_of(command)


def test_the_list_of_commands_shows_the_first_sentence_of_each():
    for group in groups_of(app):
        for name, later in group._runs.items():
            assert commands_of(group)[name].short_help == later.help


def test_the_help_imports_no_command():
    code = "import sys; from expunge.cli import app; app(['--help'], standalone_mode=False)\n"
    code += "assert not [m for m in sys.modules if m.startswith('expunge.cli.commands.')]"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


PATHS = [
    pytest.param(words, parameter.name, id=f"{' '.join(words)}-{parameter.name}")
    for words, parameters in COMMANDS.items()
    for parameter in parameters
    if parameter.is_path
]


def call(words: tuple[str, ...], path: str, given: str) -> list[str]:
    """A call with what a command must be given; every path is there but one."""
    said = list(words)
    for parameter in COMMANDS[words]:
        if parameter.required or parameter.name == path:
            value = given if parameter.name == path else "new" if parameter.name == "out" else "there"
            value = value if parameter.is_path else "mine:task"
            said += [value] if parameter.option is None else [parameter.option, value]
    return said


def test_commands_are_walked():
    assert {("verify",), ("unlearn",), ("commitment", "open")} <= set(COMMANDS)
    assert len(PATHS) > 15


@pytest.mark.parametrize(("words", "path"), PATHS)
def test_a_path_that_does_not_exist_is_a_mistake_in_the_call(words: tuple[str, ...], path: str, tmp_path: Path):
    (tmp_path / "there").write_text("")
    done = run(*call(words, path, "nowhere/at all"), cwd=tmp_path)
    reason = "there is no folder 'nowhere' to make it in" if path == "out" else "path 'nowhere/at all' does not exist"
    assert (done.returncode, reason in " ".join(done.stderr.split())) == (2, True), done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_shows_every_sign_of_its_texts_at_80_columns(words: tuple[str, ...], tmp_path: Path):
    done = run(*words, "--help", cwd=tmp_path, encoding="ascii")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80
    shown = "".join(done.stdout.split())
    for parameter in COMMANDS[words]:
        assert "".join(parameter.help.split()) in shown
        assert (parameter.option or "") in shown


def test_the_list_of_commands_cuts_no_sentence(tmp_path: Path):
    told = " ".join(run("--help", cwd=tmp_path).stdout.partition("Commands:")[2].split())
    for name, command in commands_of(app).items():
        first = (command.help or "").partition("\n\n")[0]
        assert f"{name} {' '.join(first.split())}" in told


def test_square_brackets_stand_in_help_texts_as_they_are(tmp_path: Path):
    from expunge.cli.application import assembled

    def verb(x: int = 0) -> None:
        """Take o[v1], [bold]b[/bold] and :smile: as they are."""

    made = assembled({"verb": verb, "other": verb}, {}, help_="Of [red]x[/red].")
    told = CliRunner().invoke(made, ["verb", "--help"]).output
    assert "Take o[v1], [bold]b[/bold] and :smile: as they are." in told
    told = CliRunner().invoke(made, ["--help"]).output
    assert "Take o[v1], [bold]b[/bold]" in told
    assert "Of [red]x[/red]." in told


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437", "utf-8"])
def test_a_name_of_any_signs_is_printed_on_any_terminal_and_a_page_is_made(encoding: str, tmp_path: Path):
    name = "o[v1] [red]ε–日.html"
    done = run("report", str(CERTIFICATE), "--out", name, cwd=tmp_path, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / name).exists()
    shown = {"ascii": "epsilon-\\u65e5", "latin-1": "epsilon-\\u65e5", "cp437": "ε-\\u65e5", "utf-8": "ε–日"}
    assert done.stdout == f"wrote o[v1] [red]{shown[encoding]}.html\n"


@pytest.mark.parametrize("encoding", ["ascii", "cp437"])
def test_tables_sentences_and_json_are_printed_on_any_terminal(encoding: str, tmp_path: Path):
    table = run("calibrate", cwd=tmp_path, encoding=encoding)
    assert table.returncode == 0
    assert "noise_std" in table.stdout
    assert run("verify", str(CERTIFICATE), cwd=tmp_path, encoding=encoding).returncode == 0
    name = "ε–日.json"
    shutil.copy(CERTIFICATE, tmp_path / name)
    told = json.loads(run("compose", name, "--json", cwd=tmp_path, encoding=encoding).stdout)
    assert told["releases"][0]["certificate"] == name


def test_signs_of_ours_become_words_and_others_escapes(monkeypatch: pytest.MonkeyPatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    print_on_any_terminal()
    print("0.5 ± 0.1, ε ≤ 1, é", end="", flush=True)
    assert stream.buffer.getvalue() == b"0.5 +- 0.1, epsilon <= 1, \\xe9"


def test_a_path_is_not_broken_where_a_line_ends(tmp_path: Path):
    long = "-".join(["a folder"] + 12 * ["unbroken"]) + ".html"
    done = run("report", str(CERTIFICATE), "--out", long, cwd=tmp_path)
    assert long.removeprefix("a ") in done.stdout


def test_the_version_is_said(tmp_path: Path):
    assert run("--version", cwd=tmp_path).stdout == f"expunge {ex.__version__}\n"


def test_a_job_whose_secret_folder_alone_is_left_is_there(tmp_path: Path):
    (tmp_path / "kept.secret").mkdir()
    done = run("unlearn", "nowhere:task", "--unlearner", "grid_ridge", "--head", "kept", "--out", "new", cwd=tmp_path)
    assert not re.search("path .* does not exist", done.stderr)
