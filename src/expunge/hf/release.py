"""Folders of adapters that PEFT loads, with a certificate of them."""

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from expunge.certificate import Certificate, issue
from expunge.certificate.record import RunRecord
from expunge.data import commit, new_commitment_key
from expunge.errors import OutputError
from expunge.hf.serving import AdapterMixture
from expunge.jobs.folder import keys_in, refuse_existing, working_folder

__all__ = ["released", "save_adapters"]


def save_adapters(model: AdapterMixture, folder: Path) -> None:
    """Write each adapter into a folder of its name, as PEFT does: `adapter_model.safetensors` and `adapter_config.json`."""
    for name, config in model.peft_config.items():
        own = folder / name
        own.mkdir()
        tensors = {key: p.detach().cpu().contiguous() for key, p in model.adapter(name).items()}
        save_file(tensors, own / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(own)


def save_new(model: AdapterMixture, folder: Path) -> None:
    """The same into a new folder, whole or not at all.

    Raises:
        OutputError: it exists, or cannot be written.
    """
    refuse_existing(folder)
    work = folder.with_name(f"{folder.name}.partial")
    try:
        work.mkdir()
        save_adapters(model, work)
        work.replace(folder)
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def released(model: AdapterMixture, record: RunRecord, ids: Sequence[str], out: Path) -> Certificate:
    """Write adapters and their certificate into a new folder, the key of its commitment into `<folder>.secret`.

    Args:
        model: that serves.
        record: of the run.
        ids: of the forgotten rows.
        out: the folder.

    Raises:
        OutputError: it exists, or cannot be written.
        RunError: the record does not prove what it should.
    """
    with working_folder(out, resume=False) as work:
        save_adapters(model, work)
        commitments = {"forget": commit(list(ids), key=new_commitment_key(keys_in(work) / "commitment.key"))}
        certificate: Any = issue(record, released=work, commitments=commitments)
        certificate.save(work / "certificate.json")
    return certificate
