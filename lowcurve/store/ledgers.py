"""Finished pieces of an unfinished evaluation on disk, one file a piece."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from lowcurve.store.checkpoints import DiskCheckpoint
from lowcurve.store.files import DIGESTS, remove_folder_checked


@dataclass(frozen=True)
class DiskLedger:
    """Finished pieces of an evaluation by name, each in a file of its own, so that several processes write side by side.

    Pieces of an evaluation with another key count as missing and are deleted when a new piece is saved.

    Args:
        folder: Folder of the pieces.
        key: Description of the evaluation.
        writes: If False, the ledger stays as it is.
        digests: Folder above that also holds the files' digests. None for the folder itself.
    """

    folder: Path
    key: str
    writes: bool = True
    digests: Path | None = None

    def keys(self) -> list[str]:
        """Return the names of the finished pieces."""
        return sorted(path.stem for path in self._own.glob("*.pt"))

    def get(self, piece: str) -> Any:
        """Return the finished piece of a name, or None."""
        return self._file(piece).load_if_ours()

    def __setitem__(self, piece: str, columns: Any) -> None:
        if not self.writes:
            return
        for other in self.folder.glob("*/"):
            if other not in (self._own, self.folder / DIGESTS):
                remove_folder_checked(self.digests or self.folder, other)
        self._file(piece).save(columns)

    def remove(self) -> None:
        """Delete all pieces."""
        if self.writes:
            remove_folder_checked(self.digests or self.folder, self.folder)

    @property
    def _own(self) -> Path:
        """The folder of the key's pieces."""
        return self.folder / sha256(self.key.encode()).hexdigest()[:16]

    def _file(self, piece: str) -> DiskCheckpoint:
        return DiskCheckpoint(self._own / f"{piece}.pt", self.key, self.writes, self.digests or self.folder)
