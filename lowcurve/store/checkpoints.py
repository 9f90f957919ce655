"""The state of work under way, on disk."""

import io
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowcurve.errors import InputError
from lowcurve.store.files import write_bytes
from lowcurve.store.weights import read_state


@dataclass(frozen=True)
class DiskCheckpoint:
    """The state of a training on disk; gone once the training is done."""

    path: Path
    key: str

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state on disk."""
        # Through memory, since torch's own writer has no words for a full disk.
        content = io.BytesIO()
        torch.save({"lowcurve checkpoint": 1, "key": self.key, "state": dict(state)}, content)
        write_bytes(self.path, content.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is none; a file that is not this training's is refused."""
        content = self._read()
        if content is None:
            return None
        if content["key"] != self.key:
            raise InputError("a checkpoint of this very training", "one with other settings", self._mend)
        state: dict[str, Any] = content["state"]
        return state

    def load_if_ours(self) -> dict[str, Any] | None:
        """The state, or None where there is none or it belongs to other settings."""
        content = self._read()
        return None if content is None or content["key"] != self.key else dict(content["state"])

    @property
    def _mend(self) -> str:
        return f"delete {self.path} to begin anew"

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        content = read_state(self.path)
        if not isinstance(content, dict) or "lowcurve checkpoint" not in content:
            raise InputError("a checkpoint of lowcurve", f"another file at {self.path}", self._mend)
        return content

    def remove(self) -> None:
        """Forget the state."""
        with suppress(FileNotFoundError):
            self.path.unlink()
