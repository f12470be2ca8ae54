"""Traced training: a folder from which any record can be forgotten exactly, and what that will cost."""

import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from expunge import _validate
from expunge._workers import refuse_workers
from expunge.data import Examples, new_commitment_key
from expunge.errors import OutputError, StateError
from expunge.fingerprint import code_digest, model_digest
from expunge.recovery.training import Recipe
from expunge.trace import checkpoint_placement
from expunge.trace.engine import Augment, Engine, Program, Settings, load_model
from expunge.trace.identity import row_digests
from expunge.trace.roster import Roster
from expunge.trace.schedule import Schedule, Tags, check_key, name_tags
from expunge.trace.store import UNFINISHED, File, Folder, Manifest
from expunge.training.loss import Loss
from expunge.training.randomness import build
from expunge.training.state import StateFile

__all__ = ["Cost", "Trace", "cost", "train_traced"]

_log = logging.getLogger("expunge")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What forgetting costs.

    Args:
        first_use: the step, from 0, at which a forgotten record was used first.
        restored: steps done at the checkpoint that the replay begins with; 0 is the initialisation.
        total: steps of the whole training.
        gradients: about how many gradients of single records the replay takes.
        reads: the checkpoint's file; "" for the initialisation.
    """

    first_use: int
    restored: int
    total: int
    gradients: int
    reads: str

    @property
    def steps(self) -> int:
        """Steps to be replayed."""
        return self.total - self.restored

    @property
    def fraction(self) -> float:
        """The share of the steps that retraining takes."""
        return self.steps / self.total


class Trace:
    """A finished traced training in its folder.

    The folder is private: it holds the key (unless the caller keeps it), weights between the steps, and keyed tags of
    records. Several handles of one folder agree, as each reads the manifest anew.

    Args:
        folder: of `train_traced`.
        key: where it was given to `train_traced`; the folder does not hold it then.

    Raises:
        StateError: there is no finished trace, it was altered, or the key is another.
    """

    def __init__(self, folder: str | os.PathLike[str], *, key: bytes | None = None) -> None:
        self.folder = Folder(folder)
        kept = self.folder.key() if key is None else key
        if kept is None:
            raise StateError(f"{self.folder.path} holds no key; pass key=, the one given to train_traced")
        check_key(kept)
        self.key = kept
        _ = self.manifest  # there is a whole one
        with contextlib.suppress(StateError, OutputError), self.folder.alone():  # whoever is at work there tidies up
            self.folder.tidy(self.manifest)  # what a rewind that was cut off between its last two steps left

    @property
    def manifest(self) -> Manifest:
        """What the folder says now; raises `StateError`."""
        return self.folder.manifest(self.key)

    @property
    def storage(self) -> int:
        """Bytes of checkpoints, finished model and roster."""
        return sum(file.size for file in self.manifest.files)

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Steps done at each checkpoint."""
        return tuple(file.step for file in self.manifest.checkpoints)

    def model(self, make_model: Callable[[], nn.Module], file: File | None = None) -> nn.Module:
        """The finished model, or that of a checkpoint.

        Raises:
            StateError: its file is missing or altered, or `make_model` builds another model.
        """
        manifest = self.manifest
        schedule = Settings.from_dict(manifest.settings).schedule(self.key)
        model = build(make_model, torch.Generator().manual_seed(schedule.seed("initialisation")))
        if manifest.code["make_model"] != code_digest(make_model, name="make_model") + model_digest(model):
            raise StateError("make_model is not the one that the trace was made with; use the code of the training")
        load_model(model, self.folder.read_state(manifest.final if file is None else file))
        return model

    def expected_steps(self, records: int = 1) -> float:
        """Steps to replay for a request that names `records` present records at random, on average over the key."""
        steps = Settings.from_dict(self.manifest.settings).steps
        uses = checkpoint_placement.first_uses(steps, _starting(self.roster(), len(steps)))
        return checkpoint_placement.expected_steps(uses, self.checkpoints, records=records)

    def roster(self) -> Roster:
        """Who takes part and who was forgotten, by keyed tags; raises `StateError` where it was altered."""
        return Roster.from_bytes(self.folder.read(self.manifest.records))


def cost(trace: Trace, ids: Iterable[str]) -> Cost:
    """What `rewind` would do for these records; nothing is run, and no data are read.

    Raises:
        ValueError: no id, an unknown one, one named twice or forgotten before.
        StateError: manifest or roster is missing or altered.
    """
    return cost_at(trace, trace.manifest, trace.roster(), list_ids(ids))


def cost_at(trace: Trace, manifest: Manifest, roster: Roster, ids: Sequence[str]) -> Cost:
    """`cost`, with manifest and roster at hand."""
    starts = roster.first_epochs[find_present(roster, trace.key, ids)]
    schedule = Settings.from_dict(manifest.settings).schedule(trace.key)
    first = min(schedule.step_of(name, epoch) for name, epoch in zip(ids, starts.tolist(), strict=True))
    return _cost_from(manifest, roster, schedule, first)


def cost_of_tags(trace: Trace, tags: Tags) -> Cost:
    """`cost` of records that take part in a trace, by the tags of their names."""
    manifest, roster = trace.manifest, trace.roster()
    starts = roster.first_epochs[roster.find(tags)]
    schedule = Settings.from_dict(manifest.settings).schedule(trace.key)
    first = min(schedule.step_of_tag(tags[i : i + 1], epoch) for i, epoch in enumerate(starts.tolist()))
    return _cost_from(manifest, roster, schedule, first)


def _cost_from(manifest: Manifest, roster: Roster, schedule: Schedule, first: int) -> Cost:
    """What a replay costs that must begin before step `first`."""
    start = checkpoint_before(manifest, first)
    restored = 0 if start is None else start.step
    starting = _starting(roster, schedule.epochs)
    gradients, taking_part = 0.0, 0
    for (begin, end), joined in zip(pairwise(schedule.starts), starting, strict=True):
        taking_part += joined
        gradients += taking_part * max(0, end - max(begin, restored)) / (end - begin)
    return Cost(
        first_use=first,
        restored=restored,
        total=schedule.total,
        gradients=round(gradients),
        reads="" if start is None else start.name,
    )


def checkpoint_before(manifest: Manifest, first_use: int) -> File | None:
    """The last checkpoint that no step from `first_use` on has touched; None for the initialisation."""
    return max((f for f in manifest.checkpoints if f.step <= first_use), key=lambda f: f.step, default=None)


def list_ids(ids: Iterable[str]) -> list[str]:
    """The ids as a list; raises where one is not a string, none is named, or one twice."""
    if isinstance(ids, str) or not isinstance(ids, Iterable):
        raise TypeError(f"ids must be several names of records, not {_validate.shown(ids)}")
    names = list(ids)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f"ids must be strings as in Examples.ids, not {_validate.shown(name)} of type {type(name).__name__}"
            )
    if not names:
        raise ValueError("ids must name at least one record to forget")
    if len(set(names)) < len(names):
        raise ValueError(f"ids name {next(n for n in names if names.count(n) > 1)!r} twice")
    return names


def find_present(roster: Roster, key: bytes, ids: Sequence[str]) -> NDArray[np.int64]:
    """Where the records stand in the roster; raises `ValueError` unless every one takes part in the trace."""
    tags = name_tags(key, ids)
    found = roster.find(tags)
    for name, place, before in zip(ids, found.tolist(), roster.knows_as_forgotten(tags).tolist(), strict=True):
        if place < 0:
            told = "was forgotten before" if before else "is not in the trace"
            raise ValueError(f"record {name!r} {told}; nothing was changed")
    return found


def train_traced(
    make_model: Callable[[], nn.Module],
    data: Examples,
    *,
    loss: Loss,
    epochs: int,
    steps_per_epoch: int | Sequence[int],
    folder: str | os.PathLike[str],
    recipe: Recipe | None = None,
    augment: Augment | None = None,
    first_epochs: Mapping[str, int] | None = None,
    smallest_batch: int = 1,
    checkpoints: int | Sequence[int] = 8,
    storage: int | None = None,
    request_weights: Sequence[float] | None = None,
    request_size: int = 1,
    key: bytes | None = None,
) -> Trace:
    """Train so that any record can be forgotten later by a replay, exactly as if it had never been there.

    Nothing in the settings may depend on the records that will be forgotten, their number included: `steps_per_epoch` is
    a number that stays when records leave, so it is given and not worked out from the data.

    Args:
        make_model: as in `retrain`; called once, under coins of the key.
        data: with a stable name for every record (`ids`); positions would shift when rows leave.
        loss: `loss(model, batch)` -> scalar, e.g. the mean over the batch.
        epochs: how often every record is used, less the epochs before its first.
        steps_per_epoch: how many batches an epoch is spread over; one number, or one for each epoch.
        folder: of the trace; new, empty, or left by this very call when it was interrupted.
        recipe: optimiser; the one-cycle schedule runs over all steps. Its batch_size is not used.
        augment: `augment(batch, generator) -> batch`, all coins from the generator, which is made anew at every step.
        first_epochs: name -> epoch (0, 1, ...) from which a record takes part, by default 0. It must follow from the
            record itself (its age, its legal basis), never from other records: what is likely to be forgotten comes late.
        smallest_batch: a step with fewer records does nothing; 2 for BatchNorm, which cannot take one.
        checkpoints: how many at most, placed where `expected_steps` is least; or their positions, in steps done.
        storage: bytes that the checkpoints may take together; fewer are kept then.
        request_weights: for each epoch, how likely a request is to name a record that takes part from there on; by
            default every record is equally likely.
        request_size: how many records a request names, for the placement.
        key: secret, 32 bytes, kept by the caller; by default a fresh one is made and kept in the folder.

    Raises:
        OutputError: the folder holds other things, or cannot be written.
        StateError: it holds an interrupted training with other code, data or settings, or another process trains there.
        ModelRefused: the code holds what no digest sees, or keeps state between steps: see `expunge.fingerprint`.
        NonFinite: the loss is NaN or infinite.
    """
    refuse_workers("train_traced")
    _validate.whole(epochs=epochs)
    steps = (steps_per_epoch,) * epochs if isinstance(steps_per_epoch, int) else tuple(steps_per_epoch)
    if len(steps) != epochs:
        raise ValueError(f"steps_per_epoch must hold one number for each of {epochs} epochs, not {len(steps)}")
    settings = Settings(steps=steps, recipe=recipe or Recipe(), smallest_batch=smallest_batch)
    program = Program(make_model=make_model, loss=loss, augment=augment)
    starting = _first_epochs(data, first_epochs or {}, epochs)
    if key is not None:
        check_key(key)
    home = Folder(folder)
    home.create()
    with home.alone():
        home.create()  # once more: another process may have finished meanwhile
        secret = home.keep_key(new_commitment_key()) if key is None else key
        engine = Engine(program, data, starting, settings, secret)
        weights = request_weights or np.bincount(list(starting.values()), minlength=epochs).tolist()
        places = _places(engine, weights, checkpoints, storage, request_size)
        return train_into(home, engine, data, starting, secret, places)


def train_into(
    home: Folder,
    engine: Engine,
    data: Examples,
    first_epochs: Mapping[str, int],
    key: bytes,
    places: Sequence[int],
    *,
    label: str = "train, traced",
) -> Trace:
    """Run the whole training and publish version 0; a trace that this very training finished before is taken as it is."""
    starts = np.asarray([first_epochs[name] for name in data.ids], dtype=np.int64)
    roster = Roster.of(engine.tags, row_digests(key, data), starts)
    if home.has_trace:
        return _same_training(home, engine, roster, key)
    home.create()
    resume = unfinished(home, engine, roster, version=0, start=0, places=places)
    written = engine.run(home, version=0, start=None, save_at=places, resume=resume, label=label)
    publish(home, engine, key, version=0, roster=roster, checkpoints=written)
    return Trace(home.path, key=key)


def _same_training(home: Folder, engine: Engine, roster: Roster, key: bytes) -> Trace:
    """The finished trace in a folder; raises `OutputError` unless it is of this training and nothing was forgotten."""
    trace = Trace(home.path, key=key)
    was = trace.manifest
    found = (was.version, was.settings, was.code, was.machine, was.initial, trace.roster())
    if found != (0, engine.settings.to_dict(), engine.code, engine.machine, engine.initial, roster):
        raise OutputError(f"{home.path} holds another trace and is not overwritten; choose another folder")
    return trace


def unfinished(
    home: Folder, engine: Engine, roster: Roster, *, version: int, start: int, places: Sequence[int]
) -> StateFile:
    """The state file of a run, which no other run can take up."""
    run: dict[str, Any] = {
        "settings": engine.settings.to_dict(),
        "code": engine.code,
        "machine": engine.machine,
        "initial": engine.initial,
        "roster": hashlib.sha256(roster.to_bytes()).hexdigest(),
        "version": version,
        "start": start,
        "checkpoints": list(places),
    }
    return StateFile(home.path / UNFINISHED, run)


def publish(
    home: Folder, engine: Engine, key: bytes, *, version: int, roster: Roster, checkpoints: Sequence[File]
) -> Manifest:
    """Write what is missing, make the new manifest the valid one, and only then delete what the old one named."""
    total = engine.schedule.total
    manifest = Manifest(
        version=version,
        settings=engine.settings.to_dict(),
        code=engine.code,
        machine=engine.machine,
        initial=engine.initial,
        records=home.write(f"v{version}-records.bin", total, roster.to_bytes()),
        checkpoints=tuple(sorted(checkpoints, key=lambda file: file.step)),
        final=home.write_state(f"v{version}-final.pt", total, engine.final_state()),
    )
    (home.path / UNFINISHED).unlink(missing_ok=True)
    home.publish(manifest, key)
    home.tidy(manifest)
    return manifest


def _first_epochs(data: object, given: Mapping[str, int], epochs: int) -> dict[str, int]:
    if not isinstance(data, Examples):
        raise TypeError(f"data must be Examples with ids that stay when rows leave, not {type(data).__name__}")
    starting = dict.fromkeys(data.ids, 0)
    if len(starting) < len(data):
        twice = next(name for name in starting if data.ids.count(name) > 1)
        raise ValueError(f"ids must be distinct; {twice!r} names two records")
    for name, epoch in given.items():
        _validate.whole(least=0, **{f"first_epochs[{name!r}]": epoch})
        if epoch >= epochs:
            raise ValueError(f"first_epochs[{name!r}] must be below {epochs}, the number of epochs, not {epoch}")
        if name in starting:  # names of records that are not in the data are harmless: retraining may pass the same map
            starting[name] = int(epoch)
    return starting


def _places(
    engine: Engine, weights: Sequence[float], checkpoints: int | Sequence[int], storage: int | None, request_size: int
) -> tuple[int, ...]:
    """Numbers of steps done at which checkpoints are taken."""
    total = engine.schedule.total
    if not isinstance(checkpoints, int):
        places = tuple(sorted(set(checkpoints)))
        for place in places:
            _validate.whole(checkpoints=place)
            if place >= total:
                raise ValueError(f"checkpoints must lie between 1 and {total - 1} steps, not at {place}")
        if storage is not None:
            raise ValueError("storage chooses how many checkpoints there are; give a number of them, not positions")
        return places
    _validate.whole(checkpoints=checkpoints, least=0)
    count = checkpoints
    if storage is not None:
        _validate.whole(storage=storage, least=0)
        count = min(count, storage // engine.state_bytes())
        if count < checkpoints:
            _log.info("storage=%d holds %d checkpoints of about %d bytes", storage, count, engine.state_bytes())
    uses = checkpoint_placement.first_uses(engine.schedule.steps, weights)
    return checkpoint_placement.best_checkpoints(uses, count, records=request_size)


def _starting(roster: Roster, epochs: int) -> list[int]:
    """How many present records take part from each epoch on."""
    return np.bincount(roster.first_epochs, minlength=epochs).tolist()
