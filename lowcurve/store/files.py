"""Writing: every file whole or not at all, every refusal of the disk in one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowcurve.errors import InputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "free some room or choose another --out; what was written before is whole"
        raise InputError(f"to be able to write {path}", reason.lower(), hint) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, moved over it at the end; on any error `path` stays as it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            with suppress(OSError):
                beside.unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """The content at `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)
    return path
