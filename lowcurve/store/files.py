"""Write files completely or not at all, with every disk error as one sentence."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lowcurve.errors import InputError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "free some disk space or choose another --out; files written before are complete"
        raise InputError(f"to be able to write {path}", reason.lower(), hint) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path to write to and move it over `path` at the end; on any error `path` is unchanged."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            with suppress(OSError):
                temporary.unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file completely or not at all and return its path."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path
