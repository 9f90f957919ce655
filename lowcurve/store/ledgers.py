"""What an attack under way has finished, on disk."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lowcurve.store.checkpoints import DiskCheckpoint


@dataclass(frozen=True)
class DiskLedger:
    """Finished pieces of an evaluation by name, one file; those of other settings are forgotten at the first new piece."""

    path: Path
    key: str

    def get(self, piece: str) -> Any:
        """The finished piece of that name, or None."""
        return self._pieces().get(piece)

    def __setitem__(self, piece: str, columns: Any) -> None:
        self._file.save({**self._pieces(), piece: columns})

    def remove(self) -> None:
        """Forget everything."""
        self._file.remove()

    @property
    def _file(self) -> DiskCheckpoint:
        return DiskCheckpoint(self.path, self.key)

    def _pieces(self) -> dict[str, Any]:
        return self._file.load_if_ours() or {}
