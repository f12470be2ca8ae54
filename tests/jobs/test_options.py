"""An option that the mechanism does not take is refused by name, before anything is run; so is a folder that exists."""

from dataclasses import fields
from pathlib import Path

import pytest

from expunge import Budget, Relation
from expunge.cli.commands import main
from expunge.jobs.options import FAMILIES, Noisy, calibrated
from expunge.unlearners.options import NAMES, OPTIONS
from expunge.unlearners.table import UNLEARNERS, options

VALUES = {"optimizer": "sgd", "loss": "squared", "head": ".", "trace": ".", "rescale": "", "blind": ""}


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.chdir(tmp_path)

    def call(*words: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["expunge", *words])
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), " ".join((out + err).split())

    return call


def typed(name: str) -> list[str]:
    """The option with its default, where it has one: what was typed counts, and not whether it differs."""
    value = VALUES.get(name, str(OPTIONS[name].default))
    return [word for word in (f"--{name.replace('_', '-')}", value) if word]


def test_the_list_of_options_is_that_of_the_unlearners_fields() -> None:
    assert tuple(UNLEARNERS) == NAMES
    taken = {name: options(name) for name in NAMES}
    assert set().union(*taken.values()) == set(OPTIONS)
    for way, own in taken.items():
        left_to_the_task = {"epochs"} if way == "retrain" else set[str]()
        assert {name for name, default in own.items() if default != OPTIONS[name].default} == left_to_the_task
        assert all(own[name] is None for name in left_to_the_task)


@pytest.mark.parametrize(
    ("way", "name"), [(way, name) for way in NAMES for name in sorted(set(OPTIONS) - set(options(way)))]
)
def test_unlearn_refuses_it(way: str, name: str, run) -> None:
    code, told = run("unlearn", "nowhere:task", "--out", "o", "--unlearner", way, *typed(name))
    assert (code, f"unlearner '{way}' takes no --{name.replace('_', '-')}, which was given" in told) == (2, True), told


@pytest.mark.parametrize("way", NAMES)
def test_unlearn_takes_what_the_mechanism_knows(way: str, run) -> None:
    """It goes on to the task, which is not there."""
    words = [word for name in sorted(options(way)) for word in typed(name)]
    code, told = run("unlearn", "nowhere:task", "--out", "o", "--unlearner", way, *words)
    assert (code, "no module named 'nowhere'" in told) == (2, True), told


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrate_refuses_it(family: str, run) -> None:
    own = {f.name for f in fields(FAMILIES[family])}
    for name in sorted({f.name for f in fields(Noisy)} - own):
        code, told = run("calibrate", "--mechanism", family, *typed(name))
        assert (code, f"takes no --{name.replace('_', '-')}" in told) == (2, True), told
    words = [word for name in sorted({f.name for f in fields(Noisy)} & own) for word in typed(name)]
    assert run("calibrate", "--mechanism", family, *words)[0] == 0


@pytest.mark.parametrize("out", [".", "..", "/", "./", "there", "link"])
def test_a_folder_that_is_there_is_no_new_one(out: str, run) -> None:
    Path("there").mkdir()
    Path("link").symlink_to("nowhere at all")
    for words in (("unlearn", "nowhere:task", "--out", out), ("plan", "nowhere:task", "--run", "--out", out)):
        code, told = run(*words)
        assert (code, "exists already" in told) == (1, True), told
    code, told = run("demo", "--out", out)
    assert (code, "exists already" in told) == (1, True), told


NUMBERS = {name for name, own in OPTIONS.items() if own.kind is float}


CALLS = [
    *(("plan", name, ()) for name in sorted(NUMBERS | {"epsilon", "delta", "training_epochs"})),
    *(
        ("unlearn", name, ("--out", "o", "--unlearner", next(way for way in NAMES if name in options(way))))
        for name in sorted(NUMBERS)
    ),
    *(("unlearn", name, ("--out", "o")) for name in ("epsilon", "delta")),
]


@pytest.mark.parametrize(("command", "name", "others"), CALLS, ids=lambda part: part if isinstance(part, str) else "")
@pytest.mark.parametrize("value", ["1e-300", "1e300", "1e-320", "-1e300", "inf", "nan"])
def test_a_number_beyond_what_floats_can_carry_is_refused_by_name_before_the_task_is_loaded(
    run, command, name, others, value
):
    code, said = run(command, "nothing_is_here:task", f"--{name.replace('_', '-')}={value}", *others)
    assert code == 2
    assert f"{name} must" in said
    assert "nothing_is_here" not in said


@pytest.mark.parametrize("value", [1e-100, 1e-75, 1e75, 1e100])
@pytest.mark.parametrize("name", ["init_clip", "grad_clip", "model_clip"])
@pytest.mark.parametrize("mechanism", sorted(FAMILIES))
def test_within_that_range_every_radius_is_calibrated_for(mechanism, name, value):
    given = {name: value} if name in {f.name for f in fields(FAMILIES[mechanism])} else {}
    found = calibrated(mechanism, given, Budget(epsilon=1.0, delta=1e-5), Relation.RETRAINED)
    assert 0 < found.noise_std < float("inf")
