"""`expunge.audit` attacks a certificate or anybody's unlearner, from Python, and is the room of audits all the same."""

import json
import subprocess
import sys
from dataclasses import replace
from types import ModuleType

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import expunge as ex
from expunge.attacks import Effort
from expunge.errors import CommitmentMismatch, OutputError, WeightsMismatch
from expunge.jobs.audits import Asked
from expunge.unlearners.blockwise_gradient_clipping import BlockwiseGradientClipping
from expunge.unlearners.dp_training import PrivateTraining
from expunge.unlearners.output_perturbation import OutputPerturbation
from expunge.unlearners.plain import Plain
from expunge.unlearners.scheduled_gradient_clipping import ScheduledGradientClipping

LITTLE = Effort(replicates=200, seeds=8, runs=8)
NONE = replace(LITTLE, runs=0)
SHORT = {"epochs": 1, "batch_size": 20, "steps": 2}
QUICK = Asked(training_epochs=2)


def loss(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make_model():
    return nn.Linear(40, 2)


def task(**fields):
    coins = torch.Generator().manual_seed(0)
    x, y = torch.randn(120, 40, generator=coins), torch.randint(2, (120,), generator=coins)
    parts = {
        name: ex.Examples(x[a:b], y[a:b], ids=[f"{name}{k}" for k in range(b - a)])
        for name, a, b in (("retain", 0, 60), ("forget", 60, 85), ("held_out", 85, 120))
    }
    torch.manual_seed(0)
    return ex.Task(loss=loss, **{"model": make_model(), "make_model": make_model} | parts | fields)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("audits") / "out"
    way = OutputPerturbation(init_clip=0.05, epochs=1, batch_size=20)
    ex.unlearn(task(), None, way).save(out)
    return out


def parts_of(found):
    return {f.attack.partition(":")[0].partition(",")[0] for f in found.audit.findings}


ALL = {"two worlds", "null start", "membership", "canaries"}


def test_a_certificate_is_audited_from_its_path_and_verify_takes_what_was_found(folder, tmp_path):
    found = ex.audit(task(), folder / "certificate.json", asked=QUICK, effort=LITTLE, confidence=0.999)
    assert parts_of(found) == ALL
    assert (found.refuting, found.untested) == ([], None)
    *lines, verdict = str(found).splitlines()
    assert verdict == f"The claim is not refuted by any of {len(found.audit.findings)} findings. An audit never proves."
    assert [line.partition(": epsilon")[0] for line in lines][: len(found.audit.findings)] == [
        f.attack for f in found.audit.findings
    ]
    bound = found.audit.details["released"]
    assert bound["request"] == "the commitment to the forget set opens with the task's"
    assert 0 <= bound["measured"]["held_out"] <= 1
    measured, told = found.audit.measurements
    assert measured.evidence.of + measured.evidence.null_of == 60  # all candidates: 25 of the request, 35 held out
    assert sum(told.evidence.forgotten) == measured.evidence.of
    assert sum(told.evidence.others) == measured.evidence.null_of
    found.save(tmp_path / "audit.json")
    ex.verify(folder / "certificate.json", audit=tmp_path / "audit.json")


def test_a_certificate_in_memory_is_audited_without_weights_which_is_said(folder):
    loaded = ex.Certificate.load(folder / "certificate.json")
    bound = ex.audit(task(), loaded, asked=QUICK, effort=NONE).audit.details["released"]
    assert bound == {
        "weights": "not opened: none were given", "request": "not checked: no key of the commitment was given",
        "measured": {},
    }  # fmt: skip


def test_other_weights_tasks_and_settings_are_refused(folder, tmp_path):
    certificate = folder / "certificate.json"
    with pytest.raises(WeightsMismatch):
        ex.audit(task(), certificate, weights=folder / "certified.safetensors")
    with pytest.raises(OutputError, match="is not there"):
        ex.audit(task(), certificate, weights=tmp_path / "nothing")
    with pytest.raises(CommitmentMismatch, match="is not the request"):
        ex.audit(task(forget=task().forget.take(range(24))), certificate)
    with pytest.raises(ValueError, match=r"epochs=3 contradicts the certificate's record, 1"):
        ex.audit(task(), certificate, asked=Asked(epochs=3))
    with pytest.raises(TypeError, match="an audit is of a certificate, its path, or an unlearner, not of 3"):
        ex.audit(task(), 3)
    with pytest.raises(ValueError, match="belong to a certificate"):
        ex.audit(task(), OutputPerturbation(init_clip=0.05), weights=folder / "model.safetensors")


def test_a_setting_that_no_attack_reads_is_refused(tmp_path):
    own = task(features=lambda x: x, provenance="the rows themselves")
    ex.unlearn(own, None, "grid_ridge").save(tmp_path / "head")
    with pytest.raises(ValueError, match="no attack on 'grid_ridge' reads batch_size, and 7 was given"):
        ex.audit(own, tmp_path / "head" / "certificate.json", asked=Asked(batch_size=7))


@pytest.mark.parametrize("kind", [ScheduledGradientClipping, BlockwiseGradientClipping])
def test_noisy_steps_of_any_kind_are_attacked_by_every_part(kind):
    found = ex.audit(task(), kind(**SHORT), effort=LITTLE, confidence=0.999)
    assert parts_of(found) == ALL
    assert found.refuting == []


def test_private_training_is_audited_and_has_a_finding_about_single_rows():
    way = PrivateTraining(sampling_rate=0.5, private_steps=3, expected_batch=30.0)
    found = ex.audit(task(), way, effort=NONE, confidence=0.999)
    assert [f.evidence.kind for f in found.audit.findings] == ["one_run"]
    assert found.refuting == []
    assert set(found.audit.left_out) == {"two worlds", "null start", "membership"}


def test_a_certificate_of_private_training_is_audited_and_verify_takes_the_finding(tmp_path):
    """Whose record holds how the training descended."""
    own = task(forget=task().forget.take([0]))
    way = PrivateTraining(sampling_rate=0.5, private_steps=3, expected_batch=30.0, private_lr=0.25)
    ex.unlearn(own, None, way).save(tmp_path / "out")
    certificate = tmp_path / "out" / "certificate.json"
    recipe = {"learning_rate": 0.25, "momentum": 0.0, "expected_batch": 30.0}
    assert ex.Certificate.load(certificate).record.procedure == {"training": {"epochs": 1.5, "recipe": recipe}}
    found = ex.audit(own, certificate, effort=NONE, confidence=0.999)
    assert "assumed" not in found.audit.details["canaries"]
    found.save(tmp_path / "audit.json")
    with pytest.raises(ex.errors.NothingTested, match="can show epsilon >= 0"):  # one guess among 18 coins
        ex.verify(certificate, audit=tmp_path / "audit.json")


def test_a_plain_function_is_audited_and_nothing_that_it_does_is_refuted_for_it_claims_nothing():
    found = ex.audit(task(), Plain(lambda model, _retain, _forget: model), effort=NONE, asked=QUICK)
    assert parts_of(found) == {"canaries"}
    assert found.refuting == []
    assert str(found).endswith(f"This is no pass: nothing could be tested. {found.untested}.")
    json.loads(found.audit.to_json())


def test_a_request_parts_the_data_of_an_audit():
    whole = task().retain + task().forget
    own = replace(task(), retain=None, forget=None, data=whole)
    request = ex.Request.rows(task().forget.ids)
    found = ex.audit(own, OutputPerturbation(init_clip=0.05, **SHORT_RECOVERY), request, effort=NONE)
    assert found.audit.details["canaries"]["candidates"] == {"forget": 25, "held_out": 35}


SHORT_RECOVERY = {"epochs": 1, "batch_size": 20}


def test_the_verb_and_the_room_have_one_name_whatever_is_imported_first():
    assert isinstance(ex.audit, ModuleType)
    assert callable(ex.audit)
    code = (
        "import sys, expunge as ex; from expunge.audit import Finding; assert ex.audit.Finding is Finding; "
        "sys.modules['torch'] = None\n"
        "try: ex.audit(1, 2)\n"
        "except ex.errors.MissingExtra as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "expunge.audit(...) needs torch: pip install 'expunge[torch]'"
