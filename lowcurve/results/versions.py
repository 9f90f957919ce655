"""Which code made a result: the package's version with a fingerprint of its sources."""

from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

PACKAGE = Path(__file__).parents[1]
SHOWS = ("cli", "report")
"""Rooms that compute nothing."""
MEASURES = (*SHOWS, "results", "geometry", "experiments/papers", "experiments/views")
"""Rooms that no training goes through; what an item of a paper asks of one stands in its settings."""


@lru_cache
def code_version() -> str:
    """The code of every number: VERSION+FINGERPRINT, which any change of a source but for `cli` and `report` changes.

    Example:
        >>> code_version().split("+")[0] == version("lowcurve")
        True
    """
    return f"{version('lowcurve')}+{fingerprint(PACKAGE, SHOWS)}"


@lru_cache
def training_version() -> str:
    """The code of every network: the same without the rooms that measure and draw, whose changes train nothing anew.

    Example:
        >>> training_version() == code_version()
        False
    """
    return f"{version('lowcurve')}+{fingerprint(PACKAGE, MEASURES)}"


def fingerprint(package: Path, without: Sequence[str]) -> str:
    """Ten hexadecimal digits of a package's sources but for those in some of its folders; the same on any machine."""
    found = sha256()
    for path in sorted(path for path in package.rglob("*") if path.suffix in (".py", ".c")):
        name = path.relative_to(package).as_posix()
        if not name.startswith(tuple(f"{room}/" for room in without)):
            found.update(f"{name}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return found.hexdigest()[:10]
