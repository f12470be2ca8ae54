"""Commands about keyed commitments in certificates."""

from pathlib import Path
from typing import Annotated

from expunge.certificate import Certificate, verify
from expunge.certificate.commitments import open_ids, read_ids, read_key
from expunge.cli.application import Option
from expunge.cli.parameters import Json
from expunge.cli.tables import print_json
from expunge.cli.terminal import say

__all__ = ["open_"]


def open_(
    certificate: Path,
    key: Annotated[Path, Option(help="The key: OUT.secret/keys/commitment.key, beside the folder that unlearn made.")],
    ids: Annotated[Path | None, Option(help="The ids: one a line, or a list in a .json file.")] = None,
    task: Annotated[str | None, Option(help="A task whose forget set it is; needs torch.")] = None,
    name: Annotated[str, Option(help="Which commitment of the certificate.")] = "forget",
    weights: Annotated[
        Path | None, Option(help="The released weights, which a claim about behaviour is proven from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that a certificate's commitment is to exactly these ids or rows. Exit code 1 where it is not."""
    if (ids is None) is (task is None):
        raise ValueError("give either --ids, a file of ids, or --task, whose forget set is committed to")
    loaded = Certificate.load(certificate)
    verify(loaded, weights=weights)
    held: dict[str, str] = loaded.content["commitments"]
    if name not in held:
        raise ValueError(f"name={name!r}: the certificate holds {', '.join(map(repr, held)) or 'no commitment'}")
    secret = read_key(key)
    if ids is not None:
        open_ids(held[name], read_ids(ids), key=secret)
    else:
        from expunge.data import open_commitment
        from expunge.training.task import load_task

        open_commitment(held[name], load_task(str(task)).forget, key=secret)
    if as_json:
        print_json({"opened": True, "name": name})
    else:
        say(f"opened: the commitment '{name}' is to exactly these rows", style="green")
