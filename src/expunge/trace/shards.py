"""Shards (SISA): several models on disjoint parts of the data, each with a trace, so that a request replays little."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from expunge import _validate
from expunge._lock import is_lock
from expunge._workers import refuse_workers
from expunge.accounting import Replay
from expunge.certificate.record import RunRecord
from expunge.data import Examples, new_commitment_key
from expunge.errors import OutputError, RunError, StateError
from expunge.fingerprint import code_digest
from expunge.recovery.training import Recipe
from expunge.trace import checkpoint_placement
from expunge.trace.engine import Augment, Engine, Program, Settings
from expunge.trace.rewinding import Replaying
from expunge.trace.schedule import Tags, check_key, hex_of, keyed, name_tags
from expunge.trace.store import File, Folder, read_sealed, write_sealed
from expunge.trace.trace import Cost, Trace, cost_at, find_present, list_ids, train_into
from expunge.trace.withdrawal import Withdrawn
from expunge.training.loss import Loss
from expunge.training.unlearned import noiseless_record

__all__ = ["Ensemble", "Plan", "RewoundShards", "Serves", "Shards", "ShardsCost", "train_shards"]

SCHEMA = "expunge.shards/1"
_MANIFEST, _PENDING = "shards.json", "pending.json"
_SHARD = re.compile(r"shard-\d+")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the data are spread, fixed for ever by key and names.

    A keyed hash puts each record into one of shards * slices cells, whatever other records there are. Stage j of a
    shard trains on its slices 0 to j; a stage's epoch has steps in proportion, so that batches stay about as large.

    Args:
        shards: models.
        slices: of each shard.
        epochs_per_slice: passes of each stage.
        steps_per_epoch: of a shard's last stage.
        by: whose name the hash is of: the record's own, or its owner's (`Examples.groups`), so that all rows of an owner lie
            in one cell.
    """

    shards: int
    slices: int
    epochs_per_slice: int
    steps_per_epoch: int
    by: Literal["id", "group"] = "id"

    def __post_init__(self) -> None:
        if self.by not in ("id", "group"):
            raise ValueError(f"by must be 'id' or 'group', not {self.by!r}")
        _validate.whole(
            shards=self.shards,
            slices=self.slices,
            epochs_per_slice=self.epochs_per_slice,
            steps_per_epoch=self.steps_per_epoch,
        )

    @property
    def steps(self) -> tuple[int, ...]:
        """Of every epoch of a shard."""
        stages = (ceil(self.steps_per_epoch * (j + 1) / self.slices) for j in range(self.slices))
        return tuple(m for m in stages for _ in range(self.epochs_per_slice))

    @property
    def stage_steps(self) -> tuple[int, ...]:
        """Of every stage of a shard."""
        return tuple(m * self.epochs_per_slice for m in self.steps[:: self.epochs_per_slice])

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps done at the start of every stage but the first."""
        return tuple(sum(self.stage_steps[:j]) for j in range(1, self.slices))

    @property
    def total(self) -> int:
        """Steps of all shards."""
        return self.shards * sum(self.steps)

    def cell(self, key: bytes, name: str) -> tuple[int, int]:
        """(shard, slice) of a record."""
        digest = keyed(key, "cell", name.encode())
        return int.from_bytes(digest[:16], "big") % self.shards, int.from_bytes(digest[16:], "big") % self.slices

    def names(self, data: Examples) -> Sequence[str]:
        """What each record's cell follows from.

        Raises:
            ValueError: it is the owner, and the data have none.
        """
        if self.by == "id":
            return data.ids
        if data.groups is None:
            raise ValueError("cells are keyed by owners, and the data have none: Examples(..., groups=...)")
        return data.groups

    def rows(self, key: bytes, names: Sequence[str]) -> list[list[int]]:
        """The rows of each shard."""
        found: list[list[int]] = [[] for _ in range(self.shards)]
        for row, name in enumerate(names):
            found[self.cell(key, name)[0]].append(row)
        return found

    def first_epochs(self, key: bytes, ids: Sequence[str], names: Sequence[str] | None = None) -> dict[str, int]:
        """Id -> the epoch from which a record takes part in its shard; `names` as of `names`, by default the ids."""
        cells = zip(ids, names or ids, strict=True)
        return {name: self.cell(key, of)[1] * self.epochs_per_slice for name, of in cells}

    def expected_steps(self, records: int = 1) -> float:
        """`checkpoint_placement.expected_shard_steps` of this plan: exact, on average over the key."""
        return checkpoint_placement.expected_shard_steps(self.stage_steps, shards=self.shards, records=records)


def shard_key(key: bytes, shard: int) -> bytes:
    """The key of a shard's own trace."""
    return keyed(key, "shard", shard.to_bytes(8, "big"))


@dataclass(frozen=True, kw_only=True)
class ShardsCost:
    """What forgetting costs: shard -> cost of its replay; total steps of retraining all shards."""

    hit: Mapping[int, Cost]
    total: int

    @property
    def steps(self) -> int:
        """Steps to be replayed."""
        return sum(cost.steps for cost in self.hit.values())

    @property
    def fraction(self) -> float:
        """The share of the steps that retraining all shards takes."""
        return self.steps / self.total

    @property
    def gradients(self) -> int:
        """About how many gradients of single records the replays take."""
        return sum(cost.gradients for cost in self.hit.values())


@dataclass(frozen=True)
class RewoundShards:
    """What `Shards.rewind` returns: the ensemble, the record that `issue` needs, and the cost."""

    model: nn.Module
    record: RunRecord
    cost: ShardsCost


@runtime_checkable
class Serves(Protocol):
    """A `make_model` that says how the finished models of all shards answer together, and what the record says of that.

    What it builds beside the trained weights it checks itself, as `Trace.model` does for others.
    """

    @property
    def stated(self) -> Mapping[str, str]:
        """For the record's environment: public constants, and the digest of what is not trained."""
        ...

    def __call__(self) -> nn.Module:
        """One model, untrained."""
        ...

    def served(self, states: Mapping[int, Mapping[str, Any]]) -> nn.Module:
        """One module of the final states of shards, by their numbers."""
        ...


class Ensemble(nn.Module):
    """Predicts by the averaged log-probabilities of its models, normalised again; shape (n, classes)."""

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, *inputs: Tensor) -> Tensor:
        """Log-probabilities."""
        each = torch.stack([torch.log_softmax(model(*inputs), dim=-1) for model in self.models])
        return torch.log_softmax(each.mean(0), dim=-1)


class Shards:
    """Trained shards in their folder; private, as a `Trace` is.

    Args:
        folder: of `train_shards`.
        key: where it was given to `train_shards`; the folder does not hold it then.

    Raises:
        StateError: there are no finished shards, something was altered, or the key is another.
    """

    def __init__(self, folder: str | os.PathLike[str], *, key: bytes | None = None) -> None:
        self.folder = Path(folder)
        kept = Folder(folder).key() if key is None else key
        if kept is None:
            raise StateError(f"{self.folder} holds no key; pass key=, the one given to train_shards")
        check_key(kept)
        self.key = kept
        plain = read_sealed(self.folder / _MANIFEST, kept)
        if plain.pop("schema", None) != SCHEMA:
            raise StateError(f"{self.folder / _MANIFEST} has another schema than {SCHEMA!r}")
        self.plan = Plan(**plain)
        self.traces = tuple(
            Trace(_shard_folder(self.folder, s), key=shard_key(kept, s)) for s in range(self.plan.shards)
        )

    @property
    def storage(self) -> int:
        """Bytes of all traces."""
        return sum(trace.storage for trace in self.traces)

    def withdraw(self, ids: Iterable[str]) -> dict[int, int]:
        """Serve from now on what these records have never reached: the checkpoint before their slice, or nothing of a shard.

        Models that were made before are the caller's to drop; `rewind` still has to follow, and ends the withdrawal.

        Returns:
            Shard -> slices that still serve, of all shards with something withdrawn; 0 for one that is left out.

        Raises:
            ValueError: an id is unknown or was forgotten before.
        """
        for shard, names in self._by_shard(list_ids(ids)).items():
            key = shard_key(self.key, shard)
            find_present(self.traces[shard].roster(), key, names)
            self.withdraw_tags(shard, name_tags(key, names))
        return self.withdrawn()

    def withdraw_tags(self, shard: int, tags: Tags) -> None:
        """`withdraw`, of records of a shard that are known by the tags of their names."""
        Withdrawn(self.folder, self.key).add(shard, tags)

    def withdrawn(self) -> dict[int, int]:
        """Shard -> slices that still serve, of all shards with a record that is withdrawn and not forgotten yet."""
        held = Withdrawn(self.folder, self.key)
        rosters = {shard: self.traces[shard].roster() for shard in held.shards}
        return held.stages(rosters, self.plan.epochs_per_slice)

    def model(self, make_model: Callable[[], nn.Module]) -> nn.Module:
        """The models that serve, as an `Ensemble` or as `make_model` has them serve; raises `StateError` as `Trace.model` does."""
        if (self.folder / _PENDING).exists():
            raise StateError(
                f"a request on {self.folder} was cut off in the midst, and some shards have not forgotten yet: repeat that request first"
            )
        files = self._serving()
        if not isinstance(make_model, Serves):
            return Ensemble([self.traces[s].model(make_model, file) for s, file in files.items()])
        self._refuse_another(make_model)
        return make_model.served({s: self.traces[s].folder.read_state(file) for s, file in files.items()})

    def _serving(self) -> dict[int, File]:
        """Shard -> the file of the weights that serve: from before the first slice in which something is withdrawn."""
        stages, found = self.withdrawn(), dict[int, File]()
        for shard, trace in enumerate(self.traces):
            manifest, stage = trace.manifest, stages.get(shard)
            if stage is None:
                found[shard] = manifest.final
            elif stage > 0:
                step = self.plan.checkpoints[stage - 1]
                found[shard] = next(file for file in manifest.checkpoints if file.step == step)
        return found

    def _refuse_another(self, make_model: "Serves") -> None:
        """Raise `StateError` unless the traces were made with this function, which checks itself what it builds."""
        known = code_digest(make_model, name="make_model")
        if not all(trace.manifest.code["make_model"].startswith(known) for trace in self.traces):
            raise StateError("make_model is not the one that the traces were made with; use the code of the training")

    def expected_cost(self, records: int = 1) -> float:
        """The expected fraction of all steps that a request for `records` records replays; exact over random keys."""
        return self.plan.expected_steps(records) / self.plan.total

    def cost(self, ids: Iterable[str]) -> ShardsCost:
        """What `rewind` would do for these records; raises as `trace.cost` does, and runs nothing."""
        hit: dict[int, Cost] = {}
        for shard, names in self._by_shard(list_ids(ids)).items():
            trace = self.traces[shard]
            hit[shard] = cost_at(trace, trace.manifest, trace.roster(), names)
        return ShardsCost(hit=hit, total=self.plan.total)

    def rewind(
        self,
        ids: Iterable[str],
        data: Examples,
        *,
        make_model: Callable[[], nn.Module],
        loss: Loss,
        augment: Augment | None = None,
    ) -> RewoundShards:
        """Forget records exactly: the shards they hit are replayed from the last stage that had not seen them.

        Every check is made before any shard changes. A request that was cut off between two shards leaves a note of
        itself; the same request, or a larger one, goes on, and any other is refused until it has.

        Args:
            ids: names of the records to forget.
            data: at least the records that remain in the shards that are hit, unchanged.
            make_model: the training's own.
            loss: the training's own.
            augment: the training's own.

        Raises:
            ValueError, StateError, NonFinite, OutputError: as `trace.rewind`.
        """
        cost = self.replay(ids, data, Program(make_model=make_model, loss=loss, augment=augment))
        self.refuse_withdrawn()
        model = self.model(make_model)
        return RewoundShards(model, self.record(make_model, model), cost)

    def record(self, make_model: Callable[[], nn.Module], model: nn.Module) -> RunRecord:
        """The record of what `model(make_model)` has given, for `issue`; see `refuse_withdrawn`."""
        record = noiseless_record(Replay(shards=self.plan.shards), model, coverage="ledger")
        stated = make_model.stated if isinstance(make_model, Serves) else {}
        return replace(record, environment={**record.environment, **stated})

    def refuse_withdrawn(self) -> None:
        """Raise `RunError` where something is withdrawn and not forgotten yet: a release would be made without it by a checkpoint."""
        if left := self.withdrawn():
            raise RunError(
                f"records of shard {', '.join(map(str, left))} are withdrawn and not forgotten yet: forget them, and release what is "
                "made then"
            )

    def replay(self, ids: Iterable[str], data: Examples, program: Program) -> ShardsCost:
        """`rewind` without the model at its end."""
        refuse_workers("Shards.rewind")
        names = list_ids(ids)
        if not isinstance(data, Examples):
            raise TypeError(f"data must be Examples with the ids of the training, not {type(data).__name__}")
        with contextlib.ExitStack() as held:
            held.enter_context(Folder(self.folder).alone())
            open_names = self._still_to_do(names)
            rows = self.plan.rows(self.key, self.plan.names(data))
            replays: dict[int, Replaying] = {}
            for shard, hit in self._by_shard(open_names).items():
                held.enter_context(self.traces[shard].folder.alone())
                replays[shard] = Replaying.prepare(self.traces[shard], hit, data, program, rows=rows[shard])
            pending = self.folder / _PENDING
            write_sealed(pending, {"tags": sorted(hex_of(name_tags(self.key, names)))}, self.key)
            costs: dict[int, Cost] = {}
            for shard in list(replays):
                replay = replays.pop(shard)  # its model goes once it is done
                replay.run(label=f"rewind: shard {shard}")
                costs[shard] = replay.cost
            pending.unlink()
        return ShardsCost(hit=costs, total=self.plan.total)

    def _by_shard(self, names: Sequence[str]) -> dict[int, list[str]]:
        if self.plan.by == "group":
            return self._by_roster(names)
        found: dict[int, list[str]] = {}
        for name in names:
            found.setdefault(self.plan.cell(self.key, name)[0], []).append(name)
        return dict(sorted(found.items()))

    def _by_roster(self, names: Sequence[str]) -> dict[int, list[str]]:
        """The shard of each record, by who takes part where: a name alone does not tell its owner."""
        found: dict[int, list[str]] = {}
        left = list(names)
        for shard, trace in enumerate(self.traces):
            roster, tags = trace.roster(), name_tags(shard_key(self.key, shard), left)
            here = ((roster.find(tags) >= 0) | roster.knows_as_forgotten(tags)).tolist() if left else []
            if any(here):
                found[shard] = [name for name, is_here in zip(left, here, strict=True) if is_here]
            left = [name for name, is_here in zip(left, here, strict=True) if not is_here]
        if left:
            raise ValueError(f"record {left[0]!r} is not in the trace; nothing was changed")
        return found

    def _still_to_do(self, names: Sequence[str]) -> list[str]:
        """The names, less those that an interrupted request has forgotten already."""
        path = self.folder / _PENDING
        pending: set[str] = set(read_sealed(path, self.key)["tags"]) if path.exists() else set()
        tags = dict(zip(names, hex_of(name_tags(self.key, names)), strict=True))
        if not pending <= set(tags.values()):
            raise StateError(
                f"a request of {len(pending)} records was interrupted; repeat it first, alone or with more"
            )
        left: list[str] = []
        rosters = {shard: self.traces[shard].roster() for shard in self._by_shard(names)}
        for shard, hit in self._by_shard(names).items():
            key = shard_key(self.key, shard)
            gone = rosters[shard].knows_as_forgotten(name_tags(key, hit)).tolist()
            open_names = [name for name, done in zip(hit, gone, strict=True) if not (done and tags[name] in pending)]
            find_present(rosters[shard], key, open_names)
            left.extend(open_names)
        return left


def train_shards(
    make_model: Callable[[], nn.Module],
    data: Examples,
    *,
    loss: Loss,
    shards: int,
    steps_per_epoch: int,
    folder: str | os.PathLike[str],
    slices: int = 4,
    epochs_per_slice: int = 1,
    recipe: Recipe | None = None,
    augment: Augment | None = None,
    smallest_batch: int = 1,
    own_schedules: bool = False,
    by: Literal["id", "group"] = "id",
    key: bytes | None = None,
) -> Shards:
    """Train a model on each of several disjoint shards, slice by slice, so that a record can be forgotten cheaply.

    Args:
        make_model: as in `train_traced`; called once for each shard, under coins of its own.
        data: with a stable name for every record.
        loss: as in `train_traced`.
        shards: how many models; more are cheaper to rewind and less accurate each.
        steps_per_epoch: steps of one shard's last stage; fixed without the forgotten data.
        folder: new, empty, or left by this very call when it was interrupted.
        slices: of each shard; a checkpoint lies before each but the first.
        epochs_per_slice: passes of each stage.
        recipe: as in `train_traced`, for each shard.
        augment: as in `train_traced`.
        smallest_batch: as in `train_traced`.
        own_schedules: whether each stage has a one-cycle schedule of its own, rather than one over all stages.
        by: "group" to hash the owner of a record (`Examples.groups`) into a cell, so that forgetting all rows of an owner
            costs as much as forgetting one.
        key: as in `train_traced`.

    Raises:
        ValueError: a shard has no record.
        OutputError, StateError, NonFinite: as `train_traced`.

    Source: Bourtoule et al. 2021, arXiv 1912.03817.
    """
    refuse_workers("train_shards")
    plan = Plan(shards=shards, slices=slices, epochs_per_slice=epochs_per_slice, steps_per_epoch=steps_per_epoch, by=by)
    stages = plan.stage_steps if own_schedules else ()
    settings = Settings(steps=plan.steps, recipe=recipe or Recipe(), smallest_batch=smallest_batch, stages=stages)
    program = Program(make_model=make_model, loss=loss, augment=augment)
    if not isinstance(data, Examples):
        raise TypeError(f"data must be Examples with ids that stay when rows leave, not {type(data).__name__}")
    if len(set(data.ids)) < len(data):
        raise ValueError("ids must be distinct")
    if key is not None:
        check_key(key)
    home = _create(folder)
    with Folder(home).alone():
        _create(folder)  # once more: another process may have finished meanwhile
        secret = Folder(home).keep_key(new_commitment_key()) if key is None else key
        for shard, rows in enumerate(plan.rows(secret, plan.names(data))):
            if not rows:
                raise ValueError(f"shard {shard} of {shards} has no record; use fewer shards or another key")
            part, own = data.take(rows), Folder(_shard_folder(home, shard))
            starting = plan.first_epochs(secret, part.ids, plan.names(part))
            engine = Engine(program, part, starting, settings, shard_key(secret, shard))
            own.path.mkdir(mode=0o700, exist_ok=True)
            with own.alone():
                train_into(
                    own, engine, part, starting, shard_key(secret, shard), plan.checkpoints,
                    label=f"train, traced: shard {shard}",
                )  # fmt: skip
            del engine  # with its model, before the next one is built
        write_sealed(home / _MANIFEST, {"schema": SCHEMA} | vars(plan), secret)
    return Shards(home, key=secret)


def _create(folder: str | os.PathLike[str]) -> Path:
    home = Path(folder)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        names = sorted(entry.name for entry in home.iterdir())
    except OSError as error:
        raise OutputError(f"cannot use the folder {home}: {error.strerror or error}") from error
    if _MANIFEST in names:
        raise OutputError(f"{home} holds shards already and is not overwritten; choose another folder")
    others = [name for name in names if name != "key" and not is_lock(name) and not _SHARD.fullmatch(name)]
    if others:
        raise OutputError(f"{home} holds other files (e.g. {others[0]!r}); choose an empty folder")
    return home


def _shard_folder(home: Path, shard: int) -> Path:
    return home / f"shard-{shard}"
