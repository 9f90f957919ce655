"""Much work in parts that fit into memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from lowcurve.errors import InputError
from lowcurve.types import Progress, silent

log = logging.getLogger("lowcurve")
T = TypeVar("T")
WORDS = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch says on the CPU under Linux, under Windows, and on accelerators; on most of them in a bare RuntimeError."""


def in_chunks(
    function: Callable[[slice], T], count: int, size: int, *, progress: Progress[int] = silent, heading: str = "parts"
) -> list[T]:
    """function(0:size), function(size:2 size), ... up to `count`, in a list; the size halves whenever memory does not suffice.

    size: at first. A halved size stays; what was done is kept. progress: ticks once for each of the `count`.
    Errors: lack of memory for a single one, and every other error of the function.

    Example:
        >>> in_chunks(lambda part: list(range(5))[part], count=5, size=2)
        [[0, 1], [2, 3], [4]]
    """
    if size < 1:
        raise InputError("parts of at least one", size, "write chunk=128")
    results: list[T] = []
    done = 0
    for number in progress(range(count), heading):
        while number == done:
            part = slice(done, min(done + size, count))
            try:
                results.append(function(part))
                done = part.stop
            except (RuntimeError, MemoryError) as error:
                if part.stop - part.start == 1 or not _for_want_of_memory(error):
                    raise
                size = (part.stop - part.start + 1) // 2
            if done < part.stop:  # outside `except`, which holds on to the frames and all their tensors
                log.warning("not enough memory for %d at once; going on with %d", part.stop - part.start, size)
                _release()
    return results


def _for_want_of_memory(error: Exception) -> bool:
    known = isinstance(error, MemoryError | torch.OutOfMemoryError)
    return known or any(words in str(error).lower() for words in WORDS)


def _release() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
