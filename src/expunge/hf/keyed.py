"""One adapter for each owner, behind an exact look-up: dropping an owner's adapter is the whole deletion."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from expunge._files import write_new
from expunge.accounting import Replay
from expunge.certificate import Certificate, issue
from expunge.certificate.digests import TensorInfo, digest_tensors
from expunge.certificate.record import NO_NOISE, RunRecord
from expunge.data import Examples, commit, new_commitment_key
from expunge.errors import OutputError, StateError
from expunge.hf.bank import RECIPE, refuse_other_rows
from expunge.hf.base import PublicBase
from expunge.hf.losses import causal_loss, check_loss
from expunge.hf.making import AdapterMaker, plain_config
from expunge.hf.release import save_adapters
from expunge.hf.serving import AdapterMixture, Serving
from expunge.jobs.folder import keys_in, refuse_existing, working_folder
from expunge.recovery import Recipe
from expunge.trace import train_traced
from expunge.trace.schedule import check_key, keyed
from expunge.trace.store import Folder, read_sealed, write_sealed
from expunge.training.loss import Loss
from expunge.training.randomness import environment
from expunge.training.tensors import tensor_infos

__all__ = ["KeyedAdapters", "keyed_adapters"]

_SCHEMA, _INDEX, _ADAPTERS, _WORK = "expunge.keyed/1", "keyed.json", "adapters", "unfinished"
_FILE = "adapter_model.safetensors"


def keyed_adapters(
    base: str | os.PathLike[str] | PublicBase,
    rows: Examples,
    config: Any,
    *,
    folder: str | os.PathLike[str],
    steps: int,
    epochs: int = 1,
    recipe: Recipe | None = None,
    loss: Loss = causal_loss,
    router: str = "key",
    key: bytes | None = None,
) -> "KeyedAdapters":
    """Train one adapter for each owner of rows, each on that owner's rows and coins alone.

    Args:
        base: the folder of a public checkpoint.
        rows: from `examples(person=...)`; a tenant or customer is a person too.
        config: a `peft.LoraConfig`.
        folder: new or empty; private.
        steps: of each epoch of an owner's training; it must not follow from the rows.
        epochs: passes.
        recipe: optimiser and peak learning rate.
        loss: as for `train_adapters`.
        router: "key": an owner's questions come with the owner's name. No other is taken.
        key: secret, 32 bytes; by default a fresh one is kept in the folder.

    Raises:
        ValueError: rows without owners, or a router that is not a key: one that compares questions sends those of a deleted owner
            to the adapters of others.
        OutputError: the folder holds something.
        TypeError, WeightsMismatch, ModelRefused, NonFinite: as for `train_adapters`.
    """
    if router != "key":
        raise ValueError(
            f"router={router!r} is no key: a router that compares questions has learned from the owners, and sends a deleted owner's "
            "questions to those who remain. Give router='key', and ask with the owner's name"
        )
    refuse_other_rows(rows)
    check_loss(loss)
    if rows.groups is None:
        raise ValueError("rows have no owners: ex.hf.examples(..., person=COLUMN)")
    maker = AdapterMaker(PublicBase.of(base), plain_config(config))
    home = Path(folder)
    try:
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = sorted(entry.name for entry in home.iterdir())
    except OSError as error:
        raise OutputError(f"cannot use the folder {home}: {error.strerror or error}") from error
    if held:
        raise OutputError(f"{home} holds other files (e.g. {held[0]!r}); choose an empty folder")
    secret = Folder(home).keep_key(new_commitment_key()) if key is None else key
    check_key(secret)
    adapters: dict[str, Any] = {}
    for owner in sorted(set(rows.groups), key=lambda name: _place(secret, name)):
        own = rows.take([row for row, name in enumerate(rows.groups) if name == owner])
        model = train_traced(
            maker, own, loss=loss, epochs=epochs, steps_per_epoch=steps, folder=home / _WORK, recipe=recipe or RECIPE,
            checkpoints=0, key=keyed(secret, "owner", owner.encode()),
        )  # fmt: skip
        state = {"model": model.folder.read_state(model.manifest.final)["model"]}
        shutil.rmtree(home / _WORK)
        adapters[_place(secret, owner)] = _saved(maker, state, home, _place(secret, owner))
    procedure = {"training": {"epochs": epochs, "recipe": (recipe or RECIPE).to_dict()}}
    plain = {"schema": _SCHEMA, "config": dict(maker.config), "base": maker.base.digest, "procedure": procedure}
    write_sealed(home / _INDEX, plain | {"stated": dict(maker.stated), "adapters": adapters}, secret)
    return KeyedAdapters(home, base=maker.base, key=key)


class KeyedAdapters:
    """Adapters of owners in their folder, which holds `adapters/`, one PEFT folder for each, and a sealed index.

    Args:
        folder: of `keyed_adapters`.
        base: the folder of the public checkpoint.
        key: where it was given to `keyed_adapters`.

    Raises:
        StateError: the index is missing, altered, or sealed by another key.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        base: str | os.PathLike[str] | PublicBase,
        key: bytes | None = None,
    ) -> None:
        self.folder = Path(folder)
        kept = Folder(folder).key() if key is None else key
        if kept is None:
            raise StateError(f"{self.folder} holds no key; pass key=, the one given to keyed_adapters")
        self.key = kept
        self._base = base
        _ = self._index()

    def __len__(self) -> int:
        return len(self._index()["adapters"])

    def __contains__(self, owner: object) -> bool:
        return _place(self.key, str(owner)) in self._index()["adapters"]

    def model(self, owner: str | int) -> AdapterMixture:
        """What answers an owner's questions: the owner's adapter, or the public base alone for whoever has none.

        Raises:
            WeightsMismatch, ModelRefused: the base is not, bit for bit, that of the training.
            StateError: the adapter is not what it was.
        """
        index, place = self._index(), _place(self.key, str(owner))
        known = PublicBase.known(self._base, index["base"])
        maker = AdapterMaker(known, index["config"], Serving(mode="mean_p"))
        if place not in index["adapters"]:
            return maker.joined({})
        tensors = load_file(self.folder / _ADAPTERS / place / _FILE)
        if _told(tensors) != index["adapters"][place]:
            raise StateError(f"{self.folder / _ADAPTERS / place / _FILE} is not what the index says")
        return maker.joined({place: tensors})

    def forget(self, owner: str | int, *, out: str | os.PathLike[str] | None = None) -> Certificate:
        """Delete an owner's adapter; the bundle is then, byte for byte, that of owners among whom this one never was.

        It removes an owner, not a fact: what others' rows also say, their adapters go on saying.

        Args:
            owner: whose.
            out: a new folder for the certificate and, in `<out>.secret`, the key of its commitment; nothing is written without.

        Raises:
            ValueError: the owner has no adapter, or is the last one.
            OutputError: `out` exists, or a file cannot be written.
        """
        index, place = self._index(), _place(self.key, str(owner))
        if place not in index["adapters"]:
            raise ValueError(f"owner {owner!r} has no adapter; nothing was changed")
        left = {name: told for name, told in index["adapters"].items() if name != place}
        if not left:
            raise ValueError(f"owner {owner!r} is the last one: delete the folder")
        if out is not None:
            refuse_existing(Path(out))
        secret = new_commitment_key()
        record = _record(left, index)
        certificate = issue(record, released=record.certified, commitments={"forget": commit([str(owner)], key=secret)})
        write_sealed(self.folder / _INDEX, index | {"adapters": left}, self.key)
        shutil.rmtree(self.folder / _ADAPTERS / place)
        if out is not None:
            with working_folder(Path(out), resume=False) as work:
                certificate.save(work / "certificate.json")
                write_new(keys_in(work) / "commitment.key", secret.hex().encode() + b"\n", private=True)
        return certificate

    def bundle(self) -> Path:
        """The folder that is handed out: adapters alone, under names that tell nothing without the key; `verify` takes it as weights."""
        return self.folder / _ADAPTERS

    def _index(self) -> dict[str, Any]:
        plain = read_sealed(self.folder / _INDEX, self.key)
        if plain.get("schema") != _SCHEMA:
            raise StateError(f"{self.folder / _INDEX} has another schema than {_SCHEMA!r}")
        self._tidy(plain["adapters"])
        return plain

    def _tidy(self, adapters: Mapping[str, Any]) -> None:
        """Delete what a call that was cut off left: an adapter that the index no longer names."""
        for entry in (self.folder / _ADAPTERS).iterdir():
            if entry.name not in adapters:
                shutil.rmtree(entry)


def _place(key: bytes, owner: str) -> str:
    """The folder of an owner's adapter."""
    return keyed(key, "owner's adapter", owner.encode()).hex()[:32]


def _saved(maker: AdapterMaker, state: Mapping[str, Any], home: Path, place: str) -> list[Any]:
    """Write a finished adapter; returns what the index says of it."""
    factors = {".".join(part for part in name.split(".") if part != "default"): p for name, p in state["model"].items()}
    model = maker.joined({place: factors})
    (home / _ADAPTERS).mkdir(exist_ok=True)
    save_adapters(model, home / _ADAPTERS)
    return _told(factors)


def _told(tensors: Mapping[str, Any]) -> list[Any]:
    """Name, type, shape, bytes and digest of each tensor, JSON-ready."""
    return [[t.name, t.dtype, list(t.shape), t.nbytes, t.digest.hex()] for t in sorted(tensor_infos(tensors))]


def _record(adapters: Mapping[str, list[Any]], index: Mapping[str, Any]) -> RunRecord:
    """The record of a bundle, from its index: no adapter is read."""
    tensors = [
        TensorInfo(f"{place}.{name}", dtype, tuple(shape), nbytes, bytes.fromhex(digest))
        for place, told in adapters.items()
        for name, dtype, shape, nbytes, digest in told
    ]
    kinds = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    return RunRecord(
        mechanism=Replay(shards=len(adapters)), steps_done=0, noise=NO_NOISE,
        layers=tuple((t.name, t.size) for t in tensors), weights_dtype=kinds[tensors[0].dtype], center="zero",
        buffers="none", public=(), certified=digest_tensors(tensors),
        environment={**environment(torch.device("cpu")), **index["stated"], "serving": "key", "removes": "an owner, not a fact"},
        coverage="ledger", procedure=index["procedure"],
    )  # fmt: skip
