"""Unlearn on two workers that each hold half of the weights: torchrun --nproc-per-node 2 examples/fsdp.py FOLDER.

Made-up data and a small network, on CPUs. On GPUs: init_process_group("nccl"), torch.cuda.set_device, and the model's device.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn import functional as F

import expunge as ex
from expunge.accounting import Budget, OutputPerturbation, calibrate
from expunge.recovery import recover
from expunge.training.weights import save_weights
from expunge.unlearners import run


def loss(model: nn.Module, batch: Any) -> Tensor:
    """The mean over the rows of a batch."""
    x, y = batch
    return F.cross_entropy(model(x), y)


def rows() -> ex.Examples:
    """600 rows of three classes."""
    coins = torch.Generator().manual_seed(0)
    y = torch.randint(3, (600,), generator=coins)
    x = torch.randn(600, 16, generator=coins) + 2 * F.one_hot(y, 16)
    return ex.Examples(x, y, ids=[f"r{i}" for i in range(600)])


def trained() -> nn.Module:
    """A network in shards: the same seed on every worker, so that all begin with the same weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.ReLU(), nn.Linear(64, 3))
    fully_shard(model[0])
    fully_shard(model)
    return model


def main(folder: Path) -> None:
    """Unlearn ten rows, recover, and release one file with its certificate."""
    dist.init_process_group("gloo")
    data = rows()
    retain, forget = data.take(range(10, 600)), data.take(range(10))
    model = trained()
    recover(model, data, loss=loss, epochs=2, copy=False)  # stands for the training of the model

    budget = Budget(epsilon=1.0, delta=1e-5)
    mechanism = calibrate(lambda std: OutputPerturbation(init_clip=0.5, noise_std=std), budget)
    done = run(model, retain, mechanism, loss=loss, forget=forget, copy=False)
    recover(model, retain, loss=loss, epochs=5, copy=False)

    weights = folder / "model.safetensors"
    save_weights(model, weights)  # gathered by all, written by rank 0
    if dist.get_rank() == 0:
        certificate = ex.issue(done.record, released=weights, asked=budget)
        certificate.save(folder / "certificate.json")
        ex.verify(folder / "certificate.json", weights=weights)
        print(f"verified: {certificate.content['run']['environment']['workers']} workers, one release in {folder}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
