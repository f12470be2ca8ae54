"""Every unlearner of the table keeps the contract, somebody's own too; and each broken promise is named."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import nn

import expunge as ex
import sample_tasks
from expunge.accounting import Unproven
from expunge.errors import RunError
from expunge.testing import ContractViolation, check_unlearner
from expunge.trace import train_traced
from expunge.training.unlearned import Unlearned, noiseless_record
from expunge.unlearners import Noisy, Quote, Retraining
from expunge.unlearners.options import NAMES
from expunge.unlearners.plain import Plain
from expunge.unlearners.table import made

BUDGET = ex.Budget(epsilon=1.0, delta=1e-5)
OPTIONS: dict[str, dict[str, Any]] = {
    "gradient_clipping": {"epochs": 1, "steps": 5}, "scheduled_gradient_clipping": {"epochs": 1, "steps": 5},
    "blockwise_gradient_clipping": {"epochs": 1, "steps": 3}, "model_clipping": {"epochs": 1, "steps": 5, "weight_decay": 0.0},
    "output_perturbation": {"epochs": 1}, "retrain": {"epochs": 1}, "grid_ridge": {},
    "measured_residual": {"regularization": 1e-2, "residual": 1e-8}, "dp_training": {"private_steps": 5, "group_size": 30},
}  # fmt: skip


@pytest.mark.parametrize("name", [name for name in NAMES if name != "replay"])
def test_every_unlearner_of_the_table_keeps_its_contract(name: str) -> None:
    check_unlearner(made(name, OPTIONS[name]), sample_tasks.task(), budget=BUDGET)


def test_a_replay_releases_what_it_quoted(tmp_path: Any) -> None:
    """It changes its trace, so that it cannot be run twice: the parts of the contract one by one."""
    late = dict.fromkeys(sample_tasks.everything().ids[:40], 2)
    trace = train_traced(
        sample_tasks.make_model, sample_tasks.everything(), loss=sample_tasks.loss, epochs=3, steps_per_epoch=4,
        folder=tmp_path / "trace", first_epochs=late, checkpoints=[8], recipe=sample_tasks.RECIPE,
    )  # fmt: skip
    way = replace(made("replay", {}), traced=trace)
    quote = ex.plan(sample_tasks.task(), None, BUDGET, unlearners=[way]).quote("replay")
    done = ex.unlearn(sample_tasks.task(), None, way)
    assert quote.steps == done.notes["replayed"]["steps"] == 4
    assert len(done.predict(sample_tasks.task().held_out)) == 100


@dataclass(frozen=True, kw_only=True)
class Refit:
    """Anybody's own: the last layer is drawn anew and trained on the retained rows, which forgets nothing below it."""

    epochs: float = 1
    name = "refit"
    reads = "retained data"

    def mechanism(self, task: ex.Task, budget: ex.Budget, relation: ex.Relation) -> Any:
        return ex.Retrain()

    def learn(self, task: ex.Task, rows: ex.Examples, run: Any) -> "Refit":
        return self

    def quote(self, task: ex.Task, budget: ex.Budget, relation: ex.Relation, costs: Any) -> Quote:
        steps = round(self.epochs * costs.per_epoch(32))
        return Quote(
            unlearner=self.name, applies=True, why="trains once more", steps=steps,
            claim=ex.guarantee(ex.Retrain(), delta=budget.delta), seconds=steps * costs.step(32),
        )  # fmt: skip

    def forget(self, task: ex.Task, budget: ex.Budget, relation: ex.Relation, run: Any) -> Unlearned:
        return Retraining(epochs=self.epochs, batch_size=32).forget(task, budget, relation, run)


def test_somebodys_own_class_is_planned_run_and_certified_without_an_edit(tmp_path: Any) -> None:
    check_unlearner(Refit(), sample_tasks.task())
    found = ex.plan(sample_tasks.task(), None, BUDGET, unlearners=[Refit()])
    assert found.recommended == Refit()
    done = ex.unlearn(sample_tasks.task(), None, Refit())
    done.save(tmp_path / "out")
    ex.verify(tmp_path / "out" / "certificate.json", weights=tmp_path / "out" / "model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Boastful(Refit):
    """Says that it applies, of a claim that it does not have."""

    claim: Any = None

    def quote(self, *asked: Any) -> Quote:
        return replace(super().quote(*asked), claim=self.claim)


@pytest.mark.parametrize("claim", [None, ex.guarantee(Unproven(), delta=1e-5)], ids=["no claim", "of kind none"])
def test_a_quote_that_bounds_nothing_is_not_recommended_whatever_it_says(claim: Any) -> None:
    found = ex.plan(sample_tasks.task(), None, ex.Budget(1e9, 0.99), unlearners=[Boastful(claim=claim)])
    quoted = found.to_dict()["quotes"][0]
    assert found.recommended is None
    assert (quoted["kind"], quoted["epsilon"], quoted["delta"]) == ("none", None, None)
    assert "epsilon=0" not in str(found)


@dataclass(frozen=True, kw_only=True)
class Broken(Refit):
    fault: str = ""

    def quote(self, *asked: Any) -> Quote:
        quote = super().quote(*asked)
        if self.fault == "name":
            return replace(quote, unlearner="other")
        if self.fault == "kind":
            return replace(quote, claim=ex.guarantee(Unproven(), delta=BUDGET.delta))
        return replace(quote, claim=None) if self.fault == "claim" else quote

    def forget(self, task: ex.Task, budget: ex.Budget, relation: ex.Relation, run: Any) -> Unlearned:
        if self.fault == "task":
            next(task.model.parameters()).data.add_(1.0)
        if self.fault == "coins":
            torch.rand(1)
        if self.fault == "seed":
            run = replace(run, seed=None)
        done = super().forget(task, budget, relation, run)
        if self.fault == "nan":
            next(done.model.parameters()).data.fill_(float("nan"))
            done = replace(done, record=noiseless_record(ex.Retrain(), done.model))
        return done


@pytest.mark.parametrize(
    ("fault", "contract"),
    [
        ("name", "a quote names its unlearner"), ("kind", "a quote states the mechanism's kind"),
        ("claim", "a quote states the mechanism's kind"),
        ("task", "leaves the task as it was"), ("coins", "leaves torch's coins as they were"),
        ("seed", "the same seed gives the same bits"), ("nan", "the same seed|released weights are finite"),
    ],
)  # fmt: skip
def test_a_broken_promise_is_named(fault: str, contract: str) -> None:
    task = replace(sample_tasks.task(), model=nn.Sequential(*sample_tasks.make_model().children()))
    with pytest.raises(ContractViolation, match=contract):
        check_unlearner(Broken(fault=fault), task)


def test_a_plain_function_runs_and_its_certificate_claims_nothing(tmp_path: Any) -> None:
    def nothing(model: nn.Module, retain: Any, forget: Any) -> None:
        """Keep the trained weights."""

    done = ex.unlearn(sample_tasks.task(), None, nothing)
    assert torch.equal(done.model[0].weight, sample_tasks.task().model[0].weight)
    assert done.save(tmp_path / "out").claim.kind is ex.accounting.Kind.NONE
    assert not ex.plan(sample_tasks.task(), None, BUDGET, unlearners=[Plain(nothing)]).quotes[0].applies


def test_a_mechanism_with_its_own_executor_runs_and_gets_no_certificate(tmp_path: Any) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Mine(ex.OutputPerturbation):
        name = "mine"

    def steps(mechanism: Any, theta: Any, gradient: Any, batches: Any, noise: Any) -> Any:
        noise.add_(theta, released=True)
        yield from ()

    done = ex.unlearn(sample_tasks.task(), None, (Mine(init_clip=0.5, noise_std=4.0), steps))
    assert done.record.mechanism.name == "mine"
    with pytest.raises(RunError, match="Mine is not in the table of mechanisms"):
        done.save(tmp_path / "out")


def test_without_an_unlearner_the_recommended_one_runs() -> None:
    done = ex.unlearn(sample_tasks.task())
    assert done.notes["unlearner"] in {"grid_ridge", "measured_residual"}
    with pytest.raises(RunError, match="nothing is run: No way to unlearn applies"):
        ex.unlearn(sample_tasks.hopeless())


def test_a_request_names_the_rows_that_leave() -> None:
    task, names = sample_tasks.task(), sample_tasks.everything().ids[50:60]
    done = ex.unlearn(task, ex.Request.rows(names), "grid_ridge")
    assert done.notes["rows"] == 290
    with pytest.raises(ValueError, match="unknown ids"):
        ex.unlearn(task, ex.Request.rows(["nobody"]), "grid_ridge")
    with pytest.raises(ValueError, match="unlearner must be one of"):
        ex.unlearn(task, None, "none such")


def test_a_theorem_of_the_table_is_not_put_on_steps_of_somebodys_own() -> None:
    """No noise, and a record that would be certified: refused before the run, by a pair and by an own class alike."""

    def silent(mechanism: Any, theta: Any, gradient: Any, batches: Any, noise: Any) -> Any:
        noise.add_(torch.zeros_like(theta), released=True)
        yield from ()

    proven = ex.OutputPerturbation(init_clip=0.5, noise_std=4.0)
    with pytest.raises(RunError, match="other steps were given"):
        ex.unlearn(sample_tasks.task(), None, (proven, silent))

    @dataclass(frozen=True, kw_only=True)
    class Silent(Noisy):
        name = "silent"

        @property
        def executor(self) -> Any:
            return silent

        def with_noise(self, task: ex.Task, noise_std: float) -> Any:
            return proven

    with pytest.raises(RunError, match="other steps were given"):
        ex.unlearn(sample_tasks.task(), None, Silent(noise_std=4.0))


def test_noise_of_a_seed_is_not_released(tmp_path: Any) -> None:
    done = ex.unlearn(sample_tasks.task(), None, made("output_perturbation", {"epochs": 1}), seed=0)
    with pytest.raises(RunError, match="the noise of this run follows from seed="):
        done.save(tmp_path / "out")
    assert not (tmp_path / "out").exists()
    ex.unlearn(sample_tasks.task(), None, made("retrain", {"epochs": 1}), seed=0).save(tmp_path / "exact")


def test_a_contract_on_a_task_that_the_unlearner_does_not_take_is_no_pass() -> None:
    with pytest.raises(ContractViolation, match="applies to the task of the test: nothing would be tested"):
        check_unlearner(made("grid_ridge", {}), sample_tasks.without_features())


def test_private_training_is_no_cheap_retraining_and_costs_nothing_once_it_is_done() -> None:
    """It keeps nothing of the model at hand: 5 noisy steps are not recommended over a retraining of thousands."""
    one = replace(sample_tasks.without_features(), forget=sample_tasks.everything().take([0]))
    private = made("dp_training", {"private_steps": 5})
    found = ex.plan(one, None, BUDGET, unlearners=[private, Retraining(epochs=1000)])
    assert found.quote("dp_training").applies
    assert found.name == "retrain"
    done = ex.unlearn(one, None, private)
    kept = ex.plan(one, None, BUDGET, unlearners=[replace(private, trained=done), Retraining(epochs=1000)])
    assert (kept.name, kept.quote("dp_training").seconds) == ("dp_training", 0.0)
