"""Checkpoints of a training on disk."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lowcurve.errors import InputError
from lowcurve.store.files import remove_checked, require_unchanged, write_checked
from lowcurve.store.weight_files import read_state


@dataclass(frozen=True)
class DiskCheckpoint:
    """The state of a training on disk, deleted once the training is done.

    Args:
        path: File of the state.
        key: Description of the training. A state saved under another key belongs to another training.
        writes: If False, `save` and `remove` do nothing.
        digests: Folder above the file that also holds its digest. None for the folder of the file.
    """

    path: Path
    key: str
    writes: bool = True
    digests: Path | None = None

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state on disk."""
        if not self.writes:
            return
        # Serialized in memory first, since torch's own writer reports a full disk without the reason.
        content = io.BytesIO()
        torch.save({"lowcurve checkpoint": 1, "key": self.key, "state": dict(state)}, content)
        write_checked(*self._place, content.getvalue())

    def load(self) -> dict[str, Any] | None:
        """Return the state, or None if there is none.

        Raises:
            InputError: If the file holds the state of another training or something else.
        """
        content = self._read()
        if content is None:
            return None
        if content["key"] != self.key:
            raise InputError("a checkpoint of this training", "one with other settings", self._hint)
        state: dict[str, Any] = content["state"]
        return state

    def load_if_ours(self) -> dict[str, Any] | None:
        """Return the state, or None if there is none or it has another key."""
        content = self._read()
        return None if content is None or content["key"] != self.key else dict(content["state"])

    def remove(self) -> None:
        """Delete the state."""
        if self.writes:
            remove_checked(*self._place)

    @property
    def _place(self) -> tuple[Path, str]:
        root = self.digests or self.path.parent
        return root, self.path.relative_to(root).as_posix()

    @property
    def _hint(self) -> str:
        return f"delete {self.path} to start again"

    def _read(self) -> dict[str, Any] | None:
        if not self.path.is_file():
            return None
        require_unchanged(*self._place, self._hint)
        content = read_state(self.path)
        shape = {"lowcurve checkpoint": int, "key": str, "state": dict}
        if not isinstance(content, dict) or not all(isinstance(content.get(k), kind) for k, kind in shape.items()):
            raise InputError("a checkpoint of lowcurve", f"another file at {self.path}", self._hint)
        return content
