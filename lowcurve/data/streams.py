"""Labeled images that are read in order, a part at a time: from data sets, loaders and iterables of any kind.

Rows are numbered from 0 in the order of the data. Several workers share them row by row, so each gets the same share of any
data, however long. A data set is read by row, so each worker reads its own rows only; of what can only be iterated, each
worker reads all and uses its own.
"""

from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset

from lowcurve.data.examples import Examples, spread_rows
from lowcurve.data.labels import as_labels, require_classes
from lowcurve.data.pictures import image_tensor
from lowcurve.errors import InputError
from lowcurve.randomness import SeparateDraws

IMAGE_NAMES = ("image", "img", "images", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "target")
BLOCK = 64
"""Rows of a data set that are read at once."""
Part = tuple[Tensor, Examples]
"""Row numbers, and the examples of these rows."""


@dataclass(frozen=True)
class Own:
    """The rows of one of several workers: `first`, `first + step`, and so on, without those that are finished.

    Args:
        first: Number of the worker, which is its first row.
        step: Number of workers.
        finished: Rows that are left out, shape (K,).

    Example:
        >>> Own(1, 3, torch.tensor([4])).among(torch.arange(9)).tolist()
        [1, 7]
    """

    first: int = 0
    step: int = 1
    finished: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))

    def among(self, rows: Tensor) -> Tensor:
        """Return the worker's rows among these."""
        rows = rows[rows % self.step == self.first]
        return rows[~torch.isin(rows, self.finished)] if len(self.finished) else rows


class Stream:
    """Labeled images that are read when they are needed, and not kept.

    Args:
        data: A torch `Dataset`, `IterableDataset` or `DataLoader`, a streaming data set of Hugging Face, a list, or any
            iterable of (image, label), of mappings with an image and a label, or of batches of them.
        classes: Names of the classes. By default those of the data set, or the numbers.

    Random transforms and shuffling loaders give the same examples each time. For this, the global random states of torch,
    Python and numpy are set: before each row of a data set, otherwise before the first item. All of them are restored.
    """

    def __init__(self, data: Any, classes: Sequence[str] | None = None) -> None:
        self.data, self.classes = data, classes or _class_names(data)
        by_row = isinstance(data, Dataset) or hasattr(data, "flatten_indices") or isinstance(data, list | tuple)
        self._by_row = by_row and not isinstance(data, IterableDataset) and isinstance(data, Sized)
        self._batched = isinstance(data, DataLoader) and data.batch_sampler is not None
        self._draws = SeparateDraws(0, "data")
        self._read: list[Any] = []  # by `first`, and not yet by `parts`
        self._opened: Iterator[Any] | None = None
        self._shape: tuple[int, ...] | None = None
        self._pictures = True  # all images so far are Pillow's
        if isinstance(data, DataLoader) and isinstance(data.sampler, DistributedSampler):
            hint = "leave the sampler out: the processes share the images by themselves"
            raise InputError("the same data in every process", "a DataLoader with a DistributedSampler", hint)

    @property
    def count(self) -> int | None:
        """Number of rows, None if it is not known before they are read."""
        return len(self.data) if self._by_row else None

    def first(self, count: int) -> Examples:
        """Return the first rows, or all if there are fewer."""
        if self._by_row:
            return self._examples(self._rows(torch.arange(min(count, len(self.data)))))
        self._opened = self._opened or self._open()
        while sum(map(self._size, self._read)) < count and (few := self._next(self._opened, 1)):
            self._read += few
        return self._examples([self._tensors(item) for item in self._read]).take(slice(count))

    def spread(self, count: int) -> Examples:
        """Return up to `count` rows: evenly spaced ones of a data set, the first ones of what can only be iterated."""
        if not self._by_row or len(self.data) <= count:
            return self.first(count)
        return self._examples(self._rows(spread_rows(len(self.data), count)))

    def parts(self, own: Own, size: int) -> Iterator[Part]:
        """Yield the worker's rows in parts of `size`. The last part may be smaller.

        Args:
            own: The worker's rows.
            size: Rows of a part.

        Raises:
            InputError: If an item is no labeled image, or if images differ in shape.
        """
        numbers, pieces = torch.zeros(0, dtype=torch.int64), []
        for rows, x, y in self._pieces(own):
            numbers = torch.cat([numbers, rows])
            pieces.append((x, y))
            while len(numbers) >= size:
                part = self._examples(pieces)
                yield numbers[:size], part.take(slice(size))
                numbers, rest = numbers[size:], part.take(slice(size, None))
                pieces = [(rest.x[:], rest.y)] if len(rest) else []
                del part, rest
        if len(numbers):
            yield numbers, self._examples(pieces)

    def _pieces(self, own: Own) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield rows, images and labels, as they are read."""
        if self._by_row:
            for rows in own.among(torch.arange(len(self.data))).split(BLOCK):  # type: ignore[no-untyped-call]
                for row, (x, y) in zip(rows, self._rows(rows), strict=True):
                    yield row[None], x, y
            return
        if self._opened is None:
            if isinstance(self.data, Iterator) and self._shape is not None:
                hint = "give a list, a Dataset or a DataLoader"
                raise InputError("data that can be read twice", "an iterator that is at its end", hint)
            self._opened = self._open()
        read, self._read = self._read, []
        opened, self._opened = self._opened, None
        count = 0
        for item in chain(read, self._rest(opened)):
            rows = torch.arange(count, count + self._size(item))
            count += len(rows)
            mine = own.among(rows)
            if len(mine):
                x, y = self._tensors(item)
                yield mine, x[mine - rows[0]], y[mine - rows[0]]

    # --- items of what can only be iterated

    def _open(self) -> Iterator[Any]:
        self._draws = SeparateDraws(0, "data")
        with self._draws.resume():
            return iter(self.data)

    def _next(self, opened: Iterator[Any], count: int) -> list[Any]:
        with self._draws.resume():
            return list(islice(opened, count))

    def _rest(self, opened: Iterator[Any]) -> Iterator[Any]:
        while items := self._next(opened, 1 if self._batched else 16):
            yield from items

    def _size(self, item: Any) -> int:
        image, label = pair_of(item)
        return len(label) if self._is_batch(image, label) else 1

    def _is_batch(self, image: Any, label: Any) -> bool:
        """Return whether an item is a batch: those of a loader are, and images of four axes with as many labels."""
        return self._batched or (
            getattr(image, "ndim", 0) == 4 and isinstance(label, Sized) and len(image) == len(label)
        )

    # --- rows of a data set

    def _rows(self, rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        with self._draws.resume():
            for row in rows.tolist():
                self._draws.restart(row)  # so that an image does not depend on the worker that reads it
                found.append(self._tensors(self.data[row]))
        return found

    # --- images and labels

    def _tensors(self, item: Any) -> tuple[Tensor, Tensor]:
        """Return images and labels of an item, with one row each unless the item is a batch."""
        image, label = pair_of(item)
        if self._is_batch(image, label):
            several = isinstance(image, list | tuple)
            return torch.stack([image_tensor(one) for one in image]) if several else image_tensor(image), as_labels(
                label
            )
        self._pictures = self._pictures and isinstance(image, Image.Image)
        return image_tensor(image)[None], as_labels([label])

    def _examples(self, pieces: Sequence[tuple[Tensor, Tensor]]) -> Examples:
        if not pieces:
            return Examples(torch.zeros(0, 1), torch.zeros(0, dtype=torch.int64), tuple(self.classes or ("0",)))
        shapes = [tuple(x.shape[1:]) for x, _ in pieces]
        self._shape = self._shape or max(shapes, key=lambda shape: shape[:1] if self._pictures else ())
        if self._pictures and self._shape[0] == 3:  # grey pictures among colored ones
            pieces = [(x.expand(-1, 3, -1, -1) if x.shape[1] == 1 else x, y) for x, y in pieces]
        for x, _ in pieces:
            if tuple(x.shape[1:]) != self._shape:
                hint = "resize and crop them in the data set's transform, all grey or all colored"
                raise InputError("images of one shape", f"{self._shape} and {tuple(x.shape[1:])}", hint)
        x, y = (torch.cat(column).cpu().detach() for column in zip(*pieces, strict=True))
        return Examples(x, y, names_of(y, self.classes))


def pair_of(item: Any) -> tuple[Any, Any]:
    """Return image and label of an item.

    Args:
        item: (image, label), or a mapping with an image and a label.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(item, Mapping):
        found = [next((item[name] for name in names if name in item), None) for names in (IMAGE_NAMES, LABEL_NAMES)]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    elif isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    received = f"a dictionary of {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
    raise InputError("(image, label) from the data set", received, "give images and labels as two arrays instead")


def names_of(y: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers where there are no names for all labels.

    Args:
        y: Class numbers.
        classes: The names, if they are known.
    """
    if classes is None:
        require_classes(y)
    count = max(len(classes or ()), int(y.max()) + 1 if len(y) else 1)
    return tuple(classes) if classes is not None and len(classes) == count else tuple(map(str, range(count)))


def parts_of(data: Examples | Stream, own: Own, size: int) -> Iterator[Part]:
    """Yield the worker's rows of examples or of a stream in parts of `size`; see `Stream.parts`.

    Example:
        >>> examples = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), ("a",))
        >>> [rows.tolist() for rows, _ in parts_of(examples, Own(0, 2), 2)]
        [[0, 2], [4]]
    """
    if isinstance(data, Stream):
        yield from data.parts(own, size)
        return
    mine = own.among(torch.arange(len(data)))
    for rows in mine.split(size) if len(mine) else ():  # type: ignore[no-untyped-call]
        yield rows, data.take(rows).held()


def first_of(data: Examples | Stream, count: int) -> Examples:
    """Return the first rows of examples or of a stream, in memory."""
    return data.first(count) if isinstance(data, Stream) else data.take(slice(count)).held()


def spread_of(data: Examples | Stream, count: int) -> Examples:
    """Return all examples that are in memory, and up to `count` of others; see `Stream.spread`."""
    if isinstance(data, Stream):
        return data.spread(count)
    if isinstance(data.x, Tensor) or len(data) <= count:
        return data.held()
    return data.take(spread_rows(len(data), count)).held()


def count_of(data: Examples | Stream) -> int | None:
    """Return the number of rows, None if it is not known before they are read."""
    return data.count if isinstance(data, Stream) else len(data)


def _class_names(data: Any) -> Sequence[str] | None:
    while hasattr(data, "dataset"):  # of a DataLoader, and of a Subset in it
        data = data.dataset
    names: Any = getattr(data, "classes", None)
    if names is None and isinstance(getattr(data, "features", None), Mapping):
        names = next(
            (getattr(data.features[name], "names", None) for name in LABEL_NAMES if name in data.features), None
        )
    return names if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None
