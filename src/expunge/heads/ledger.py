"""Which rows an exact head holds, and what they held: as keyed digests."""

from expunge.heads.packed import DIGEST, Bytes, PackedDigests
from expunge.heads.rows import Rows

__all__ = ["Ledger"]


class Ledger(PackedDigests):
    """Records (digest of the id, digest of id and content) of the rows learned and not forgotten; see `RowDigests.records`."""

    def __init__(self) -> None:
        super().__init__(DIGEST)
        self._struck = PackedDigests()

    @property
    def struck(self) -> int:
        """Ids forgotten since this was made, and not learned again. In memory alone: a file tells nothing of them."""
        return len(self._struck)

    def enter(self, records: Bytes) -> None:
        """Rows are learned."""
        self.add(records)
        if len(self._struck):
            self._struck.remove(records)

    def strike(self, records: Bytes) -> None:
        """Rows are forgotten."""
        self.remove(records)
        self._struck.add(records[:, :DIGEST])

    def refuse_known(self, rows: Rows, records: Bytes) -> None:
        """Raises ValueError where an id is learned already."""
        known = self.found(records)
        if bool(known.any()):
            name = rows.names[int(known.argmax())]
            raise ValueError(f"ids: {name!r} is learned already; forget it first to learn it anew")

    def refuse_other(self, rows: Rows, records: Bytes) -> None:
        """Raises ValueError where a row is not learned, or was learned with another content."""
        if len(records) == 1 and self.holds(records[0]):
            return
        other = (self.values(records) != records[:, DIGEST:]).any(1)
        if not bool(other.any()):
            return
        first = int(other.argmax())
        if not bool(self.found(records[first : first + 1])[0]):
            raise ValueError(
                f"ids: {rows.names[first]!r} was never learned, or is forgotten already; nothing was forgotten"
            )
        raise ValueError(
            f"ids: {rows.names[first]!r} was learned with another X or Y, and subtracting this one would spoil the sums; "
            "give the row exactly as it was learned; nothing was forgotten"
        )
