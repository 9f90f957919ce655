"""Inputs that are not in memory: decoded when they are needed, or written to a temporary file where they are many."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import prod
from typing import Any
from weakref import finalize

import numpy as np
import torch
from torch import Tensor

from lowcurve.errors import RunError

IN_MEMORY = 2**28
"""Bytes of a `Spool` that stay in memory. More of them go to a temporary file."""
HELD = 2**29
"""Bytes of images that are decoded once and stay in memory. More are decoded each time they are used."""


@dataclass(frozen=True, eq=False)
class StoredPixels:
    """Inputs on the disk. They are read each time they are used, so they take no memory.

    Args:
        read: Returns the inputs of some row numbers, shape (rows, ...).
        rows: The row numbers of these inputs.
        one: Shape of one input.
        dtype: Precision of the inputs.
        identity: Returns what changes with the files of some row numbers, without reading the inputs. None reads them.
    """

    read: Callable[[Tensor], Tensor]
    rows: Tensor
    one: tuple[int, ...]
    dtype: torch.dtype
    identity: Callable[[Tensor], bytes] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of all inputs, (N, ...)."""
        return (len(self.rows), *self.one)

    def __getitem__(self, rows: Tensor | slice) -> Tensor:
        """Read some of the inputs."""
        return self.read(self.rows[rows])

    def take(self, rows: Tensor | slice) -> "StoredPixels":
        """Return some of the inputs, unread."""
        return replace(self, rows=self.rows[rows])


def read_or_store(
    read: Callable[[Tensor], Tensor],
    count: int,
    identity: Callable[[Tensor], bytes] | None = None,
    limit: float = HELD,
) -> Tensor | StoredPixels:
    """Return all inputs where they are few; otherwise they are read when they are used.

    Args:
        read: Returns the inputs of some row numbers.
        count: Number of rows.
        identity: See `StoredPixels`.
        limit: Bytes up to which they are few.

    Example:
        >>> read_or_store(lambda rows: rows[:, None] / 2, 3).tolist()
        [[0.0], [0.5], [1.0]]
    """
    every = torch.arange(count)
    first = read(every[:1])
    if count * first[:1].numel() * first.dtype.itemsize <= limit:
        return read(every)
    return StoredPixels(read, every, tuple(first.shape[1:]), first.dtype, identity)


@dataclass
class Spool:
    """Inputs of one shape that arrive in any order: in memory while they are few, otherwise in a temporary file.

    The file has no name and is gone with the process, however that ends.

    Args:
        limit: Bytes that stay in memory.

    Example:
        >>> spool = Spool()
        >>> spool.write(torch.tensor([1]), torch.tensor([[2.0]]))
        >>> spool.write(torch.tensor([0]), torch.tensor([[1.0]]))
        >>> spool.tensor().tolist()
        [[1.0], [2.0]]
    """

    limit: int = IN_MEMORY
    _places: list[Tensor] = field(default_factory=list)
    _held: list[Tensor] = field(default_factory=list)
    _file: Any = None
    _one: tuple[int, ...] = ()
    _dtype: torch.dtype = torch.float32

    def __len__(self) -> int:
        return sum(map(len, self._places))

    def write(self, places: Tensor, values: Tensor) -> None:
        """Add inputs.

        Args:
            places: Their places among all inputs; in the end each from 0 on has been written once.
            values: The inputs, shape (places, ...).

        Raises:
            RunError: If the disk is full.
        """
        self._one, self._dtype = tuple(values.shape[1:]), values.dtype
        self._places.append(places)
        self._held.append(values.contiguous())
        if self._file is not None or len(self) * self._size > self.limit:
            self._empty_memory()

    def pieces(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield places and inputs of each piece that was written."""
        held = self._held if self._file is None else map(self._read, self._places)
        yield from zip(self._places, held, strict=True)

    def tensor(self) -> Tensor:
        """Return all inputs. Those of a file are read from it when they are used."""
        count = len(self)
        if self._file is None:
            whole = torch.empty(count, *self._one, dtype=self._dtype)
            for places, values in self.pieces():
                whole[places] = values
            return whole
        # Copy on write: what a user changes stays in the process.
        content = np.memmap(self._file, np.uint8, "c", shape=(count * self._size,))
        return torch.from_numpy(content).view(self._dtype).view(count, *self._one)

    def pixels(self) -> Tensor | StoredPixels:
        """Return all inputs, as a tensor where they are in memory."""
        if self._file is None:
            return self.tensor()
        return StoredPixels(self._read, torch.arange(len(self)), self._one, self._dtype)

    @property
    def _size(self) -> int:
        return prod(self._one) * self._dtype.itemsize

    def _empty_memory(self) -> None:
        """Move what is in memory to the file."""
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the spool)
                finalize(self, self._file.close)
            for places, values in zip(self._places[-len(self._held) :], self._held, strict=True):
                for start, stop in _runs(places):
                    self._file.seek(int(places[start]) * self._size)
                    self._file.write(values[start:stop].reshape(-1).view(torch.uint8).numpy().data)
            self._file.flush()
        except OSError as error:
            hint = "set TMPDIR to a folder on a larger disk, or keep fewer images"
            reason = (error.strerror or str(error)).lower()
            raise RunError(f"room for images in {tempfile.gettempdir()}", reason, hint) from None
        self._held.clear()

    def _read(self, places: Tensor) -> Tensor:
        found = torch.empty(len(places), *self._one, dtype=self._dtype)
        for start, stop in _runs(places):
            self._file.seek(int(places[start]) * self._size)
            self._file.readinto(found[start:stop].view(-1).view(torch.uint8).numpy().data)
        return found


def _runs(places: Tensor) -> Sequence[tuple[int, int]]:
    """Return start and stop of the runs of consecutive numbers."""
    breaks = (torch.nonzero(places.diff() != 1).flatten() + 1).tolist()
    edges = [0, *breaks, len(places)]
    return [pair for pair in pairwise(edges) if pair[0] < pair[1]]
