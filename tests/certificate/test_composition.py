"""Certificates compose as their mechanisms do, once each has been verified; what no certificate shows is said."""

import json
from pathlib import Path

import pytest

import expunge as ex
from commands import run
from expunge.accounting import composition as accounting
from expunge.certificate.composition import ASSUMED

HOME = Path(__file__).parent.parent / "certificates" / "v1"
CLIPPING, PERTURBED, RETRAINED = (
    HOME / f"{name}.json" for name in ("gradient_clipping", "output_perturbation", "retrain")
)
DELTA = 1e-5


def test_mechanisms_certificates_and_paths_give_the_same_joint_guarantee():
    certificates = [ex.Certificate.load(path) for path in (CLIPPING, PERTURBED)]
    mechanisms = [certificate.mechanism for certificate in certificates]
    joint = accounting.compose(mechanisms, delta=DELTA)
    assert joint.epsilon > max(ex.guarantee(m, delta=DELTA).epsilon for m in mechanisms)
    for releases in (
        mechanisms,
        certificates,
        [CLIPPING, PERTURBED],
        [str(CLIPPING), certificates[1]],
        iter(mechanisms),
    ):
        assert ex.compose(releases, delta=DELTA) == joint
    assert ex.compose([CLIPPING, RETRAINED], delta=DELTA).epsilon == pytest.approx(
        1.0, rel=1e-6
    )  # an exact one adds none


def test_what_is_left_of_a_budget_counts_certificates():
    budget = ex.Budget(epsilon=2.0, delta=DELTA)
    mechanisms = [ex.Certificate.load(path).mechanism for path in (CLIPPING, PERTURBED)]
    assert ex.remaining(budget, [CLIPPING, PERTURBED]) == accounting.remaining(budget, mechanisms)
    more = mechanisms[1]
    left = ex.requests_left(budget, more, spent=[CLIPPING])
    assert left == accounting.requests_left(budget, more, spent=mechanisms[:1]) > 0


def altered(tmp_path: Path) -> Path:
    """One whose fields claim less noise than was drawn, the digest made anew."""
    content = json.loads(CLIPPING.read_text())
    content["run"]["mechanism"]["noise_std"] /= 2
    content["digest"] = ex.certificate.digest({key: value for key, value in content.items() if key != "digest"})
    path = tmp_path / "altered.json"
    path.write_text(json.dumps(content))
    return path


def test_what_does_not_verify_or_proves_nothing_or_is_named_twice_is_not_composed(tmp_path: Path):
    with pytest.raises(ex.errors.CertificateError):
        ex.compose([PERTURBED, altered(tmp_path)], delta=DELTA)
    with pytest.raises(ex.errors.ClaimRefused, match=r"undeclared_features\.json proves nothing"):
        ex.compose([PERTURBED, HOME / "undeclared_features.json"], delta=DELTA)
    with pytest.raises(ValueError, match="name one certificate twice"):
        ex.compose([PERTURBED, CLIPPING, ex.Certificate.load(PERTURBED)], delta=DELTA)
    for wrong in (PERTURBED, str(PERTURBED), {PERTURBED: 1}, {PERTURBED}):
        with pytest.raises(TypeError, match="releases must be a list"):
            ex.compose(wrong, delta=DELTA)
    with pytest.raises(TypeError, match="finished mechanisms"):
        ex.compose([3], delta=DELTA)


def test_the_command_says_what_releases_prove_together_what_is_left_and_what_is_assumed(tmp_path: Path):
    done = run("compose", str(CLIPPING), str(PERTURBED), "--epsilon", "2", cwd=HOME, columns=300)
    assert done.returncode == 0, done.stderr
    joint = ex.compose([CLIPPING, PERTURBED], delta=DELTA)
    left = ex.remaining(ex.Budget(epsilon=2.0, delta=DELTA), [CLIPPING, PERTURBED])
    assert f"Together they prove epsilon={joint.epsilon:.6g} at delta=1e-05, relation 'retrained'." in done.stdout
    assert f"one more release of at most epsilon={left.epsilon:.6g}" in done.stdout
    assert all(f"- {sentence}" in done.stdout for sentence in ASSUMED)
    told = json.loads(run("compose", str(CLIPPING), str(PERTURBED), "--epsilon", "2", "--json", cwd=HOME).stdout)
    assert told["together"]["epsilon"] == joint.epsilon
    assert told["remaining"]["epsilon"] == left.epsilon
    assert told["assumed"] == list(ASSUMED)
    assert (told["exceeded"], told["budget"]) == (False, {"epsilon": 2.0, "delta": DELTA})


def test_releases_that_exceed_a_budget_are_an_exit_code_of_1_and_a_full_one_is_not():
    names = ("gradient_clipping.json", "output_perturbation.json")
    done = run("compose", *names, "--epsilon", "1.1", cwd=HOME)
    assert (done.returncode, "They exceed the budget (epsilon=1.1, delta=1e-05)." in done.stdout) == (1, True)
    joint = ex.compose([HOME / name for name in names], delta=DELTA).epsilon
    done = run("compose", *names, "--epsilon", repr(joint), cwd=HOME, columns=200)
    assert (done.returncode, "serve the next request by retraining" in done.stdout) == (0, True), done.stdout
    assert run("compose", *names, cwd=HOME).returncode == 0


def test_the_command_says_which_forget_sets_are_covered_and_that_exact_ones_add_nothing():
    assert (
        "They speak of every forget set of size at most 5 only." in run("compose", "dp_training.json", cwd=HOME).stdout
    )
    assert "Together they prove exact." in run("compose", "retrain.json", "replay.json", cwd=HOME).stdout


@pytest.mark.parametrize(
    ("names", "code", "reason"),
    [
        (("retrain.json", "retrain.json"), 2, "name one certificate twice"),
        (("retrain.json", "none.json"), 2, "path 'none.json' does not exist"),
        (("undeclared_features.json",), 1, "undeclared_features.json proves nothing"),
        (("retrain.json", "--delta", "2"), 2, "delta"),
        ((), 2, "Missing argument"),
    ],
)
def test_certificates_that_do_not_compose_are_refused(names: tuple[str, ...], code: int, reason: str):
    done = run("compose", *names, cwd=HOME)
    assert (done.returncode, reason in " ".join(done.stderr.split())) == (code, True), done.stderr


def test_no_line_is_longer_than_the_terminal_and_no_name_is_cut():
    done = run(
        "compose", "scheduled_gradient_clipping.json", "blockwise_gradient_clipping.json", "--epsilon", "3", cwd=HOME
    )
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "scheduled_gradient_clipping.json" in done.stdout
