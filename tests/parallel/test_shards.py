"""Weights in shards (`fully_shard`, DTensor) are one vector under one clip and one noise."""

import re
from itertools import pairwise
from typing import Any

import pytest
import torch

import shared_runs as runs
from expunge.errors import RunError
from expunge.parallel.sharding import Part, Partition, Span
from expunge.parallel.workers import Workers
from expunge.randomness.secret import Secret
from expunge.training.descent import Descent
from expunge.training.noise import Noise
from expunge.training.pieces import norm

Worlds = dict[int, list[dict[str, Any]]]
ALIKE = 1e-6


@pytest.mark.parametrize("name", runs.MECHANISMS)
def test_one_two_and_three_shards_make_the_weights_of_one_process(name: str, worlds: Worlds) -> None:
    """20 steps with active clips; 9 rows and 3 rows are cut unevenly."""
    wanted = runs.noisy("plain", runs.MECHANISMS[name])["weights"]
    for found in worlds.values():
        weights = [worker[f"fsdp {name}"]["weights"] for worker in found]
        assert all(torch.equal(weights[0], other) for other in weights)
        assert float((weights[0] - wanted).abs().max()) <= ALIKE


def test_the_record_of_shards_is_that_of_whole_weights(worlds: Worlds) -> None:
    """Names, sizes, noise and its dimension are those of the global vector."""
    for found in worlds.values():
        for worker in found:
            cut, plain = (worker[f"{kind} once"]["record"] for kind in ("fsdp", "plain"))
            assert cut == plain  # no gradient, no rounding: the very same digest


@pytest.mark.parametrize("name", ["recovery", "retraining"])
def test_recovery_and_retraining_in_shards_agree_with_one_process(name: str, worlds: Worlds) -> None:
    wanted = runs.recovered("plain") if name == "recovery" else runs.adam("plain")["weights"]
    for found in worlds.values():
        for worker in found:
            weights = worker[f"{name} fsdp"]
            assert float(((weights if name == "recovery" else weights["weights"]) - wanted).abs().max()) <= ALIKE


@pytest.mark.parametrize(
    ("kind", "named"),
    [
        ("tensor parallel", "'0.weight' is a DTensor that fully_shard did not make"),
        ("in part", "'2.weight' is not in shards, and others are"),
        ("two axes", "on a mesh of \\(1, 2\\)"),
        ("half the workers", "averages over 1 processes, and 2 share this run"),
        ("inside", "'0' is wrapped in DistributedDataParallel"),
        ("copy", "pass copy=False"),
        ("blockwise", "not made for parameters in shards"),
    ],
)
def test_a_layout_that_is_not_understood_is_refused_by_name(kind: str, named: str, worlds: Worlds) -> None:

    for worker in worlds[2]:
        assert re.match(f"ModelRefused: .*{named}", worker[f"strange {kind}"], re.DOTALL), worker[f"strange {kind}"]


def test_noise_that_torch_draws_for_dtensors_is_the_same_on_every_shard_and_seen(worlds: Worlds) -> None:
    """The trap: on a mesh of CPUs `randn_like` of a DTensor gives every worker the same numbers; the self-test is red."""
    for worker in worlds[2]:
        trapped, seen = worker["trap"]
        assert trapped
        assert "two workers received the same noise" in seen


def test_a_release_is_gathered_into_one_file_that_verifies(worlds: Worlds) -> None:
    first, second = (worker["released from shards"] for worker in worlds[2])
    assert "save_weights" in first["refused"]
    assert first["digest"] == second["digest"] == first["certificate"]["weights"]["released"]


def cut(total: int, places: list[int], kinds: int = 1) -> list[tuple[Partition, list[slice]]]:
    """A vector of `total` cut at places; part k goes to worker k mod kinds, laid together there."""
    ends = [0, *places, total]
    spans: list[list[tuple[int, int]]] = [[] for _ in range(kinds)]
    for k, (begin, end) in enumerate(pairwise(ends)):
        spans[k % kinds].append((begin, end))
    made: list[tuple[Partition, list[slice]]] = []
    for own in spans:
        here, held = 0, list[Span]()
        for begin, end in own:
            held.append(Span(here, begin, end - begin))
            here += end - begin
        made.append((Partition(Workers(), total, tuple(held)), [slice(*pair) for pair in own]))
    return made


@pytest.mark.parametrize("released", [False, True], ids=["between", "released"])
@pytest.mark.parametrize("places", [[1], [500, 1001], [7, 8, 300, 301, 302, 1999], [2, 4, 1000]], ids=str)
def test_any_split_of_the_weights_receives_the_same_bits(places: list[int], released: bool) -> None:
    """At odd and even places, as slices laid together, with a step before the noise and without."""
    total = 2001
    start = torch.randn(total, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    g = torch.randn(total, generator=torch.Generator().manual_seed(2))

    def moved(theta: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
        noise = Noise(0.3, Secret(bytes(range(32))))
        noise.add_(theta)
        step = Descent(gradient=gradient, keep=0.9, rate=0.1, clip=1e9)
        return noise.add_(theta, released=released, after=step).as_subclass(torch.Tensor)

    whole = moved(start.clone(), g)
    for partition, own in cut(total, places, kinds=2):
        mine = torch.cat([start[piece] for piece in own])
        part = moved(Part.of(mine, partition), Part.of(torch.cat([g[piece] for piece in own]), partition))
        assert torch.equal(part, torch.cat([whole[piece] for piece in own]))


def test_a_piece_of_a_part_has_no_norm_of_its_own() -> None:
    """An executor that clips a block of one worker's coordinates would clip something else than its theorem says."""
    part = Part.of(torch.ones(10, dtype=torch.float64), cut(10, [])[0][0])
    assert float(norm(part)) == pytest.approx(10**0.5)
    with pytest.raises(RunError, match="a piece of weights in shards"):
        norm(part[:5])
    with pytest.raises(RunError, match="on a block"):
        Noise(0.1, None).add_(part, slice(0, 5))
