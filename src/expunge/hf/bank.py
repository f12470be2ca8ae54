"""A bank of LoRA adapters on shards of persons: whoever leaves costs the retraining of a few stages of one shard."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from expunge import _validate
from expunge.certificate.digests import weights_digest
from expunge.data import Examples
from expunge.errors import RunError, StateError
from expunge.hf.base import PublicBase
from expunge.hf.losses import causal_loss, check_loss
from expunge.hf.making import AdapterMaker, plain_config
from expunge.hf.release import released, save_new
from expunge.hf.serving import AdapterMixture, Mode, Serving
from expunge.recovery import Recipe
from expunge.trace import Shards, ShardsCost, train_shards
from expunge.trace.engine import Program
from expunge.trace.schedule import hex_of, name_tags
from expunge.trace.shards import shard_key
from expunge.trace.store import read_sealed, write_sealed
from expunge.trace.trace import cost_of_tags, list_ids
from expunge.training.loss import Loss
from expunge.training.task import Task
from expunge.training.unlearned import Unlearned

__all__ = ["RECIPE", "AdapterBank", "refuse_other_rows", "train_adapters"]

_SCHEMA = "expunge.adapters/1"
_BANK = "bank.json"
RECIPE = Recipe(optimizer="adamw", learning_rate=2e-3, weight_decay=0.0, max_grad_norm=1.0)


def train_adapters(
    base: str | os.PathLike[str] | PublicBase,
    rows: Examples,
    config: Any,
    *,
    shards: int,
    steps_per_epoch: int,
    folder: str | os.PathLike[str],
    slices: int = 4,
    epochs_per_slice: int = 1,
    recipe: Recipe = RECIPE,
    loss: Loss = causal_loss,
    serving: Mode = "mixture",
    prior: float = 0.5,
    temperature: float = 1.0,
    key: bytes | None = None,
) -> "AdapterBank":
    """Train one LoRA adapter on each of several shards, slice by slice, so that a person can be forgotten cheaply.

    Where the rows have owners (`examples(person=...)`) all rows of one lie in one slice of one shard. Every stage has a
    one-cycle learning rate of its own. Checkpoints hold an adapter and its optimiser; the base is known by its digest.

    Args:
        base: the folder of a public checkpoint.
        rows: from `examples`.
        config: a `peft.LoraConfig`.
        shards: how many adapters.
        steps_per_epoch: steps of one shard's last stage. It is given, and not worked out from the rows: their number must not
            decide it, as the training without some of them must have as many.
        folder: new, empty, or left by this very call when it was interrupted; private.
        slices: of each shard.
        epochs_per_slice: passes of each stage.
        recipe: optimiser and peak learning rate.
        loss: `loss(model, batch)`; not the mean over all tokens of a batch.
        serving: see `Serving.mode`.
        prior: likewise.
        temperature: likewise.
        key: secret, 32 bytes, kept by the caller; by default a fresh one is made and kept in the folder.

    Raises:
        TypeError: rows that are no `Examples`, a base that is no folder, or another configuration than LoRA's.
        ValueError: a configuration or a loss that is refused by name, or a shard without a row.
        WeightsMismatch, ModelRefused: the base is not, bit for bit, its checkpoint.
        OutputError, StateError, NonFinite: as `expunge.trace.train_shards`.
    """
    refuse_other_rows(rows)
    check_loss(loss)
    maker = AdapterMaker(
        PublicBase.of(base), plain_config(config), Serving(mode=serving, prior=prior, temperature=temperature)
    )
    by = "id" if rows.groups is None else "group"
    trained = train_shards(
        maker, rows, loss=loss, shards=shards, steps_per_epoch=steps_per_epoch, folder=folder, slices=slices,
        epochs_per_slice=epochs_per_slice, recipe=recipe, own_schedules=True, by=by, key=key,
    )  # fmt: skip
    plain = {"schema": _SCHEMA, "config": dict(maker.config), "base": maker.base.digest, "serving": vars(maker.serving)}
    write_sealed(trained.folder / _BANK, plain | {"owners": _owners(trained, rows)}, trained.key)
    return AdapterBank(folder, base=maker.base, loss=loss, key=key)


class AdapterBank:
    """Trained adapters in their folder, which is private as a trace is.

    Args:
        folder: of `train_adapters`.
        base: the folder of the public checkpoint.
        loss: that it was trained with.
        key: where it was given to `train_adapters`.

    Raises:
        StateError: there is no finished bank, something was altered, or the key is another.
        TypeError: a base that is no folder. Its bits are compared where it is loaded.

    Attributes:
        shards: the traces beneath.
        maker: builds a base with a fresh adapter: `make_model` of the bank's task.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | PublicBase,
        loss: Loss = causal_loss,
        key: bytes | None = None,
    ) -> None:
        self.shards = Shards(folder, key=key)
        plain = read_sealed(self.shards.folder / _BANK, self.shards.key)
        if plain["schema"] != _SCHEMA:
            raise StateError(f"{self.shards.folder / _BANK} has another schema than {_SCHEMA!r}")
        known = PublicBase.known(base, plain["base"])
        self.maker = AdapterMaker(known, plain["config"], Serving(**plain["serving"]))
        self.loss = loss
        self._owners: dict[str, list[Any]] = plain["owners"]

    def model(self, serving: Mode | None = None) -> AdapterMixture:
        """The adapters as they serve now, on one base: none that a withdrawn row has reached.

        A shard in which rows are withdrawn is served by its adapter from before their slice; one whose first slice they lie in is left out.

        Args:
            serving: another way to answer than the bank's.

        Raises:
            WeightsMismatch, ModelRefused: the base is not, bit for bit, that of the training.
            StateError: something of the folder is missing or was altered.
        """
        how = self.maker.serving if serving is None else replace(self.maker.serving, mode=serving)
        found = self.shards.model(replace(self.maker, serving=how))
        assert isinstance(found, AdapterMixture)
        return found

    def task(self, rows: Examples, **fields: Any) -> Task:
        """The bank as a task of `plan`, `unlearn` and the other verbs, with `Replaying(trace=bank.shards.folder)`.

        Args:
            rows: all that it was trained on.
            fields: others of `Task`.
        """
        return Task(model=self.model(), data=rows, loss=self.loss, make_model=self.maker, **fields)

    def cost(self, person: str | int | None = None, *, ids: Iterable[str] | None = None) -> ShardsCost:
        """What `forget` would do; nothing is run.

        Args:
            person: an owner of rows.
            ids: names of rows, in the place of a person.

        Raises:
            ValueError: neither or both, or whoever has no rows in the bank, or was forgotten before.
        """
        if person is None:
            return self.shards.cost(_one_of(person, ids))
        _one_of(person, ids)
        shard, tags = self._present(person)
        return ShardsCost(hit={shard: cost_of_tags(self.shards.traces[shard], tags)}, total=self.shards.plan.total)

    def withdraw(self, person: str | int | None = None, *, ids: Iterable[str] | None = None) -> dict[int, int]:
        """Serve at once what the rows have never reached: the last slice before theirs; `forget` still has to follow.

        Models that were made before are the caller's to drop.

        Args:
            person: an owner of rows.
            ids: names of rows, in the place of a person.

        Returns:
            Shard -> slices that it still serves, of all shards with something withdrawn; 0 where it is left out.

        Raises:
            ValueError: as of `cost`.
        """
        if person is None:
            return self.shards.withdraw(_one_of(person, ids))
        _one_of(person, ids)
        self.shards.withdraw_tags(*self._present(person))
        return self.shards.withdrawn()

    def forget(self, person: str | int | None = None, *, rows: Examples, ids: Iterable[str] | None = None) -> Unlearned:
        """Forget exactly: retrain what the rows have reached; the bank is then that of a training without them, bit for bit.

        Args:
            person: an owner of rows.
            rows: at least those that remain in the shards that are hit, unchanged, and the ones to be forgotten.
            ids: names of rows, in the place of a person.

        Returns:
            The model that serves now, with the record. `save(folder)` writes PEFT's folders and `certificate.json`.

        Raises:
            ValueError: as of `cost`; or `rows` lack some.
            WeightsMismatch, StateError, NonFinite, OutputError: as `expunge.trace.rewind`.
        """
        refuse_other_rows(rows)
        names = list_ids(_one_of(person, ids)) if person is None else self._rows_of(person, rows)
        cost = self.shards.replay(names, rows, Program(make_model=self.maker, loss=self.loss))
        model = self.model()
        record = replace(self.shards.record(self.maker, model), procedure=self._procedure())
        told = {"steps": cost.steps, "total": cost.total, "fraction": cost.fraction, "before": False}

        def save(out: Path) -> Any:
            self.shards.refuse_withdrawn()
            if weights_digest(self.model()) != weights_digest(model):
                raise RunError(
                    "the bank has changed since: what was made then still holds what was forgotten later. Save what the last `forget` returned"
                )
            return released(model, record, names, out)

        return Unlearned(model, record, notes={"replayed": told}, saver=save)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the adapters that serve now into a new folder, each as PEFT does, without a certificate.

        Raises:
            OutputError: the folder exists, or cannot be written.
        """
        save_new(self.model(), Path(folder))

    def _procedure(self) -> dict[str, Any]:
        settings = self.shards.traces[0].manifest.settings
        return {"training": {"epochs": len(settings["steps"]), "recipe": dict(settings["recipe"])}}

    def _present(self, person: str | int) -> tuple[int, Any]:
        """A person's shard and the tags of the rows that are still there."""
        if self.shards.plan.by == "id":
            raise ValueError("the bank has no persons: its rows had no owners (examples(person=...)); give ids=")
        found = self._owners.get(_tags(self.shards.key, [str(person)])[0])
        if found is None:
            raise ValueError(f"person {person!r} has no rows in the bank; nothing was changed")
        shard, digits = found
        roster = self.shards.traces[shard].roster()
        tags = _tags_of(digits)
        here = tags[roster.find(tags) >= 0]
        if not len(here):
            raise ValueError(f"person {person!r} was forgotten before; nothing was changed")
        return shard, here

    def _rows_of(self, person: str | int, rows: Examples) -> list[str]:
        shard, tags = self._present(person)
        owners = rows.groups or []
        names = [name for name, owner in zip(rows.ids, owners, strict=False) if owner == str(person)]
        own = name_tags(shard_key(self.shards.key, shard), names)
        left = {*hex_of(tags)} - {*hex_of(own)} if names else {*hex_of(tags)}
        if left:
            raise ValueError(
                f"rows lack {len(left)} of {len(tags)} rows of person {person!r}: give them too, under the names of the training"
            )
        present = {*hex_of(tags)}
        return [name for name, tag in zip(names, hex_of(own), strict=True) if tag in present]


def _owners(trained: Shards, rows: Examples) -> dict[str, list[Any]]:
    """Tag of each owner -> shard, and the tags of the rows; empty where rows have none."""
    if rows.groups is None:
        return {}
    found: dict[str, list[Any]] = {}
    for shard, places in enumerate(trained.plan.rows(trained.key, rows.groups)):
        tags = hex_of(name_tags(shard_key(trained.key, shard), [rows.ids[row] for row in places]))
        owners = _tags(trained.key, [rows.groups[row] for row in places])
        for owner, tag in zip(owners, tags, strict=True):
            found.setdefault(owner, [shard, []])[1].append(tag)
    return found


def _tags(key: bytes, names: Sequence[str]) -> list[str]:
    """Keyed tags of persons, or of rows without any."""
    return hex_of(name_tags(key, names))


def _tags_of(digits: Sequence[str]) -> Any:
    import numpy as np

    return np.frombuffer(bytes.fromhex("".join(digits)), dtype="S16")


def _one_of(person: object, ids: Iterable[str] | None) -> Iterable[str]:
    if (person is None) == (ids is None):
        raise ValueError("name a person, or rows by ids=, and one of the two")
    return ids or ()


def refuse_other_rows(rows: object) -> None:
    """Raise `TypeError` unless rows are `Examples` with the fields of `examples`, and ids."""
    if isinstance(rows, Examples):
        if set(rows.fields) >= {"input_ids", "attention_mask", "labels"} and rows.named:
            return
        raise TypeError(
            f"rows must have fields input_ids, attention_mask and labels, and ids, as ex.hf.examples makes them, not {_validate.shown(rows.fields)}"
        )
    raise TypeError(
        f"rows must be Examples: ex.hf.examples(dataset, tokenizer, ...) makes them, not {type(rows).__name__}"
    )
