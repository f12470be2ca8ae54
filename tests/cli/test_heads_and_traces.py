"""Unlearners that keep the model, from the command line: heads, replays, and a plan that is carried out."""

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import expunge as ex
import sample_tasks
from expunge.cli.commands import main
from expunge.heads import noise_for
from expunge.trace import train_shards, train_traced
from expunge.trace.schedule import hex_of, name_tags
from expunge.trace.store import write_sealed
from expunge.training.task import featured
from expunge.unlearners.heads import load_head
from expunge.unlearners.replay import open_trace

RESIDUAL, LAM = 1e-9, 1e-4
FILES = {"certificate.json", "model.safetensors", "report.html", "summary.json"}
KEPT = {"keys/commitment.key", "keys/head.key", "state/head.state", "original.digest", "summary.json"}
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process: exit code, output, errors; lines are joined."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["expunge", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        printed = capsys.readouterr()
        return int(end.value.code or 0), printed.out, " ".join(printed.err.split())

    return call


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For the traces that are made once, too: a replay refuses another number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def content(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def done(run: Run, *arguments: str) -> dict[str, Any]:
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    return json.loads(out)


def certificate(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "certificate.json").read_text())


def copied(home: Path, name: str, to: str) -> None:
    """A folder, and the secret one beside it where there is one."""
    for suffix in ("", ".secret"):
        if (home / f"{name}{suffix}").exists():
            shutil.copytree(home / f"{name}{suffix}", home / f"{to}{suffix}")


def traced(folder: Path, **changes: Any) -> ex.Trace:
    rows = changes.pop("rows", sample_tasks.everything())
    late = dict.fromkeys(sample_tasks.everything().ids[:40], 2)
    options = {"first_epochs": late, "checkpoints": [8], "recipe": sample_tasks.RECIPE} | changes
    return train_traced(
        sample_tasks.make_model, rows, loss=sample_tasks.loss, epochs=3, steps_per_epoch=4, folder=folder, **options
    )  # fmt: skip


def sharded(folder: Path, **changes: Any) -> ex.Shards:
    rows = changes.pop("rows", sample_tasks.everything())
    return train_shards(
        sample_tasks.make_model, rows, loss=sample_tasks.loss, shards=3, slices=2, steps_per_epoch=3, folder=folder,
        recipe=sample_tasks.RECIPE, **changes,
    )  # fmt: skip


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made once, by the functions below the command: a convex head, an exact head, a trace, shards."""
    home = tmp_path_factory.mktemp("kept")
    from expunge.jobs.unlearning import run_unlearner
    from expunge.unlearners.table import made

    budget = ex.Budget(epsilon=1.0, delta=1e-5)
    for name in ("measured_residual", "grid_ridge"):
        run_unlearner("sample_tasks:task", home / name, made(name, {}), budget)
    traced(home / "trace")
    sharded(home / "shards")
    return home


@pytest.fixture
def home(kept: Path, tmp_path: Path) -> Path:
    shutil.copytree(kept, tmp_path, dirs_exist_ok=True)
    return tmp_path


# Convex heads


def test_a_convex_head_is_certified_for_the_budget_and_keeps_its_state(run: Run, tmp_path: Path):
    call = ("unlearn", "sample_tasks:task", "--unlearner", "measured_residual", "--out", "out", "--epsilon", "0.1")
    summary = done(run, *call)
    assert (summary["kind"], summary["rows"], summary["delete"]) == ("epsilon_delta", 270, None)
    assert summary["epsilon"] <= 0.1
    assert summary["accuracy"]["released"]["held_out"] > 0.6
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    secret = tmp_path / "out.secret"
    assert {str(path.relative_to(secret)) for path in secret.rglob("*") if path.is_file()} == KEPT
    for path in (secret, *secret.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0
    budget = ex.Budget(epsilon=0.1, delta=1e-5)
    made = ex.Certificate.load(tmp_path / "out" / "certificate.json")
    assert made.mechanism == ex.MeasuredResidual(
        residual=RESIDUAL, strong_convexity=LAM, provenance=sample_tasks.task().provenance,
        noise_std=noise_for(budget, residual=RESIDUAL, regularization=LAM),
    )  # fmt: skip
    assert run("verify", "out/certificate.json", "--weights", "out/model.safetensors")[0] == 0
    assert run("report", "out/certificate.json", "-o", "page.html")[0] == 0
    head = load_head(tmp_path / "out")
    assert not any(name in head for name in sample_tasks.task().forget.ids)
    assert all(name in head for name in sample_tasks.task().retain.ids)
    plain = run("unlearn", "sample_tasks:task", "--unlearner", "measured_residual", "--out", "two")[1]
    assert "epsilon=1 at delta=1e-05" in plain
    assert "released" in plain


def test_the_next_request_goes_on_from_the_state_and_ends_where_a_new_fit_ends(run: Run, home: Path):
    before = content(home / "measured_residual")
    call = ("unlearn", "sample_tasks:later", "--unlearner", "measured_residual")
    summary = done(run, *call, "--head", "measured_residual", "--out", "next", "--epsilon", "0.5")
    assert (summary["rows"], summary["delete"]) == (260, "measured_residual.secret/state")
    assert content(home / "measured_residual") == before
    done(run, *call, "--out", "fresh")
    following, fresh = load_head(home / "next"), load_head(home / "fresh")
    assert isinstance(following, ex.ConvexHead)
    assert isinstance(fresh, ex.ConvexHead)
    assert float((following.solution.weights - fresh.solution.weights).norm()) <= 2 * RESIDUAL / LAM
    assert following.noise_std == noise_for(ex.Budget(epsilon=0.5, delta=1e-5), residual=RESIDUAL, regularization=LAM)
    assert not any(name in following for name in sample_tasks.later().forget.ids)
    released = load_file(home / "next" / "model.safetensors")
    moved = released["weight"] - following.solution.weights[:, :-1]
    assert 0.5 * following.noise_std < float(moved.std()) < 2 * following.noise_std
    plain = run(*call, "--head", "measured_residual", "--out", "again")[1]
    assert "measured_residual.secret/state still holds what the forgotten rows added: delete it." in plain


def test_heads_of_the_earlier_layout_are_found(run: Run, home: Path):
    """State and key lay beside certificate and weights."""
    secret = home / "measured_residual.secret"
    for name in ("state/head.state", "keys/head.key"):
        (secret / name).rename(home / "measured_residual" / Path(name).name)
    shutil.rmtree(secret)
    call = ("unlearn", "sample_tasks:later", "--unlearner", "measured_residual", "--head", "measured_residual")
    assert done(run, *call, "--out", "next")["delete"] == "measured_residual"


def test_an_exact_head_takes_its_grid_from_the_option_and_forgets_bit_for_bit(run: Run, home: Path):
    """The next request on the state, and a head that never learned those rows: the same released file."""
    new = ("unlearn", "--unlearner", "grid_ridge", "--grid", "0.001", "--json")
    for task, out in (("task", "first"), ("later", "never")):
        assert run(*new, f"sample_tasks:{task}", "--out", out)[0] == 0
    next_ = ("unlearn", "sample_tasks:later", "--unlearner", "grid_ridge", "--head", "first")
    done(run, *next_, "--out", "next")
    made = ex.Certificate.load(home / "next" / "certificate.json")
    assert isinstance(made.mechanism, ex.GridRidge)
    assert made.mechanism.grid == 0.001
    name = "model.safetensors"
    assert (home / "next" / name).read_bytes() == (home / "never" / name).read_bytes()
    code, _, err = run(*next_, "--grid", "0.002", "--out", "other")
    assert (code, "grid=0.002 is not that of the head in first, 0.001" in err) == (2, True)


def test_a_head_whose_sums_are_in_floating_point_gets_no_certificate(run: Run, home: Path):
    task = sample_tasks.task()
    head = ex.AnalyticHead(ridge=1.0, classes=10, provenance=task.provenance, grid=None)
    x, y = task.retain.tensors
    assert task.features is not None
    head.learn(task.features(x), y, ids=task.retain.ids)
    (home / "old").mkdir()
    head.save(home / "old" / "head.state")
    (home / "old" / "head.key").write_text(head.key.hex())
    before = content(home)
    code, _, err = run("unlearn", "sample_tasks:later", "--unlearner", "grid_ridge", "--head", "old", "--out", "none")
    assert (code, "old holds sums in floating point" in err) == (1, True), err
    assert content(home) == before
    assert not list(home.glob("none*"))


def test_the_settings_of_a_new_convex_head_are_the_options(run: Run, home: Path):
    options = ("--loss", "squared", "--regularization", "0.01", "--residual", "1e-7")
    done(run, "unlearn", "sample_tasks:task", "--unlearner", "measured_residual", "--out", "out", *options)
    assert load_head(home / "out").settings.items() >= {
        "loss": "squared", "regularization": 0.01, "residual": 1e-7, "classes": 10,
    }.items()  # fmt: skip
    # the next request takes them from the state, whether they are left out or repeated
    call = ("unlearn", "sample_tasks:later", "--unlearner", "measured_residual", "--head", "out")
    done(run, *call, "--out", "next")
    done(run, *call, "--out", "repeated", *options)
    assert load_head(home / "next").settings["loss"] == "squared"


def test_the_convex_head_has_the_networks_width_whatever_the_labels_show(run: Run, tmp_path: Path):
    """Nobody retained has a nine: the release has ten outputs all the same, and the head is the same to the bit."""
    heads: list[ex.ConvexHead] = []
    for name in ("all_nines_forgotten", "only_without_nines"):
        done(run, "unlearn", f"sample_tasks:{name}", "--unlearner", "measured_residual", "--out", name)
        assert load_file(tmp_path / name / "model.safetensors")["weight"].shape == (10, 24)
        heads.append(load_head(tmp_path / name))
    assert torch.equal(heads[0].solution.weights, heads[1].solution.weights)


CONVEX = ("--unlearner", "measured_residual")
NEXT = (*CONVEX, "--head", "measured_residual")
BAD: dict[str, tuple[str, tuple[str, ...], int, str]] = {
    "undeclared": ("undeclared", CONVEX, 1, "nothing is proven, epsilon=1 was asked: task.provenance is ''"),
    "no map": ("without_features", CONVEX, 1, "a head needs task.features"),
    "loader": ("loader", CONVEX, 1, "a head needs task.retain as Examples(x, y)"),
    "lambda": ("task", (*CONVEX, "--regularization", "0"), 2, "regularization must be a finite number above 0, not 0.0"),
    "residual": ("task", (*CONVEX, "--residual", "-1"), 2, "residual must be a finite number above 0, not -1.0"),
    "unreachable": ("task", (*CONVEX, "--residual", "1e-19"), 1, "residual=1e-19 cannot be certified in float64"),
    "loss": ("task", (*CONVEX, "--loss", "hinge"), 2, "loss must be one of logistic, squared, smooth_hinge, not 'hinge'"),
    "no folder": ("later", (*CONVEX, "--head", "nowhere"), 2, "path 'nowhere' does not exist"),
    "no key": ("later", (*CONVEX, "--head", "keyless"), 1, "keyless holds no key of a head"),
    "half a key": ("later", (*CONVEX, "--head", "halfkey"), 1, "holds 5 bytes, not a whole key of 32"),
    "no state": ("later", (*CONVEX, "--head", "stateless"), 1, "cannot read stateless.secret/state/head.state"),
    "damaged": ("later", (*CONVEX, "--head", "damaged"), 1, "is truncated, was altered"),
    "no head": ("later", (*CONVEX, "--head", "junk"), 1, "is not a whole state of a head"),
    "exact for convex": ("later", (*CONVEX, "--head", "grid_ridge"), 1, "holds a head of class AnalyticHead, measured_residual goes on from class ConvexHead"),
    "convex for exact": (
        "later", ("--unlearner", "grid_ridge", "--head", "measured_residual"), 1, "holds a head of class ConvexHead, grid_ridge goes on from class AnalyticHead",
    ),
    "never learned": ("task", NEXT, 2, "unknown ids, never learned by this head: 'patient 0'"),
    "rows missing": ("fewer", NEXT, 2, "unknown ids"),
    "other lambda": ("later", (*NEXT, "--regularization", "0.1"), 2, "regularization=0.1 is not that of the head"),
    "other loss": ("later", (*NEXT, "--loss", "squared"), 2, "loss='squared' is not that of the head"),
    "other ridge": (
        "later", ("--unlearner", "grid_ridge", "--head", "grid_ridge", "--ridge", "2"), 2, "ridge=2.0 is not that of the head",
    ),
    "other map": ("other_provenance", NEXT, 2, "task.provenance is 'another map'"),
    "head for noise": ("task", ("--head", "measured_residual"), 2, "takes no --head, which was given and would do nothing"),
    "head for replay": ("task", ("--unlearner", "replay", "--trace", "trace", "--head", "trace"), 2, "takes no --head, which was"),
    "trace for a head": ("task", (*CONVEX, "--trace", "trace"), 2, "unlearner 'measured_residual' takes no --trace"),
    "trace for retrain": ("task", ("--unlearner", "retrain", "--trace", "trace"), 2, "'retrain' takes no --trace"),
    "by its name of before": ("task", ("--mechanism", "retrain", "--trace", "trace"), 2, "'retrain' takes no --trace"),
    "by both names": ("task", ("--mechanism", "retrain", "--unlearner", "replay"), 2, "leave --mechanism out"),
    "no trace": ("task", ("--unlearner", "replay"), 2, "unlearner 'replay' needs --trace"),
    "unknown": ("task", ("--unlearner", "shards"), 2, "unlearner must be one of gradient_clipping,"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_what_an_unlearner_cannot_take_is_refused_and_nothing_is_left_or_changed(run: Run, home: Path, case: str):
    task, options, code, message = BAD[case]
    for name in ("keyless", "halfkey", "stateless", "damaged", "junk"):
        copied(home, "measured_residual", name)
    (home / "keyless.secret" / "keys" / "head.key").unlink()
    (home / "halfkey.secret" / "keys" / "head.key").write_text("0011223344\n")
    (home / "stateless.secret" / "state" / "head.state").unlink()
    (home / "damaged.secret" / "state" / "head.state").write_bytes(
        (home / "damaged.secret" / "state" / "head.state").read_bytes()[:-1]
    )
    (home / "junk.secret" / "state" / "head.state").write_bytes(b"nothing")
    before = content(home)
    found, _, err = run("unlearn", f"sample_tasks:{task}", "--out", "none", *options)
    assert (found, message in err) == (code, True), err
    assert content(home) == before
    assert not list(home.glob("none*"))


# Replays

REPLAY = ("--unlearner", "replay", "--trace")


def test_a_replay_releases_the_training_that_never_saw_the_forget_set(run: Run, home: Path):
    trace = open_trace(home / "trace")
    assert isinstance(trace, ex.Trace)
    fresh = traced(home / "fresh", rows=sample_tasks.task().retain, key=trace.key).model(sample_tasks.make_model)
    summary = done(run, "unlearn", "sample_tasks:task", *REPLAY, "trace", "--out", "out")
    assert (summary["kind"], summary["epsilon"]) == ("exact", 0.0)
    assert summary["replayed"] == {"steps": 4, "total": 12, "fraction": 4 / 12, "before": False}
    released = load_file(home / "out" / "model.safetensors")
    assert all(torch.equal(released[name], value) for name, value in fresh.state_dict().items())
    assert {path.name for path in (home / "out").iterdir()} == FILES
    assert (home / "out.secret" / "keys" / "commitment.key").stat().st_mode & 0o077 == 0
    assert certificate(home / "out")["commitments"]["forget"].startswith("hmac-sha256:")
    assert ex.Certificate.load(home / "out" / "certificate.json").mechanism == ex.Replay()
    assert run("verify", "out/certificate.json", "--weights", "out/model.safetensors")[0] == 0
    assert run("report", "out/certificate.json", "-o", "page.html")[0] == 0
    _, plain, _ = run("unlearn", "sample_tasks:later", *REPLAY, "trace", "--out", "next")
    assert "Replayed 4 of 12 steps (33.3 % of the training). trace has forgotten; delete copies of it." in plain


def test_shards_are_replayed_and_certified_as_one_model(run: Run, home: Path):
    shards = open_trace(home / "shards")
    assert isinstance(shards, ex.Shards)
    expected = shards.cost(sample_tasks.task().forget.ids)
    fresh = sharded(home / "fresh", rows=sample_tasks.task().retain, key=shards.key).model(sample_tasks.make_model)
    summary = done(run, "unlearn", "sample_tasks:task", *REPLAY, "shards", "--out", "out")
    assert (summary["replayed"]["steps"], summary["replayed"]["total"]) == (expected.steps, expected.total)
    released = load_file(home / "out" / "model.safetensors")
    assert released.keys() == fresh.state_dict().keys()
    assert all(torch.equal(released[name], value) for name, value in fresh.state_dict().items())
    assert ex.Certificate.load(home / "out" / "certificate.json").mechanism == ex.Replay(shards=3)
    assert run("verify", "out/certificate.json", "--weights", "out/model.safetensors")[0] == 0


def test_the_tasks_augmentation_is_the_traces(run: Run, home: Path):
    traced(home / "noisy", augment=sample_tasks.augment)
    code, _, err = run("unlearn", "sample_tasks:task", *REPLAY, "noisy", "--out", "out")
    assert (code, "augment is not the one" in err) == (1, True)
    assert done(run, "unlearn", "sample_tasks:augmented", *REPLAY, "noisy", "--out", "out")["replayed"]["steps"] == 4


@pytest.mark.parametrize("kind", ["trace", "shards"])
@pytest.mark.parametrize(
    ("task", "code", "message"),
    [
        ("altered", 1, "record 'patient 50' is not what it was in the training"),
        ("doubled_loss", 1, "loss is not the one that the trace was made with"),
        ("augmented", 1, "augment is not the one"),
        ("fewer", 2, "data lack 1 of the"),
        ("without_make_model", 1, "a replay needs task.make_model"),
        ("loader", 1, "a replay needs task.retain as Examples"),
    ],
)
def test_a_trace_of_other_code_or_data_is_refused_unchanged(
    run: Run, home: Path, kind: str, task: str, code: int, message: str
):
    before = content(home)
    found, _, err = run("unlearn", f"sample_tasks:{task}", *REPLAY, kind, "--out", "none")
    assert (found, message in err) == (code, True), err
    assert content(home) == before
    assert not list(home.glob("none*"))


def test_a_trace_that_is_broken_absent_or_locked_is_refused(run: Run, home: Path):
    (home / "trace" / "v0-step8.pt").rename(home / "checkpoint")
    (home / "empty").mkdir()
    shutil.copytree(home / "shards", home / "locked")
    (home / "locked" / "key").unlink()
    (home / "taken").mkdir()
    before = content(home)
    for options, message in (
        (("trace", "--out", "none"), "v0-step8.pt is missing or cannot be read"),
        (("checkpoint", "--out", "none"), "checkpoint is no folder of a traced training"),
        (("empty", "--out", "none"), "empty holds no key"),
        (("locked", "--out", "none"), "locked holds no key; pass key=, the one given to train_shards"),
        (("shards", "--out", "taken"), "taken exists already"),
    ):
        code, _, err = run("unlearn", "sample_tasks:task", *REPLAY, *options)
        assert (code, message in err) == (1, True), err
    assert content(home) == before
    assert not list(home.glob("none*"))


@pytest.mark.parametrize("kind", ["trace", "shards"])
def test_a_call_cut_off_after_the_trace_changed_is_finished_by_the_same_call(
    run: Run, home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    shutil.copytree(home / kind, home / "whole")
    done(run, "unlearn", "sample_tasks:task", *REPLAY, "whole", "--out", "expected")

    def stop(*_: object) -> None:
        raise OSError("the plug was pulled")

    monkeypatch.setattr("expunge.jobs.unlearning.write", stop)
    monkeypatch.setattr("sys.argv", ["expunge", "unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "out"])
    with pytest.raises(SystemExit, match="3"):  # as an error in the user's own code
        main()
    monkeypatch.undo()
    monkeypatch.chdir(home)
    assert not list(home.glob("out*"))
    before = content(home / kind)
    summary = done(run, "unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "out")
    assert (summary["replayed"]["steps"], summary["replayed"]["before"]) == (0, True)
    assert content(home / kind) == before
    made, expected = (certificate(home / name) for name in ("out", "expected"))
    assert made["weights"] == expected["weights"]
    assert made["run"]["mechanism"] == expected["run"]["mechanism"]
    assert "nothing was replayed" in run("unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "third")[1]


@pytest.mark.parametrize("kind", ["trace", "shards"])
def test_a_replay_cut_off_midway_leaves_nothing_and_the_same_call_goes_on(
    run: Run, home: Path, kind: str, monkeypatch: pytest.MonkeyPatch
):
    from expunge.trace.engine import Engine

    step, steps = Engine._step, []

    def stop(self: Engine, number: int, rows: Any) -> None:
        steps.append(number)
        if len(steps) == 3:
            raise OSError("the plug was pulled")
        step(self, number, rows)

    shutil.copytree(home / kind, home / "whole")
    done(run, "unlearn", "sample_tasks:task", *REPLAY, "whole", "--out", "expected")
    monkeypatch.setattr(Engine, "_step", stop)
    monkeypatch.setattr("sys.argv", ["expunge", "unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "out"])
    with pytest.raises(SystemExit, match="3"):  # as an error in the user's own code
        main()
    monkeypatch.setattr(Engine, "_step", step)
    assert not list(home.glob("out*"))
    done(run, "unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "out")
    assert certificate(home / "out")["weights"] == certificate(home / "expected")["weights"]


def test_shards_cut_off_before_their_note_was_removed_are_not_left_locked(run: Run, home: Path):
    """All shards have forgotten, and the note of the request is still there: the same call removes it."""
    done(run, "unlearn", "sample_tasks:task", *REPLAY, "shards", "--out", "out")
    key = ex.Shards(home / "shards").key
    tags = sorted(hex_of(name_tags(key, sample_tasks.task().forget.ids)))
    write_sealed(home / "shards" / "pending.json", {"tags": tags}, key)
    assert done(run, "unlearn", "sample_tasks:task", *REPLAY, "shards", "--out", "again")["replayed"]["steps"] == 0
    assert not (home / "shards" / "pending.json").exists()
    assert certificate(home / "again")["weights"] == certificate(home / "out")["weights"]


def test_a_folder_that_a_killed_call_left_is_taken_with_resume_alone(run: Run, home: Path):
    for name, options in {"out": (*REPLAY, "trace"), "head": CONVEX}.items():
        (home / f"{name}.partial").mkdir()
        (home / f"{name}.partial" / "commitment.key").write_text("old")
        before = content(home)
        code, _, err = run("unlearn", "sample_tasks:task", *options, "--out", name)
        assert (code, "go on with --resume, or remove it" in err) == (1, True)
        assert content(home) == before
        done(run, "unlearn", "sample_tasks:task", *options, "--out", name, "--resume")
        assert (home / f"{name}.secret" / "keys" / "commitment.key").read_text() != "old"


@pytest.mark.parametrize("kind", ["trace", "shards"])
def test_a_set_that_is_forgotten_in_part_or_beside_other_data_is_refused(run: Run, home: Path, kind: str):
    done(run, "unlearn", "sample_tasks:task", *REPLAY, kind, "--out", "out")
    before = content(home)
    for task, message in (
        ("mixed", r"record 'patient 2\d' was forgotten before"),  # which of them comes first depends on the shards' key
        ("fewer", "task.retain and the trace differ in who remains"),
    ):
        code, _, err = run("unlearn", f"sample_tasks:{task}", *REPLAY, kind, "--out", "none")
        assert code == 2
        assert re.search(message, err), err
    assert content(home) == before


# Plans that are carried out


@pytest.mark.parametrize(
    ("task", "options", "recommended"),
    [
        ("without_features", ("--trace", "trace"), "replay"),
        ("without_features", ("--trace", "shards"), "replay"),
        ("task", (), "grid_ridge"),
        ("later", ("--head", "grid_ridge"), "grid_ridge"),
    ],
)
def test_a_plan_that_is_run_writes_what_unlearn_would(
    run: Run, home: Path, task: str, options: tuple[str, ...], recommended: str, monkeypatch: pytest.MonkeyPatch
):  # fmt: skip
    def millisecond(work: Callable[[], object]) -> float:
        """So that what is recommended follows from how often a thing is done, not from who else is at work here."""
        work()
        return 1e-3

    for room in ("costs", "grid_ridge", "measured_residual"):
        monkeypatch.setattr(f"expunge.unlearners.{room}.timed", millisecond)
    for name in ("trace", "shards"):
        copied(home, name, f"other/{name}")
    found = done(
        run, "plan", f"sample_tasks:{task}", *options, "--training-epochs", "1e6", "--run", "--out", "out"
    )  # fmt: skip
    assert found["recommended"] == recommended
    takes = tuple(f"other/{word}" if word in ("trace", "shards") else word for word in options)
    direct = done(run, "unlearn", f"sample_tasks:{task}", "--unlearner", recommended, *takes, "--out", "direct")
    made, same = certificate(home / "out"), certificate(home / "direct")
    assert made["run"]["mechanism"] == same["run"]["mechanism"]
    assert {p.name for p in (home / "out").iterdir()} == {p.name for p in (home / "direct").iterdir()}
    assert made["weights"] == same["weights"]
    assert found["run"]["accuracy"] == direct["accuracy"]
    assert run("verify", "out/certificate.json", "--weights", "out/model.safetensors")[0] == 0


def test_a_plan_that_retrains_takes_the_epochs_of_training(run: Run, home: Path, monkeypatch: pytest.MonkeyPatch):
    seen: list[Any] = []

    def spy(where: str, out: Path, unlearner: Any, budget: ex.Budget, **_: Any) -> dict[str, Any]:
        seen.append(unlearner)
        return {}

    monkeypatch.setattr("expunge.jobs.unlearning.run_unlearner", spy)
    call = ("plan", "sample_tasks:without_features", "--training-epochs", "2", "--recovery-lr", "0.3")
    assert done(run, *call, "--run", "--out", "out")["recommended"] == "retrain"
    assert (seen[0].epochs, seen[0].recovery_lr, seen[0].name) == (2, 0.3, "retrain")
    printed = run(*call, "--epsilon", "2")[1]
    assert (
        "expunge unlearn sample_tasks:without_features --unlearner retrain --epsilon 2.0 --recovery-lr 0.3 --epochs 2.0 "
        "--out unlearned"
    ) in " ".join(printed.split())


@pytest.mark.parametrize(
    ("task", "options", "code", "message"),
    [
        ("task", ("--run",), 2, "--run needs --out"),
        ("task", ("--out", "none"), 2, "out=none is of use with --run alone"),
        ("hopeless", ("--run", "--out", "none"), 1, "nothing is run: No way to unlearn applies"),
        ("task", ("--run", "--out", "grid_ridge"), 1, "grid_ridge exists already"),
        ("task", ("--head", "nowhere"), 2, "path 'nowhere' does not exist"),
        ("task", ("--trace", "nowhere"), 2, "path 'nowhere' does not exist"),
    ],
)
def test_a_plan_that_cannot_be_run_says_so(
    run: Run, home: Path, task: str, options: tuple[str, ...], code: int, message: str
):
    before = content(home)
    found, _, err = run("plan", f"sample_tasks:{task}", *options)
    assert (found, message in err) == (code, True), err
    assert content(home) == before
    assert not list(home.glob("none*"))


def test_a_task_with_an_augmentation_that_is_no_function_is_refused():
    with pytest.raises(
        ex.errors.TaskError, match=r"task\.augment must be a function augment\(batch, generator\), not 3"
    ):
        replace(sample_tasks.task(), augment=3)


# Audits


def test_an_audit_of_a_certificate_that_claims_nothing_attacks_its_head_and_is_no_pass(run: Run, tmp_path: Path):
    task = sample_tasks.task()
    head = ex.AnalyticHead(ridge=1.0, classes=10)
    head.learn(featured(task, task.retain), task.retain.tensors[1], ids=task.retain.ids)
    released = head.unlearned()
    issued = ex.issue(released.record, released=released.model, unchecked="a test")
    assert issued.claim.kind is ex.Kind.NONE
    issued.save(tmp_path / "none.json")
    ex.save_weights(released.model, tmp_path / "model.safetensors")
    code, out, _ = run("audit", "sample_tasks:task", "--certificate", "none.json", "--quick", "--no-shadows", "--json")
    found = json.loads(out)
    assert code == 4
    assert (found["refuted_by"], found["untested"]) == (
        [],
        "a claim of kind 'none' bounds no law, and no finding can refute it",
    )
    assert [finding["delta"] for finding in found["findings"]] == [1e-5] * len(found["findings"])
    assert found["findings"]


@pytest.mark.parametrize("mechanism", ["grid_ridge", "retrain"])
def test_a_task_without_held_out_data_is_unlearned_and_says_what_was_not_measured(run: Run, mechanism: str) -> None:
    call = ("unlearn", "sample_tasks:unmeasured", "--unlearner", mechanism, "--epochs", "1", "--out", "out")
    code, out, err = run(*call) if mechanism == "retrain" else run(*(w for w in call if w not in ("--epochs", "1")))
    assert code == 0, err
    for name in ("original", "released"):
        assert re.search(rf"{name}\W+none given\W+0\.\d{{3}}", out)


def test_a_task_whose_data_no_request_parts_is_a_mistake_that_is_told(run: Run) -> None:
    code, _, err = run("unlearn", "sample_tasks:unparted", "--unlearner", "retrain", "--out", "out")
    assert code != 0
    assert "a request must name what is to be forgotten" in err
    assert not Path("out").exists()


# Without a mechanism, and with a request of its own


def test_without_a_mechanism_the_recommended_way_is_taken_and_told(run: Run, home: Path):
    code, out, err = run("unlearn", "sample_tasks:without_features", "--out", "out", "--epochs", "1")
    assert code == 0, err
    assert "Taking retrain. It is the cheapest that meets epsilon=1, delta=1e-05" in " ".join(out.split())
    assert certificate(home / "out")["run"]["mechanism"]["name"] == "retrain"
    code, _, err = run("unlearn", "sample_tasks:without_features", "--out", "other", "--steps", "3")
    assert (code, "unlearner 'retrain' takes no --steps" in " ".join(err.split())) == (2, True)
    code, _, err = run("unlearn", "sample_tasks:without_features", "--out", "other", "--resume")
    assert (code, "--resume needs --unlearner" in " ".join(err.split())) == (2, True)


def test_a_file_of_ids_names_what_leaves(run: Run, home: Path):
    (home / "ids.txt").write_text("patient 50\npatient 51\n")
    call = ("unlearn", "sample_tasks:task", "--unlearner", "grid_ridge", "--ids", "ids.txt")
    summary = done(run, *call, "--out", "out")
    assert summary["rows"] == 298
    key = (home / "out.secret" / "keys" / "commitment.key").read_text()
    commitment = certificate(home / "out")["commitments"]["forget"]
    ex.open_commitment(commitment, sample_tasks.everything().take([50, 51]), key=bytes.fromhex(key))
    (home / "ids.txt").write_text("nobody\n")
    code, _, err = run(*call, "--out", "other")
    assert (code, "unknown ids, not among the data: 'nobody'" in err) == (2, True)
    (home / "ids.txt").write_text("patient 50\n")
    printed = run("plan", "sample_tasks:task", "--ids", "ids.txt")[1]
    assert "expunge unlearn sample_tasks:task --ids ids.txt --unlearner" in " ".join(printed.split())
