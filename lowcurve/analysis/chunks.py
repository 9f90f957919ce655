"""Split long work into chunks that fit into memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from lowcurve.errors import InputError
from lowcurve.network_calls import is_memory_error
from lowcurve.types import Progress, silent

log = logging.getLogger("lowcurve")
T = TypeVar("T")


def in_chunks(
    function: Callable[[slice], T], count: int, size: int, *, progress: Progress[int] = silent, heading: str = "parts"
) -> list[T]:
    """Call function(0:size), function(size:2 size), ... up to `count`, and halve the size whenever memory is exhausted.

    A halved size stays, and finished chunks are kept. Running out of memory for a single item, and every other error of the
    function, passes through.

    Args:
        function: Computes the items of a slice.
        count: Number of items.
        size: Number of items per call at first.
        progress: Progress display. It advances once per item.
        heading: Heading of the progress display.

    Returns:
        The results of the calls in their order.

    Raises:
        InputError: If `size` is less than 1.

    Example:
        >>> in_chunks(lambda part: list(range(5))[part], count=5, size=2)
        [[0, 1], [2, 3], [4]]
    """
    if size < 1:
        raise InputError("a chunk size of at least 1", size, "write chunk=128")
    results: list[T] = []
    done = 0
    for number in progress(range(count), heading):
        while number == done:
            part = slice(done, min(done + size, count))
            try:
                results.append(function(part))
                done = part.stop
            except (RuntimeError, MemoryError) as error:
                if part.stop - part.start == 1 or not is_memory_error(error):
                    raise
                size = (part.stop - part.start + 1) // 2
            if done < part.stop:  # outside `except`, which keeps the frames and all their tensors alive
                log.warning("not enough memory for %d at once; going on with %d", part.stop - part.start, size)
                _release_memory()
    return results


def _release_memory() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.empty_cache()
