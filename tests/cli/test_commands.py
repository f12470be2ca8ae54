"""The command line as a newcomer meets it."""

import importlib
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from commands import run
from expunge import verify
from expunge.audit import Audit
from expunge.cli.commands import app
from expunge.errors import NothingTested

TASK = """
import dataclasses, functools
import torch
import expunge as ex
from expunge.jobs import digits_task as home

@functools.cache
def digits(seed):
    return home.digits(seed)

def task():
    return digits(0)

def later():
    first = digits(0)
    return dataclasses.replace(first, forget=first.retain.take(range(50)), retain=first.retain.take(range(50, 1293)))

def without_nines(forget_them):
    first = digits(0)
    nine = first.retain.tensors[1] == 9
    some = first.forget.take((first.forget.tensors[1] != 9).nonzero().flatten())
    nines = first.retain.take(nine.nonzero().flatten())
    rest = first.retain.take((~nine).nonzero().flatten())
    return dataclasses.replace(first, retain=rest, forget=nines if forget_them else some)

def all_nines_forgotten():
    return without_nines(True)

def never_a_nine():
    return without_nines(False)

def undeclared():
    return dataclasses.replace(digits(0), provenance="")

def without_features():
    return dataclasses.replace(digits(0), features=None)

def other_request():
    first = digits(0)
    return dataclasses.replace(first, forget=first.forget.take(range(7)))

def other_model():
    return dataclasses.replace(digits(0), model=torch.nn.Linear(64, 10))

def wrong():
    return 3
"""


def numbers(content: object) -> list[float]:
    if isinstance(content, dict):
        return [n for value in content.values() for n in numbers(value)]
    if isinstance(content, list):
        return [n for value in content for n in numbers(value)]
    return [content] if isinstance(content, (int, float)) else []


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    (folder / "digits_of_mine.py").write_text(TASK)
    done = run(
        "unlearn",
        "digits_of_mine:task",
        "--out",
        "out",
        "--unlearner",
        "gradient_clipping",
        "--steps",
        "20",
        "--json",
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["epsilon"] <= 1
    return folder


def test_unlearn_writes_a_folder_that_verifies(folder: Path):
    names = {path.name for path in (folder / "out").iterdir()}
    assert names == {
        "certificate.json", "certified.safetensors", "model.safetensors", "report.html", "summary.json",
    }  # fmt: skip
    done = run("verify", "out/certificate.json", "--weights", "out/model.safetensors", cwd=folder)
    assert done.returncode == 0
    assert "verified (claim and weights)" in done.stdout
    assert [str(path.relative_to(folder)) for path in folder.rglob("*.key")] == ["out.secret/keys/commitment.key"]
    for path in (folder / "out.secret", *(folder / "out.secret").rglob("*")):
        assert path.stat().st_mode & 0o077 == 0


def test_the_certificate_holds_no_id_count_or_seed(folder: Path):
    content = json.loads((folder / "out" / "certificate.json").read_text())
    assert content["commitments"]["forget"].startswith("hmac-sha256:")
    assert "seed" not in json.dumps(content["run"])
    # 144 rows were forgotten of 1,437, which leaves 1,293: none of these numbers stands anywhere.
    assert not {144, 1293, 1437} & set(numbers(content))


def test_other_weights_are_refused(folder: Path):
    done = run("verify", "out/certificate.json", "--weights", "out/certified.safetensors", cwd=folder)
    assert done.returncode == 1
    assert "not the released weights" in done.stderr


def test_an_existing_folder_is_refused_and_left_alone(folder: Path):
    before = (folder / "out" / "certificate.json").read_bytes()
    done = run("unlearn", "digits_of_mine:task", "--out", "out", cwd=folder)
    assert done.returncode == 1
    assert "exists already" in done.stderr
    assert (folder / "out" / "certificate.json").read_bytes() == before


@pytest.mark.parametrize(
    ("task", "code", "reason"),
    [
        ("digits_of_mine:wrong", 1, "must return an expunge.Task"),
        ("digits_of_mine:none", 2, "no function"),
        ("nowhere:task", 2, "no module named"),
    ],
)
def test_a_bad_task_is_refused_with_the_reason_and_nothing_is_written(folder: Path, task: str, code: int, reason: str):
    done = run("unlearn", task, "--out", "bad", cwd=folder)
    assert done.returncode == code
    assert reason in " ".join(done.stderr.split())
    assert not (folder / "bad").exists()
    assert not (folder / "bad.partial").exists()


def test_a_negative_field_is_a_usage_error(folder: Path):
    done = run("calibrate", "--init-clip", "-1", cwd=folder)
    assert done.returncode == 2
    assert "init_clip" in done.stderr


@pytest.fixture(scope="module")
def audited(folder: Path) -> dict[str, object]:
    done = run(
        "audit", "digits_of_mine:task", "--certificate", "out/certificate.json", "--out", "audit.json", "--quick",
        "--training-epochs", "1", "--json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_audit_of_a_sound_certificate_refutes_nothing_and_is_checked_by_verify(
    folder: Path, audited: dict[str, object]
):
    assert audited["refuted_by"] == []
    assert len(audited["findings"]) == 18
    assert not (folder / "audit.json.partial").exists()
    done = run("verify", "out/certificate.json", "--audit", "audit.json", "--json", cwd=folder)
    assert json.loads(done.stdout)["audit_checked"] is True
    done = run("report", "out/certificate.json", "--audit", "audit.json", "-o", "audited.html", cwd=folder)
    assert done.returncode == 0, done.stderr
    page = (folder / "audited.html").read_text()
    assert page.count("<svg") == 4
    assert "LiRA" in page


def test_an_audit_with_a_changed_bound_is_refused(folder: Path, audited: dict[str, object]):
    content = json.loads((folder / "audit.json").read_text())
    content["findings"][0]["bounds"]["epsilon"] = 0.5
    (folder / "forged.json").write_text(json.dumps(content))
    done = run("verify", "out/certificate.json", "--audit", "forged.json", cwd=folder)
    assert done.returncode == 1
    assert "epsilon follows from the evidence" in done.stderr


def test_an_audit_takes_recovery_from_the_record_and_says_what_it_is_bound_to(folder: Path, audited: dict[str, Any]):
    record = json.loads((folder / "out" / "certificate.json").read_text())
    assert record["run"]["procedure"]["recovery"]["epochs"] == 5
    bound = audited["details"]["released"]
    assert bound["weights"] == record["weights"]["released"]
    assert bound["request"] == "the commitment to the forget set opens with the task's"
    assert bound["measured"]["held_out"] > 0.5


@pytest.mark.parametrize(
    ("more", "code", "reason"),
    [
        (("--epochs", "1"), 2, "epochs=1.0 contradicts the certificate's record, 5"),
        (("--recovery-lr", "0.4"), 2, "recovery_lr=0.4 contradicts"),
        (("--no-rescale",), 2, "rescale=False contradicts"),
        (("--confidence", "1"), 2, "confidence must be"),
        (("--confidence", "0.99999999999"), 2, "confidence must be at most"),
        (("--weights", "nowhere.safetensors"), 2, "path 'nowhere.safetensors' does not exist"),
        (("--weights", "out/certified.safetensors"), 1, "not the released weights"),
    ],
)
def test_an_audit_of_other_settings_or_weights_is_refused_at_once(
    folder: Path, more: tuple[str, ...], code: int, reason: str
):
    done = run(
        "audit", "digits_of_mine:task", "--certificate", "out/certificate.json", "--out", "no.json", *more, cwd=folder
    )
    assert done.returncode == code
    assert reason in " ".join(done.stderr.split())
    assert not (folder / "no.json").exists()


@pytest.mark.parametrize(
    ("task", "reason"),
    [("other_request", "is not the request of this certificate"), ("other_model", "not those of the task's model")],
)
def test_an_audit_of_another_request_or_model_is_refused(folder: Path, task: str, reason: str):
    done = run(
        "audit", f"digits_of_mine:{task}", "--certificate", "out/certificate.json", "--out", "no.json", cwd=folder
    )
    assert done.returncode == 1
    assert reason in " ".join(done.stderr.split())


def test_an_audit_without_findings_is_no_pass_anywhere(folder: Path):
    digest = json.loads((folder / "out" / "certificate.json").read_text())["digest"]
    empty = Audit(certificate=digest, findings=(), details={"canaries": {"left_out": "the task has no make_model"}})
    empty.save(folder / "empty.json")
    done = run("verify", "out/certificate.json", "--audit", "empty.json", cwd=folder)
    assert done.returncode == 4
    said = " ".join(done.stdout.split())
    assert "nothing could be tested: there is no finding. canaries: the task has no make_model" in said
    done = run("verify", "out/certificate.json", "--audit", "empty.json", "--json", cwd=folder)
    assert done.returncode == 4
    assert json.loads(done.stdout)["audit_checked"] is False
    assert (
        run("report", "out/certificate.json", "--audit", "empty.json", "-o", "empty.html", cwd=folder).returncode == 0
    )
    assert "Nothing could be tested." in (folder / "empty.html").read_text()
    with pytest.raises(NothingTested):
        verify(folder / "out" / "certificate.json", audit=empty)


def test_a_page_names_the_request_and_tells_of_the_trained_model_only_where_asked(folder: Path):
    """What was measured on the trained model, or on the forgotten data, is never in the folder that may be published."""
    told = ("--organisation", "Us & Co", "--model", "m 1", "--reference", "R-7", "--received", "2026-01-02")
    assert run("report", "out/certificate.json", "-o", "p.html", *told, cwd=folder).returncode == 0
    page = (folder / "p.html").read_text()
    for value in ("Us &amp; Co", "m 1", "R-7", "2026-01-02"):
        assert f"<td>{value}</td>" in page
    assert "after: the released model" in page
    assert "before: the trained model" not in page + (folder / "out" / "report.html").read_text()
    public = json.loads((folder / "out" / "summary.json").read_text())
    assert public["accuracy"].keys() == {"released"}
    assert public["accuracy"]["released"].keys() == {"held_out"}
    assert not {"start_clipped", "folder", "secret"} & public.keys()
    assert (
        run(
            "report", "out/certificate.json", "-o", "q.html", "--summary", "out.secret/summary.json", cwd=folder
        ).returncode
        == 0
    )
    assert "before: the trained model" in (folder / "q.html").read_text()
    done = run("report", "out/certificate.json", "-o", "r.html", "--received", "yesterday", cwd=folder)
    assert done.returncode == 2
    assert "received must be a day such as" in done.stderr
    assert not (folder / "r.html").exists()


def test_an_audit_does_not_overwrite(folder: Path, audited: dict[str, object]):
    done = run(
        "audit", "digits_of_mine:task", "--certificate", "out/certificate.json", "--out", "audit.json", cwd=folder
    )
    assert done.returncode == 1
    assert "exists already" in done.stderr


@pytest.fixture(scope="module")
def head(folder: Path) -> dict[str, object]:
    done = run("unlearn", "digits_of_mine:task", "--unlearner", "grid_ridge", "--out", "head", "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_an_exact_head_is_certified_exact_and_keeps_its_state(folder: Path, head: dict[str, object]):
    assert (head["kind"], head["epsilon"], head["rows"]) == ("exact", 0.0, 1293)
    done = run("verify", "head/certificate.json", "--weights", "head/model.safetensors", cwd=folder)
    assert done.returncode == 0
    assert "exact" in done.stdout.splitlines()
    secret = {str(path.relative_to(folder / "head.secret")) for path in (folder / "head.secret").rglob("*.*")}
    assert secret == {"state/head.state", "keys/head.key", "keys/commitment.key", "summary.json"}
    assert (folder / "head.secret").stat().st_mode & 0o077 == 0
    assert "The data are forgotten exactly." in (folder / "head" / "report.html").read_text()


def test_the_next_request_forgets_from_the_heads_state(folder: Path, head: dict[str, object]):
    call = (
        "unlearn",
        "digits_of_mine:later",
        "--unlearner",
        "grid_ridge",
        "--head",
        "head",
        "--out",
        "next",
        "--json",
    )
    done = run(*call, cwd=folder)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["rows"], summary["delete"]) == (1243, "head.secret/state")
    assert summary["accuracy"]["released"]["held_out"] > 0.95


def test_the_released_head_does_not_show_that_the_forget_set_held_the_only_rows_of_a_class(folder: Path):
    digests: list[str] = []
    for name in ("all_nines_forgotten", "never_a_nine"):
        done = run("unlearn", f"digits_of_mine:{name}", "--unlearner", "grid_ridge", "--out", name, cwd=folder)
        assert done.returncode == 0, done.stderr
        digests.append(json.loads((folder / name / "certificate.json").read_text())["weights"]["released"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("task", "options", "code", "message"),
    [
        ("digits_of_mine:task", ("--head", "head"), 2, "was never learned, or is forgotten already"),
        ("digits_of_mine:task", ("--head", "nowhere"), 2, "path 'nowhere' does not exist"),
        ("digits_of_mine:task", ("--head", "out"), 1, "out holds no key of a head"),
        ("digits_of_mine:without_features", (), 1, "a head needs task.features"),
        ("digits_of_mine:undeclared", (), 1, "nothing is proven, epsilon=1 was asked"),
        ("digits_of_mine:task", ("--ridge", "0"), 2, "ridge must be a finite number above 0"),
    ],
)
def test_an_exact_head_that_cannot_be_made_leaves_nothing(
    folder: Path, head: dict[str, object], task: str, options: tuple[str, ...], code: int, message: str
):
    done = run("unlearn", task, "--unlearner", "grid_ridge", "--out", "none", *options, cwd=folder)
    assert done.returncode == code
    assert message in " ".join(done.stderr.split())
    assert not list(folder.glob("none*"))


def test_plan_compares_the_unlearners_and_names_the_next_command(folder: Path, monkeypatch: pytest.MonkeyPatch):
    def millisecond(work: Callable[[], object]) -> float:
        """So that the recommendation follows from how often a thing is done, not from who else is at work here."""
        work()
        return 1e-3

    for room in ("costs", "grid_ridge", "measured_residual"):
        monkeypatch.setattr(f"expunge.unlearners.{room}.timed", millisecond)
    done = run("plan", "digits_of_mine:task", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "expunge unlearn digits_of_mine:task --unlearner grid_ridge --out unlearned" in " ".join(done.stdout.split())
    machine = json.loads(run("plan", "digits_of_mine:without_features", "--json", cwd=folder).stdout)
    assert machine["recommended"] == "retrain"


def test_a_method_that_ran_once_shows_no_spread(monkeypatch: pytest.MonkeyPatch):
    row = {"label": "a", "kind": "exact", "steps": 1, "seconds": 1.0, "held_out": (0.5, 0.0), "forget": (0.25, 0.0)}
    control = {"refuted": False, "null": (0.5, 0.0), "trained": (0.5, 0.0), "bound": 0.6}
    monkeypatch.setattr("expunge.jobs.demos.run_demo", lambda *a, **k: (SimpleNamespace(title="title"), [row], control))
    for seeds, shown in ((1, False), (2, True)):
        done = CliRunner().invoke(app, ["demo", "--seeds", str(seeds)])
        assert done.exit_code == 0, done.output
        assert "0.250" in done.output
        assert ("±" in done.output) is shown


def test_an_exact_mechanism_has_nothing_to_calibrate(tmp_path: Path):
    done = run("calibrate", "--mechanism", "grid_ridge", cwd=tmp_path)
    assert done.returncode == 2
    assert "grid_ridge is exact: it meets every budget and has nothing to calibrate" in done.stderr


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("verify", "out/model.safetensors"), "out/model.safetensors is no certificate: it is not text in UTF-8"),
        (("verify", "out"), "cannot read out: Is a directory"),
        (
            ("report", "out/certificate.json", "--curves", "out/certificate.json", "--out", "page.html"),
            "out/certificate.json is not a comparison.json, as demo makes it",
        ),
    ],
)
def test_a_wrong_file_is_told_once_and_without_numbers_of_errors(folder: Path, words: tuple[str, ...], reason: str):
    done = run(*words, cwd=folder)
    assert done.returncode == 1
    assert f"refused: {reason}\n" == done.stderr
    assert not (folder / "page.html").exists()


def test_the_demo_makes_one_table_and_a_report(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    trained_once = importlib.import_module("digits_of_mine").digits  # what the tests above have trained already
    monkeypatch.setattr("expunge.jobs.demos.digits", trained_once)
    done = run("demo", "--out", "demo", "--seeds", "2", "--epochs", "1", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "null start" in done.stdout
    assert "grid ridge" in done.stdout
    assert "±" in done.stdout
    page = (tmp_path / "demo" / "report.html").read_text()
    assert "<svg" in page
    assert "http://www.w3.org" in page  # the SVG namespace is the only address
    assert "src=" not in page
