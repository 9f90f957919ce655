"""Finished pieces of an unfinished evaluation on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowcurve.store.checkpoints import DiskCheckpoint


@dataclass(frozen=True)
class DiskLedger:
    """Finished pieces of an evaluation by name, in one file.

    Pieces of an evaluation with another key count as missing and are deleted when the first new piece is saved.

    Args:
        path: File of the pieces.
        key: Description of the evaluation.
        writes: If False, the ledger stays as it is.
        digests: Folder above the file that also holds its digest. None for the folder of the file.
    """

    path: Path
    key: str
    writes: bool = True
    digests: Path | None = None

    def get(self, piece: str) -> Any:
        """Return the finished piece of a name, or None."""
        return self._pieces().get(piece)

    def __setitem__(self, piece: str, columns: Any) -> None:
        self._file.save({**self._pieces(), piece: columns})

    def remove(self) -> None:
        """Delete all pieces."""
        self._file.remove()

    @property
    def _file(self) -> DiskCheckpoint:
        return DiskCheckpoint(self.path, self.key, self.writes, self.digests)

    def _pieces(self) -> dict[str, Any]:
        return self._file.load_if_ours() or {}
