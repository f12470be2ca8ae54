"""What process groups of several sizes run, for tests/parallel; `task`-like pieces are the same in every process."""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Shard, zeros
from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import expunge as ex
import expunge.training.loss
from expunge.accounting import BlockwiseGradientClipping, GradientClipping, ModelClipping, OutputPerturbation
from expunge.recovery import FineTuning, Recipe, recover
from expunge.training.weights import save_weights
from expunge.unlearners import layer_sizes, run, train_from_scratch

ROWS, WIDE, CLASSES, BATCH = 45, 6, 3, 7  # 7 rows: no two workers have as many
STEPS = 20
STOPPED = 8  # steps before an interruption


def rows(seed: int = 1) -> ex.Examples:
    """Retained rows."""
    coins = torch.Generator().manual_seed(seed)
    x = torch.randn(ROWS, WIDE, generator=coins)
    return ex.Examples(x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long(), ids=[f"r{i}" for i in range(ROWS)])


def network(seed: int = 2) -> nn.Module:
    """A trained model, as far as the mechanism cares."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return fresh()


def fresh() -> nn.Module:
    """New weights."""
    return nn.Sequential(nn.Linear(WIDE, 9), nn.Tanh(), nn.Linear(9, CLASSES))


def loss(model: nn.Module, batch: Any) -> torch.Tensor:
    """The mean over the rows."""
    return F.cross_entropy(model(batch[0]), batch[1])


def coins(seed: int = 5) -> torch.Generator:
    """Of a run that is repeated."""
    return torch.Generator().manual_seed(seed)


CLIPPED = GradientClipping(
    init_clip=0.5, grad_clip=0.05, learning_rate=0.1, weight_decay=0.5, steps=STEPS, noise_std=1e-3
)
MECHANISMS: dict[str, Any] = {
    "gradients": CLIPPED,
    "models": ModelClipping(model_clip=0.5, learning_rate=0.1, weight_decay=0.5, steps=STEPS, noise_std=1e-3),
    "once": OutputPerturbation(init_clip=0.5, noise_std=1e-3),
}


def flat(model: nn.Module) -> torch.Tensor:
    """All parameters in one vector, gathered."""
    return torch.cat([_whole(p.detach()).reshape(-1) for p in model.parameters()])


def _whole(tensor: Any) -> torch.Tensor:
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def unlearned(mechanism: Any, model: nn.Module, **how: Any) -> ex.Unlearned:
    """The noisy run on the retained rows."""
    how = {"loss": loss, "batch_size": BATCH, "generator": coins(), "forget": ["gone"]} | how
    return run(model, rows(), mechanism, **how)


def outcome(done: ex.Unlearned) -> dict[str, Any]:
    """What tests compare."""
    return {"weights": flat(done.model), "record": done.record.to_dict()}


def tuned(model: nn.Module, **how: Any) -> torch.Tensor:
    """Recovery, with a clip that bites."""
    recipe = Recipe(learning_rate=0.05, batch_size=BATCH, max_grad_norm=0.1)
    recovery = FineTuning(epochs=2, recipe=recipe, rescale=True)
    return flat(recover(model, rows(), loss=loss, recovery=recovery, generator=coins(6), **how))


def retrained(make: Callable[[], nn.Module] = fresh, **how: Any) -> dict[str, Any]:
    """Retraining with AdamW."""
    recipe = Recipe(optimizer="adamw", learning_rate=0.01, batch_size=BATCH)
    return outcome(
        train_from_scratch(make, rows(), loss=loss, forget=["gone"], epochs=2, recipe=recipe, generator=coins(7), **how)
    )


def wrapped(model: nn.Module) -> nn.Module:
    """As users of DDP do."""
    return DistributedDataParallel(model)


def parted(model: nn.Module) -> nn.Module:
    """As users of FSDP2 do: 9 rows and 3 rows, which two workers do not cut evenly."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model[0], mesh=mesh)  # pyright: ignore[reportIndexIssue]
    fully_shard(model, mesh=mesh)
    return model


def noisy(kind: str, mechanism: Any = CLIPPED, **how: Any) -> dict[str, Any]:
    """The noisy run on a model of a kind: "plain", "ddp" or "fsdp"."""
    if kind == "fsdp":
        return outcome(unlearned(mechanism, parted(network()), copy=False, **how))
    return outcome(unlearned(mechanism, wrapped(network()) if kind == "ddp" else network(), **how))


def recovered(kind: str, **how: Any) -> torch.Tensor:
    """Recovery likewise."""
    return tuned(parted(network()), copy=False, **how) if kind == "fsdp" else tuned(network(), **how)


def adam(kind: str, **how: Any) -> dict[str, Any]:
    """Retraining likewise."""
    return retrained((lambda: parted(fresh())) if kind == "fsdp" else fresh, **how)


STATEFUL: dict[str, Callable[..., Any]] = {
    f"{name} {kind}": partial(verb, kind)
    for name, verb in {"noisy": noisy, "recovery": recovered, "retraining": adam}.items()
    for kind in ("plain", "fsdp")
}


def _stop(name: str) -> Callable[[Path], object]:
    """Interrupt a run; its state file stays."""

    def scenario(folder: Path) -> object:
        with (
            counted(after=STOPPED),
            mock.patch("expunge.training.state.SAVE_EVERY", 0.0),
            mock.patch("expunge.training.state.SHARE", 0.0),
        ):
            try:
                STATEFUL[name](state=folder / f"{name}.state")
            except KeyboardInterrupt:
                return "stopped"
        return "never stopped"

    return scenario


def go_on(name: str, folder: Path, size: int) -> Any:
    """Go on from a copy of the state file that two workers left."""
    copy = folder / f"{name}-{size}.state"
    if not dist.is_initialized() or dist.get_rank() == 0:
        shutil.copy(folder / f"{name}.state", copy)
    with counted() as calls:
        done = STATEFUL[name](state=copy)
    if dist.is_initialized():
        dist.barrier()
    return {"weights": done["weights"] if isinstance(done, dict) else done, "calls": calls[0], "left": copy.exists()}


@contextlib.contextmanager
def counted(after: int | None = None) -> Iterator[list[int]]:
    """Count the backward passes; interrupt in the place of the one after so many, as Ctrl-C would."""
    calls, plain = [0], expunge.training.loss.scalar_loss

    def scalar_loss(*given: Any) -> torch.Tensor:
        if calls[0] == after:
            raise KeyboardInterrupt
        calls[0] += 1
        return plain(*given)

    with mock.patch("expunge.training.loss.scalar_loss", scalar_loss):
        yield calls


def _goes_on(name: str) -> Callable[[Path], object]:
    return lambda folder: go_on(name, folder, dist.get_world_size())


def _trap(_: Path) -> object:
    """Noise as a DTensor draws it on a mesh of CPUs, in the place of the library's."""
    model = nn.Sequential(nn.Linear(64, 16, bias=False), nn.Linear(16, 4, bias=False))
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    drawn = torch.randn_like(zeros(16, 64, device_mesh=mesh, placements=parts(mesh)))
    first, second = drawn.full_tensor().chunk(2)
    same = bool(torch.equal(first, second))

    def draw(self: Any, theta: torch.Tensor, spans: Any, std: float, grid: float, moves: Any) -> None:
        whole = zeros(theta.partition.total, device_mesh=mesh, placements=parts(mesh))  # pyright: ignore
        theta.as_subclass(torch.Tensor).add_(torch.randn_like(whole).to_local()[: len(theta)], alpha=std)

    with mock.patch("expunge.training.noise.Noise._draw", draw):
        try:
            found: object = outcome(
                unlearned(OutputPerturbation(init_clip=0.5, noise_std=0.1), parted(model), copy=False)
            )
        except ex.errors.RunError as error:
            found = str(error)
    return same, found


def parts(mesh: Any) -> Any:
    """Cut along the first axis."""
    return [Shard(0)] * mesh.ndim


def _strange(kind: str) -> Callable[[Path], object]:
    """A layout that no run understands."""

    def scenario(_: Path) -> object:
        model = network()
        if kind == "tensor parallel":
            parallelize_module(model, init_device_mesh("cpu", (2,)), {"0": ColwiseParallel()})
        elif kind == "in part":
            fully_shard(model[0], mesh=init_device_mesh("cpu", (2,)))  # pyright: ignore[reportIndexIssue]
        elif kind == "two axes":
            fully_shard(model, mesh=init_device_mesh("cpu", (1, 2), mesh_dim_names=("replicas", "shards")))
        elif kind == "half the workers":
            model = DistributedDataParallel(model, process_group=[dist.new_group([r]) for r in (0, 1)][dist.get_rank()])
        elif kind == "inside":
            model = nn.Sequential(DistributedDataParallel(network()))
        else:
            parted(model)
        mechanism: Any = CLIPPED
        if kind == "blockwise":
            mechanism = BlockwiseGradientClipping(
                block_sizes=layer_sizes(network()), block_clips=(0.4, 0.4), grad_clip=0.1, learning_rate=0.1, weight_decay=0.5,
                steps=2, noise_std=0.1, blind=True,
            )  # fmt: skip
        return outcome(unlearned(mechanism, model, copy=kind == "copy"))

    return scenario


def _released_from_shards(folder: Path) -> object:
    """Every worker saves, rank 0 issues from the file and anybody verifies it."""
    model = parted(network())
    done = unlearned(CLIPPED, model, copy=False, generator=None)
    recover(model, rows(), loss=loss, epochs=1, copy=False)
    digest = save_weights(model, folder / "released.safetensors")
    found: dict[str, Any] = {"digest": digest, "weights": flat(model)}
    if dist.get_rank() == 0:
        try:
            ex.issue(done.record, released=model)
        except ex.errors.RunError as error:
            found["refused"] = str(error)
        certificate = ex.issue(done.record, released=folder / "released.safetensors")
        ex.verify(certificate, weights=folder / "released.safetensors")
        found["certificate"] = certificate.content
    return found


def _certified(_: Path) -> dict[str, Any]:
    done = run(wrapped(network()), rows(), CLIPPED, loss=loss, batch_size=BATCH, forget=["gone"])
    released = recover(done.model, rows(), loss=loss, epochs=1)
    found: dict[str, Any] = {"weights": flat(done.model), "origin": done.record.noise.generator}
    if dist.get_rank() == 0:
        certificate = ex.issue(done.record, released=released)
        ex.verify(certificate, weights=released)
        found["certificate"] = certificate.content
        return found
    ex.issue(done.record, released=released)
    return found


DIFFER = ("weights", "data", "options", "mechanism", "verb", "loss", "hook", "forget set")


def twice(model: nn.Module, batch: Any) -> torch.Tensor:
    """Another loss."""
    return 2 * loss(model, batch)


def _differ(key: str) -> Callable[[Path], object]:
    """One worker alone has something else."""

    def scenario(_: Path) -> object:
        other = dist.get_rank() == dist.get_world_size() - 1 and dist.get_world_size() > 1
        model = network(3 if other and key == "weights" else 2)
        data = rows(4 if other and key == "data" else 1)
        size = 8 if other and key == "options" else BATCH
        mechanism = MECHANISMS["once"] if other and key == "mechanism" else CLIPPED
        if other and key == "verb":
            return recover(model, data, loss=loss, epochs=1)
        if other and key == "hook":
            model.register_forward_hook(lambda _module, _inputs, output: 2 * output)
        own = twice if other and key == "loss" else loss
        few = 3 if other and key == "forget set" else 5
        gone = ex.Examples(*(t[:few] for t in rows(9).tensors), ids=[f"gone {k}" for k in range(few)])
        return run(model, data, mechanism, loss=own, batch_size=size, generator=coins(), forget=gone)

    return scenario


def _failing(_: Path) -> object:
    """The last worker's loss is NaN in the midst of the run."""
    calls = [0]

    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            calls[0] += 1
            return self.inner(x) * (
                float("nan") if dist.get_rank() == dist.get_world_size() - 1 and calls[0] > 3 else 1.0
            )

    return run(Failing(), rows(), CLIPPED, loss=loss, batch_size=BATCH, generator=coins())


def _task(folder: Path) -> object:
    """From a task to a folder with a certificate, as one process does it; every worker calls `save`."""
    gone = ex.Examples(torch.ones(2, WIDE), torch.zeros(2, dtype=torch.int64), ids=["g0", "g1"])
    task = ex.Task(model=wrapped(network()), retain=rows(), forget=gone, loss=loss, make_model=lambda: wrapped(fresh()))
    found: dict[str, Any] = {}
    for way in (
        ex.unlearners.OutputPerturbation(epochs=1, batch_size=BATCH),
        ex.unlearners.Retraining(epochs=1, batch_size=BATCH),
    ):
        done = ex.unlearn(task, None, way)
        certificate = done.save(folder / way.name)
        ex.verify(folder / way.name / "certificate.json", weights=folder / way.name / "model.safetensors")
        found[way.name] = {"weights": flat(done.model), "digest": certificate.content["digest"]}
    return found


KINDS = ("tensor parallel", "in part", "two axes", "half the workers", "inside", "copy", "blockwise")

# In every world; and before them in that of two.
SCENARIOS: dict[str, Callable[[Path], object]] = {
    **{
        f"{kind} {name}": lambda _, k=kind, m=m: noisy(k, m)
        for name, m in MECHANISMS.items()
        for kind in ("plain", "fsdp")
    },
    "ddp gradients": lambda _: noisy("ddp"),
    **{f"recovery {kind}": lambda _, k=kind: recovered(k) for kind in ("plain", "fsdp")},
    **{f"retraining {kind}": lambda _, k=kind: adam(k) for kind in ("plain", "fsdp")},
    **{f"goes on {name}": _goes_on(name) for name in STATEFUL},
}
OF_TWO: dict[str, Callable[[Path], object]] = {
    **{f"stop {name}": _stop(name) for name in STATEFUL},
    "ddp in place": lambda _: outcome(unlearned(CLIPPED, wrapped(network()), copy=False)),
    "ddp recovery": lambda _: tuned(wrapped(network())),
    "ddp retraining": lambda _: retrained(lambda: wrapped(fresh())),
    "certified": _certified,
    **{f"other {key}": _differ(key) for key in DIFFER},
    "failing": _failing,
    "trap": _trap,
    **{f"strange {kind}": _strange(kind) for kind in KINDS},
    "released from shards": _released_from_shards,
    "task": _task,
}
