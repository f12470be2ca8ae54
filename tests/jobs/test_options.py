"""An option that the mechanism does not take is refused by name, before anything is run; so is a folder that exists."""

from dataclasses import fields
from pathlib import Path

import pytest

from expunge import Budget, Relation
from expunge.cli.commands import main
from expunge.jobs.options import FAMILIES, LANES, TAKES, Noisy, Settings

SET = {f.name for part in (Noisy, Settings) for f in fields(part)} - {"noisy"}
VALUES = {"optimizer": "sgd", "loss": "squared", "head": ".", "trace": ".", "rescale": "", "relation": "center"}


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
    default = {f.name: f.default for part in (Noisy, Settings) for f in fields(part)}
    value = VALUES.get(name, str(default.get(name)))
    return [word for word in (f"--{name.replace('_', '-')}", value) if word]


def test_every_setting_is_taken_by_some_mechanism_and_no_other_name_is() -> None:
    assert set(TAKES) == set(LANES)
    assert set().union(*TAKES.values()) == SET | {"relation"}


@pytest.mark.parametrize(
    ("lane", "name"), [(lane, name) for lane in LANES for name in sorted((SET | {"relation"}) - TAKES[lane])]
)
def test_unlearn_refuses_it(lane: str, name: str, run) -> None:
    need = ["--trace", "."] if lane == "replay" else []
    code, told = run("unlearn", "nowhere:task", "--out", "o", "--mechanism", lane, *need, *typed(name))
    assert (code, f"mechanism '{lane}' takes no --{name.replace('_', '-')}, which was given" in told) == (2, True), told


@pytest.mark.parametrize("lane", LANES)
def test_unlearn_takes_what_the_mechanism_knows(lane: str, run) -> None:
    """It goes on to the task, which is not there."""
    words = [word for name in sorted(TAKES[lane]) for word in typed(name)]
    code, told = run("unlearn", "nowhere:task", "--out", "o", "--mechanism", lane, *words)
    assert (code, "no module named 'nowhere'" in told) == (2, True), told


@pytest.mark.parametrize("family", FAMILIES)
def test_calibrate_refuses_it(family: str, run) -> None:
    for name in sorted({f.name for f in fields(Noisy)} - TAKES[family]):
        code, told = run("calibrate", "--mechanism", family, *typed(name))
        assert (code, f"takes no --{name.replace('_', '-')}" in told) == (2, True), told
    words = [word for name in sorted({f.name for f in fields(Noisy)} & TAKES[family]) for word in typed(name)]
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


NUMBERS = {f.name for part in (Noisy, Settings) for f in fields(part) if isinstance(f.default, float)}


CALLS = [
    *(("plan", name, ()) for name in sorted(NUMBERS | {"epsilon", "delta", "training_epochs"})),
    *(
        ("unlearn", name, ("--out", "o", "--mechanism", next(lane for lane in LANES if name in TAKES[lane])))
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
    found = Noisy(**{name: value}).calibrated(mechanism, Budget(epsilon=1.0, delta=1e-5), Relation.RETRAINED)
    assert 0 < found.noise_std < float("inf")
