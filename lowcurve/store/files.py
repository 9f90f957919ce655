"""Write files completely or not at all, each with a digest, with every disk error as one sentence."""

import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from hashlib import file_digest, sha256
from pathlib import Path

from lowcurve.errors import InputError, RunError

DIGESTS = ".digests"
"""Folder of a run with the digests of each of its files."""
VERSIONS = 4
"""Number of digests that are kept of one file. A killed write leaves the file that an earlier digest belongs to."""
PART = re.compile(r"\..+\.(\d+)\.part")
"""Name of a file that the process of that number is writing."""
ABANDONED = 3600.0
"""Seconds after which such a file is deleted although a process has its number: another one, by now."""


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into a `RunError` that names `path`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = "free some disk space or choose another --out; files written before are complete"
        raise RunError(f"to be able to write {path}", reason.lower(), hint) from None


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn an `OSError` of the block into an `InputError` that names `path`. A missing file passes through."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        reason, hint = (error.strerror or str(error)).lower(), "check the permissions of the file and its folders"
        raise InputError(f"to be able to read {path}", reason, hint) from None


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


def make_folder(path: Path) -> Path:
    """Make a folder and those above it, unless they exist, and return its path."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return path


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file completely or not at all and return its path."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def write_checked(root: Path, name: str, content: bytes) -> Path:
    """Write a file of a run with its digest, which `require_unchanged` compares, and return its path.

    Args:
        root: Directory of the run.
        name: Path of the file in it.
        content: Its content.
    """
    # The digest comes first and the earlier ones stay: a kill in between leaves the old file, whose digest is known.
    digests = [sha256(content).hexdigest(), *_digests(root, name)][:VERSIONS]
    write_bytes(_digest_path(root, name), "\n".join(digests).encode())
    return write_bytes(root / name, content)


def require_unchanged(root: Path, name: str, hint: str, what: str = "") -> None:
    """Refuse a file of a run that is not as it was written. A file without a digest, as of older versions, passes.

    Args:
        root: Directory of the run.
        name: Path of the file in it.
        hint: What to do if it is damaged.
        what: What the file holds, for the error. Default: its path.

    Raises:
        InputError: If the file is damaged, was edited or cannot be read.
    """
    known, path = _digests(root, name), root / name
    if not known:
        return
    with reading(path), path.open("rb") as file:
        found = file_digest(file, "sha256").hexdigest()
    if found not in known:
        raise InputError(f"{what or path} as it was written", "other bytes (the file is damaged or was edited)", hint)


def remove_checked(root: Path, name: str) -> None:
    """Delete a file of a run, if it exists, and its digests.

    Args:
        root: Directory of the run.
        name: Path of the file in it.
    """
    for path in (root / name, _digest_path(root, name)):
        with suppress(FileNotFoundError):
            path.unlink()


def remove_folder_checked(root: Path, folder: Path) -> None:
    """Delete a folder, if it exists, and the digests of its files.

    Args:
        root: Directory of the run, or the folder itself.
        folder: The folder.
    """
    for path in (folder, root / DIGESTS / folder.relative_to(root)):
        shutil.rmtree(path, ignore_errors=True)


def remove_abandoned_parts(folder: Path) -> None:
    """Delete what killed processes left of files that they were writing, in a folder and below it.

    Args:
        folder: Directory of a run.
    """
    for path in folder.rglob(".*.part"):
        found = PART.fullmatch(path.name)
        with suppress(OSError):
            if found and (not _is_other_process(int(found[1])) or time.time() - path.stat().st_mtime > ABANDONED):
                path.unlink()


def _digest_path(root: Path, name: str) -> Path:
    """Return where the digests of a file are. The suffix keeps them apart from files that are searched by their own."""
    return root / DIGESTS / f"{name}.sha256"


def _digests(root: Path, name: str) -> list[str]:
    path = _digest_path(root, name)
    try:
        with reading(path):
            return path.read_text("ascii", "replace").split()
    except FileNotFoundError:
        return []


def _is_other_process(number: int) -> bool:
    """Return whether another process of this number runs. This process is not writing when it asks."""
    try:
        os.kill(number, 0)
    except PermissionError:
        return True
    except (OSError, OverflowError):
        return False
    return number != os.getpid()
