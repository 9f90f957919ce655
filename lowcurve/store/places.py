"""The place of a new run."""

import time
from pathlib import Path

from lowcurve.errors import InputError
from lowcurve.store.files import DIGESTS, PART, writing
from lowcurve.store.locks import LOCK

RECIPE = "recipe.json"
"""File in which a run keeps its recipe. It is written before the settings."""


def new_place(folder: str | Path | None, name: str) -> Path:
    """Return the path for a new run: `folder`, or runs/NAME-DATE-TIME. Creates nothing.

    Raises:
        InputError: If the directory exists and is not empty.
    """
    place = Path(folder) if folder else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with writing(place):
        if place.exists() and (not place.is_dir() or not is_unused(place)):
            hint = f"choose another --out, or go on with it by --resume {place}"
            raise InputError("a new or empty directory for the run", str(place), hint)
    return place


def is_unused(place: Path) -> bool:
    """Return whether a directory holds nothing but what a command leaves that is killed before it writes the settings.

    Args:
        place: The directory.
    """
    names = [path.name for path in place.iterdir()]
    return all(name in (LOCK, DIGESTS, RECIPE) or PART.fullmatch(name) for name in names)
