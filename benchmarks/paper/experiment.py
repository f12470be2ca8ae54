"""One block of seeds of a study: data, splits, original models, and the run of a job."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from recipes import Job
from studies import Study
from torch import Tensor
from torch.nn import functional as F

import expunge as ex
from data import DataSet
from expunge.recovery import rescale_
from expunge.replicates import Rows, RunBatches, Stack, accuracy_runs, recover_runs, unlearn_runs

__all__ = ["Experiment"]

CACHE = Path(__file__).parent / ".cache"
BATCH = 128
# Rows measured at a time; what a convolution makes of them stays in a CPU's cache.
MEASURED = 250
# Accuracy of every run, by metric, by epoch.
Measured = dict[str, dict[int, list[float]]]


def loss(model: Any, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy of one run."""
    return F.cross_entropy(model(batch[0]), batch[1])


class Experiment:
    """Data, splits and original models for one block of seeds; each seed is a split, an initialisation and its noise.

    Args:
        study: what is run.
        data: as `study.data()` loads them.
        seeds: of the block.
        device: where to run.
        compiled, autocast: as in `Stack`.
        original_epochs: of the original training, where not the study's.
    """

    def __init__(
        self, study: Study, data: DataSet, seeds: Sequence[int], *, device: str, compiled: bool = False,
        autocast: torch.dtype | None = None, original_epochs: int | None = None,
    ) -> None:  # fmt: skip
        self.study, self.seeds, self.device = study, list(seeds), device
        self.compiled, self.autocast = compiled, autocast
        self.original_epochs = original_epochs or study.original_epochs
        tables = None if study.tables is None else study.tables(data.train_x.shape[1:])
        self.train = Rows(data.train_x, data.train_y, tables=tables, mean=data.mean, std=data.std).to(device)
        self.test = Rows(data.test_x, data.test_y, mean=data.mean, std=data.std).to(device)
        n = len(self.train)
        orders = [torch.randperm(n, generator=torch.Generator().manual_seed(seed)) for seed in self.seeds]
        held_out, forgotten = n // 10, (n - n // 10) // 10
        self.validation, self.forget, self.retain = (
            torch.stack(orders).to(device).split([held_out, forgotten, n - held_out - forgotten], dim=1)
        )

    def run(self, job: Job) -> dict[str, Measured]:
        """All seeds of a job: from scratch, or from the trained and from the null start."""
        if isinstance(job.cell.mechanism, ex.accounting.DPTraining):
            return {"fresh": self._private(job)}
        if job.cell.mechanism is None:
            fresh = self._fresh([5000 + seed for seed in self.seeds])
            return {"fresh": self._finished(fresh, job)}
        trained = self.originals()
        both = trained.with_theta(torch.cat([trained.theta, torch.zeros_like(trained.theta)]))
        batches = RunBatches(self.train, self.retain.repeat(2, 1), batch_size=BATCH, seed=2000 + self.seeds[0])
        coins = torch.Generator(self.device).manual_seed(3000 + self.seeds[0])
        unlearn_runs(both, batches, job.cell.mechanism, loss=loss, generator=coins)
        found, n = self._finished(both, job), len(self.seeds)
        return {
            start: {name: {e: values[part] for e, values in curve.items()} for name, curve in found.items()}
            for start, part in (("trained", slice(n)), ("null", slice(n, None)))
        }

    def originals(self) -> Stack:
        """The trained models: peak 0.06, on all rows but the validation rows; kept in a cache, a file a seed."""
        paths = [CACHE / f"{self.study.name}-{self.original_epochs}-{seed}.pt" for seed in self.seeds]
        stack = self._fresh(self.seeds)
        if all(path.is_file() for path in paths):
            rows = [cast("Tensor", torch.load(path, weights_only=True)) for path in paths]
            return stack.with_theta(torch.stack(rows).to(self.device))
        rows = torch.cat([self.forget, self.retain], dim=1)
        batches = RunBatches(self.train, rows, batch_size=BATCH, seed=self.seeds[0])
        steps = self.original_epochs * batches.per_epoch
        recover_runs(stack, batches, loss=loss, steps=steps, learning_rate=0.06, momentum=0.0)
        CACHE.mkdir(exist_ok=True)
        for path, row in zip(paths, stack.theta.cpu(), strict=True):
            torch.save(row.clone(), path)
        return stack

    def _fresh(self, seeds: Sequence[int]) -> Stack:
        made = Stack.fresh(self.study.make_model, seeds, compiled=self.compiled, autocast=self.autocast)
        return made.to(self.device)

    def _finished(self, stack: Stack, job: Job) -> Measured:
        """Train the stack on the retained rows of its runs, and measure it on the way."""
        training, repeats = job.training, stack.runs // len(self.seeds)
        if training.rescale:
            stack = stack.with_theta(_rescaled(stack).to(self.device))
        batches = RunBatches(self.train, self.retain.repeat(repeats, 1), batch_size=BATCH, seed=1000 + self.seeds[0])
        found: Measured = {}

        def measure(done: int, now: Stack) -> None:
            epoch, rest = divmod(done, batches.per_epoch)
            if not rest and epoch in job.measured:
                for name, values in self.measured(now).items():
                    found.setdefault(name, {})[epoch] = values

        recover_runs(
            stack, batches, loss=loss, steps=job.epochs * batches.per_epoch, optimizer=training.optimizer,
            learning_rate=training.learning_rate, momentum=training.momentum, weight_decay=training.weight_decay,
            max_grad_norm=training.max_grad_norm, on_step=measure,
        )  # fmt: skip
        return found

    def measured(self, stack: Stack) -> dict[str, list[float]]:
        """Accuracy of every run: augmented validation rows (the paper's metric), plain test pictures, forgotten rows."""
        coins = torch.Generator(self.device).manual_seed(7)
        repeats = stack.runs // len(self.seeds)
        everything = torch.arange(len(self.test), device=self.device).split(MEASURED)
        found = {"test": accuracy_runs(stack, (self.test.batch(index) for index in everything)).tolist()}
        for name, rows, generator in (("validation", self.validation, coins), ("forget", self.forget, None)):
            each: list[float] = []
            for run, own in enumerate(rows.repeat(repeats, 1)):
                one = stack.with_theta(stack.theta[run : run + 1])
                each += accuracy_runs(
                    one, (self.train.batch(c, generator=generator) for c in own.split(MEASURED))
                ).tolist()
            found[name] = each
        return found

    def _private(self, job: Job) -> Measured:
        """The library's private training, a seed at a time, on all rows but the validation rows."""
        mechanism, training = cast("ex.accounting.DPTraining", job.cell.mechanism), job.training
        models: list[torch.nn.Module] = []
        for seed, forget, retain in zip(self.seeds, self.forget, self.retain, strict=True):
            x, y = self.train.batch(torch.cat([forget, retain]))
            coins = torch.Generator(self.device).manual_seed(4000 + seed)
            done = ex.unlearners.train_private(
                self.study.make_model, (x, y), mechanism, loss=loss, learning_rate=training.learning_rate,
                momentum=training.momentum, expected_batch=mechanism.sampling_rate * len(self.train),
                at_once=128, generator=coins,
            )  # fmt: skip
            models.append(done.model)
        stack = Stack.of(models).to(self.device)
        return {name: {job.epochs: values} for name, values in self.measured(stack).items()}


def _rescaled(stack: Stack) -> Tensor:
    models = [rescale_(stack.model(run)) for run in range(stack.runs)]
    return Stack.of(models).theta
