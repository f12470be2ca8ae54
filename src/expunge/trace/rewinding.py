"""Forgetting by replay: restore the last checkpoint before the first use, and train on without the forgotten records."""

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import nn

from expunge._workers import refuse_workers
from expunge.accounting import Replay
from expunge.certificate.record import RunRecord
from expunge.data import Examples
from expunge.errors import RunError, StateError
from expunge.trace.engine import Augment, Engine, Program, Settings
from expunge.trace.identity import row_digests
from expunge.trace.roster import Roster
from expunge.trace.schedule import name_tags
from expunge.trace.store import File, Manifest
from expunge.trace.trace import Cost, Trace, checkpoint_before, cost_at, list_ids, publish, unfinished
from expunge.training.loss import Loss
from expunge.training.starts import refuse_rows
from expunge.training.state import StateFile
from expunge.training.unlearned import noiseless_record

__all__ = ["Rewound", "rewind"]

_log = logging.getLogger("expunge")


@dataclass(frozen=True)
class Rewound:
    """What `rewind` returns.

    Args:
        model: with the weights of a training that never saw the forgotten records.
        record: what `issue` needs.
        cost: steps replayed, and of how many.
    """

    model: nn.Module
    record: RunRecord
    cost: Cost


def rewind(
    trace: Trace,
    ids: Iterable[str],
    data: Examples,
    *,
    make_model: Callable[[], nn.Module],
    loss: Loss,
    augment: Augment | None = None,
) -> Rewound:
    """Forget records exactly: the model, and the trace itself, are those of a training without them, bit for bit.

    The new checkpoints are written first, then the manifest changes in one step, then the old checkpoints are deleted:
    they were computed from the forgotten records. Interrupted before the manifest changes, the trace is as it was, and
    the same call goes on where it stopped. Copies of the folder elsewhere, backups and disk blocks are the caller's to
    delete; so are the forgotten rows of the data.

    Args:
        trace: of `train_traced`, or of earlier calls of `rewind`: what was forgotten stays forgotten.
        ids: names of the records to forget.
        data: every record that remains, unchanged, in any order; forgotten ones may be there or not.
        make_model: the training's own.
        loss: the training's own.
        augment: the training's own.

    Raises:
        ValueError: an id is unknown, named twice, or was forgotten before; data lack a record or hold an unknown one.
        StateError: code, data, machine or versions are not those of the training; a file is missing or was altered;
            another process rewinds this trace.
        ModelRefused: the code holds what no digest sees, or keeps state between steps.
        NonFinite: the loss is NaN or infinite.
        OutputError: a file cannot be written.
    """
    refuse_workers("rewind")
    with trace.folder.alone():
        replay = Replaying.prepare(trace, ids, data, Program(make_model=make_model, loss=loss, augment=augment))
        replay.run()
    model = replay.engine.model
    return Rewound(model, noiseless_record(Replay(), model, coverage="ledger"), replay.cost)


@dataclass(frozen=True, kw_only=True)
class Replaying:
    """A replay that was found possible; `run` carries it out. The caller holds the trace's folder, from before to after."""

    trace: Trace
    manifest: Manifest
    roster: Roster
    engine: Engine
    start: File | None
    cost: Cost

    @classmethod
    def prepare(
        cls,
        trace: Trace,
        ids: Iterable[str],
        data: Examples,
        program: Program,
        *,
        rows: Sequence[int] | None = None,
    ) -> "Replaying":
        """Check everything; nothing is changed. `rows` are those of the data that concern this trace, by default all."""
        names = list_ids(ids)
        manifest, roster = trace.manifest, trace.roster()
        cost = cost_at(trace, manifest, roster, names)
        after = roster.without(name_tags(trace.key, names))
        first_epochs = _match_data(data, after, trace.key, rows)
        gone = set(names)
        held = [row for row, name in enumerate(data.ids) if name in gone]
        if held:
            code = (program.make_model, program.loss, program.augment)
            refuse_rows(code, data.take(held), what="loss, make_model or augment")
        engine = Engine(program, data, first_epochs, Settings.from_dict(manifest.settings), trace.key)
        _match_code(manifest, engine)
        start = checkpoint_before(manifest, cost.first_use)
        if start is not None:
            trace.folder.read_state(start)  # refuse a broken checkpoint before anything is written
        return cls(trace=trace, manifest=manifest, roster=after, engine=engine, start=start, cost=cost)

    def run(self, *, label: str = "rewind") -> None:
        """Replay and publish the new version."""
        home, version, restored = self.trace.folder, self.manifest.version + 1, self.cost.restored
        kept = [file for file in self.manifest.checkpoints if file.step <= restored]
        places = [file.step for file in self.manifest.checkpoints if file.step > restored]
        resume = unfinished(home, self.engine, self.roster, version=version, start=restored, places=places)
        _start_over_after_another(resume)
        written = self.engine.run(home, version=version, start=self.start, save_at=places, resume=resume, label=label)
        if self.trace.manifest.version != self.manifest.version:
            raise RunError("another rewind of this trace finished meanwhile; its result stands, repeat this one")
        publish(home, self.engine, self.trace.key, version=version, roster=self.roster, checkpoints=[*kept, *written])


def _match_data(data: object, roster: Roster, key: bytes, rows: Sequence[int] | None) -> dict[str, int]:
    """Name -> first epoch of the records that remain; raises where the data are not those of the training."""
    if not isinstance(data, Examples):
        raise TypeError(f"data must be Examples with the ids of the training, not {type(data).__name__}")
    asked = np.arange(len(data)) if rows is None else np.asarray(rows, dtype=np.int64)
    tags = name_tags(key, [data.ids[row] for row in asked.tolist()])
    places = roster.find(tags)
    for row in asked[(places < 0) & ~roster.knows_as_forgotten(tags)].tolist():
        raise ValueError(f"data hold record {data.ids[row]!r}, which the trace does not know; nothing was changed")
    stay, places = asked[places >= 0], places[places >= 0]
    if len(np.unique(places)) < len(places):
        raise ValueError("ids of the data must be distinct")
    if len(places) < len(roster):
        missing = len(roster) - len(places)
        raise ValueError(f"data lack {missing} of the {len(roster)} records that remain; nothing was changed")
    if len(stay):
        for row in stay[row_digests(key, data.take(stay)) != roster.digests[places]].tolist():
            raise StateError(f"record {data.ids[row]!r} is not what it was in the training: its content changed")
    starts = roster.first_epochs[places].tolist()
    return {data.ids[row]: epoch for row, epoch in zip(stay.tolist(), starts, strict=True)}


def _match_code(manifest: Manifest, engine: Engine) -> None:
    """Raise `StateError` unless code and machine are the training's."""
    for name, was in manifest.machine.items():
        if engine.machine.get(name) != was:
            raise StateError(
                f"the trace was made with {name} {was!r}, this is {engine.machine.get(name)!r}: the bits would differ. "
                "Replay where it was made (torch.set_num_threads for threads), or train again"
            )
    for name, was in manifest.code.items():
        if engine.code[name] != was:
            raise StateError(f"{name} is not the one that the trace was made with; use the code of the training")
    if engine.initial != manifest.initial:
        raise StateError(
            "make_model gives other initial weights than in the training; it must depend on torch's coins alone"
        )


def _start_over_after_another(resume: StateFile) -> None:
    """Drop what another request's replay left when it was interrupted: that request was never carried out."""
    try:
        resume.load()
    except StateError:
        _log.warning(
            "an interrupted replay of another request is dropped; forget its records by a request of their own"
        )
        resume.delete()
