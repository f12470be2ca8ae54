"""Earlier releases from the same original model, beside a new one: whoever holds both holds more than either tells.

Nothing in a certificate shows its original: a digest of the trained weights would let a reader test guesses of them. It stays
in the secret folder, out.secret/original.digest, where the next job beside it finds it.
"""

import logging
from pathlib import Path

from torch import nn

from expunge._files import write_new
from expunge.accounting import Kind
from expunge.certificate.digests import weights_digest
from expunge.certificate.record import RunRecord
from expunge.unlearners.working import SECRET, keys_in

__all__ = ["tell_of_earlier"]

_log = logging.getLogger("expunge")
_NOTE = "original.digest"


def tell_of_earlier(work: Path, original: nn.Module, record: RunRecord) -> tuple[str, ...]:
    """Note which original a release answers for, and warn of earlier ones for the same in folders beside it.

    Args:
        work: the working folder, beside the folders of earlier jobs.
        original: the trained model of the task.
        record: of the run. One that is not noisy adds nothing to what others tell.

    Returns:
        The names of the folders of earlier releases.
    """
    if record.mechanism.kind is not Kind.EPSILON_DELTA:
        return ()
    digest = weights_digest(original) + "\n"
    notes = sorted(work.absolute().parent.glob(f"*.{SECRET}/{_NOTE}"))
    found = tuple(note.parent.name.removesuffix(f".{SECRET}") for note in notes if note.read_text() == digest)
    write_new(keys_in(work).parent / _NOTE, digest.encode(), private=True)
    if found:
        _log.warning(
            "%s answered for the same original model as this release: of data that both forget, whoever holds both knows more than "
            "either certificate says. See 'expunge compose', or start later requests from the model released last",
            ", ".join(found),
        )
    return found
