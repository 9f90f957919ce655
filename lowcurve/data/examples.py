"""Examples: inputs with labels, the rows they come from, and the parts of a data set."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import sha256

import torch
from torch import Tensor

from lowcurve.data.stored import StoredPixels
from lowcurve.errors import InputError
from lowcurve.network_calls import without_inference

Rows = Tensor | slice | Sequence[int]
CHUNK = 1024
SAMPLED = 4096
"""Images by which `DataSet.statistics` knows data that is not in memory."""


@dataclass(frozen=True, eq=False)
class Origin:
    """The rows of a data set that examples come from.

    Args:
        rows: Their numbers in one part of the data set, counted from 0.
        total: Number of examples of that part.
        seed: Seed by which they were drawn.
    """

    rows: Tensor
    total: int
    seed: int = 0

    def describe(self, part: str) -> str:
        """Say in words which examples these are.

        Args:
            part: Name of the part.

        Example:
            >>> Origin(torch.arange(5), 5).describe("test"), Origin(torch.arange(3), 5).describe("test")
            ('all 5 of the test set', 'the first 3 of the test set')
            >>> Origin(torch.tensor([4, 0]), 5, seed=1).describe("test")
            'a random 2 of the test set, seed 1'
        """
        count = len(self.rows)
        if torch.equal(self.rows, torch.arange(count)):
            return f"{'all' if count == self.total else 'the first'} {count} of the {part} set"
        return f"a random {count} of the {part} set, seed {self.seed}"


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs with labels.

    Args:
        x: Inputs, shape (N, ...). They are uint8, where 0 to 255 stand for 0 to 1, or floating point in [0, 1]. Of large
            data sets they are `StoredPixels`, which are checked when they are read.
        y: Labels, shape (N,), int64, indices into `classes`.
        classes: Names of the classes.
        origin: The rows of a data set that they come from, as `load` notes them. None if unknown.

    Raises:
        InputError: If inputs or labels are not of this form.

    Example:
        >>> pair = Examples(torch.tensor([[0, 255], [51, 0]], dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
        >>> pair.shape, len(pair), pair.pixels([1]).tolist()
        ((2,), 2, [[0.20000000298023224, 0.0]])
    """

    x: Tensor | StoredPixels
    y: Tensor
    classes: tuple[str, ...]
    origin: Origin | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", without_inference(self.y))
        _check_labels(self.y, len(self.classes))
        if isinstance(self.x, Tensor):
            check_pixels(self.x)
        if len(self.x) != len(self.y):
            alone = len(self.y) == 1 and len(self.shape) == 2
            hint = "write x[None] for a single image" if alone else "give x and y of one length"
            raise InputError("one label for each input", f"{len(self.y)} for {len(self.x)}", hint)

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width) for images, (2,) for points of the plane."""
        return tuple(self.x.shape[1:])

    def __repr__(self) -> str:
        return f"{len(self)} examples of shape {self.shape} in {len(self.classes)} classes"

    def take(self, rows: Rows) -> "Examples":
        """Return the examples of these rows, in this order."""
        rows = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)
        origin = self.origin and replace(self.origin, rows=self.origin.rows[rows])
        x = self.x[rows] if isinstance(self.x, Tensor) else self.x.take(rows)
        return Examples(x, self.y[rows], self.classes, origin)

    def held(self) -> "Examples":
        """Return the same examples in memory."""
        return self if isinstance(self.x, Tensor) else replace(self, x=self.x[:])

    def name_classes(self, count: int) -> "Examples":
        """Return the same examples with a name for each of `count` logits; those beyond the classes are called "class 10".

        Example:
            >>> Examples(torch.zeros(1, 2), torch.tensor([0]), ("a", "b")).name_classes(3).classes
            ('a', 'b', 'class 2')
        """
        return replace(self, classes=(*self.classes, *(f"class {k}" for k in range(len(self.classes), count))))

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with the inputs, the labels, their order and the names of the classes.

        Of images in files that are not in memory, they change with the encoded images, or with size and time of the files.

        Example:
            >>> part = Examples(torch.tensor([[0.0], [1.0]]), torch.tensor([0, 1]), ("a", "b"))
            >>> part.digest == part.take([0, 1]).digest, part.digest == part.take([1, 0]).digest
            (True, False)
        """
        found = sha256(repr((self.x.dtype, tuple(self.x.shape), self.classes)).encode())
        if isinstance(self.x, StoredPixels) and self.x.identity is not None:
            found.update(self.x.identity(self.x.rows))
        else:
            for start in range(0, len(self), CHUNK):
                found.update(self.x[start : start + CHUNK].reshape(-1).view(torch.uint8).numpy().data)
        found.update(self.y.reshape(-1).view(torch.uint8).numpy().data)
        return found.hexdigest()[:16]

    def describe(self, part: str) -> str:
        """Say in words which examples of a part of a data set these are, such as "the first 100 of the test set"."""
        return f"{len(self)} of the {part} set" if self.origin is None else self.origin.describe(part)

    @property
    def numbers(self) -> Tensor:
        """The row of each example in its part of the data set, or among these examples if that is unknown."""
        return torch.arange(len(self)) if self.origin is None else self.origin.rows

    def pixels(self, rows: Rows) -> Tensor:
        """Return the inputs of these rows as float32 in [0, 1], always as a copy."""
        chosen = self.x[rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)]
        if not isinstance(self.x, Tensor):
            check_pixels(chosen)
        return as_pixels(chosen, torch.float32)


def count_repeated(first: Examples, second: Examples) -> int:
    """Return how many images of the second part are, byte for byte, among those of the first.

    Example:
        >>> part = Examples(torch.tensor([[0.5], [1.0]]), torch.tensor([0, 0]), ("a",))
        >>> count_repeated(part, part.take([1])), count_repeated(part.take([0]), part.take([1]))
        (1, 0)
    """
    known = set(_digests(first))
    return sum(digest in known for digest in _digests(second))


def _digests(examples: Examples) -> Iterator[bytes]:
    for start in range(0, len(examples), CHUNK):
        yield from (sha256(image.numpy().tobytes()).digest() for image in examples.x[start : start + CHUNK])


def spread_rows(total: int, count: int) -> Tensor:
    """Return `count` evenly spaced rows of `total`: where rows are sorted by class, some of every class.

    Example:
        >>> spread_rows(10, 4).tolist()
        [0, 3, 6, 9]
    """
    return torch.linspace(0, total - 1, count, dtype=torch.float64).round().long()


def as_pixels(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy in this precision; bytes are grey levels and become numbers in [0, 1].

    The copy has ordinary strides. Images of one channel may have others and still count as contiguous.

    Example:
        >>> as_pixels(torch.tensor([51], dtype=torch.uint8), torch.float32)
        tensor([0.2000])
    """
    copy = images.to(dtype, copy=True, memory_format=torch.contiguous_format)
    return copy.div_(255) if images.dtype == torch.uint8 else copy


@dataclass(frozen=True, eq=False, repr=False)
class DataSet:
    """Training, validation and test examples.

    Args:
        name: Name of the data set.
        train: Training examples.
        validation: Examples to select settings by. They may be empty.
        test: Examples to report on.
        note: Origin of the examples and how they were split, in one sentence.

    Raises:
        InputError: If the training or the test part is empty, or if the parts differ in shape or classes.
    """

    name: str
    train: Examples
    validation: Examples
    test: Examples
    note: str

    def __post_init__(self) -> None:
        parts = (self.train, self.validation, self.test)
        if not len(self.train) or not len(self.test):
            sizes = f"{len(self.train)} and {len(self.test)}"
            raise InputError("examples to train on and to test on", sizes, "give at least one of each")
        if len({(part.shape, part.classes) for part in parts}) > 1:
            shapes = ", ".join(f"{part.shape} with {len(part.classes)} classes" for part in parts)
            raise InputError("one shape and the same classes in every part", shapes, "prepare all parts alike")

    def __repr__(self) -> str:
        sizes = f"{len(self.train)} training, {len(self.validation)} validation and {len(self.test)} test examples"
        return f"{self.name}: {sizes} of shape {self.shape} in {len(self.classes)} classes. {self.note}"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes, by label."""
        return self.train.classes

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and standard deviation of the training pixels, per channel for images and per coordinate for points.

        Of images that are not in memory, 4,096 evenly spaced ones are taken.

        Example:
            >>> part = Examples(torch.tensor([[0.0, 0.25], [1.0, 0.75]]), torch.tensor([0, 1]), ("a", "b"))
            >>> DataSet("pair", part, part, part, "Two points.").statistics()
            ((0.5, 0.5), (0.5, 0.25))
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        total, square, count = torch.zeros(()), torch.zeros(()), 0
        train = self.train
        if not isinstance(train.x, Tensor):
            train = train.take(spread_rows(len(train), min(len(train), SAMPLED)))
        for start in range(0, len(train), CHUNK):
            x = train.pixels(slice(start, start + CHUNK))
            values = x.double().flatten(2) if x.ndim > 2 else x.double().unsqueeze(-1)
            total, square = total + values.sum((0, 2)), square + values.square().sum((0, 2))
            count += values.shape[0] * values.shape[2]
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        return tuple(mean.tolist()), tuple(deviation.tolist())


def _check_labels(y: Tensor, classes: int) -> None:
    if y.ndim != 1 or y.dtype != torch.int64:
        raise InputError(
            "labels y [N] of type int64", f"{y.dtype} {list(y.shape)}", "convert them with y.flatten().long()"
        )
    outside = y[(y < 0) | (y >= classes)]
    if len(outside):
        hint = "name every class, and leave out examples without a label"
        raise InputError(f"labels from 0 to {classes - 1} for {classes} classes", int(outside[0]), hint)


def check_pixels(x: Tensor) -> None:
    """Refuse inputs that are no pixels: whole numbers, values outside [0, 1], NaN, or images with the channels last.

    Args:
        x: Inputs, shape (N, ...).

    Raises:
        InputError: If they are not uint8 or floating point in [0, 1].
    """
    if x.ndim == 4 and x.shape[3] in (1, 3) and min(x.shape[1:3]) > 4:
        hint = "write images.transpose(0, 3, 1, 2), or images.permute(0, 3, 1, 2) for a tensor"
        raise InputError("images with the channels first", f"images of shape {tuple(x.shape)}", hint)
    if x.ndim < 2 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        hint = "give images as uint8, or divide by 255"
        raise InputError("inputs x [N, ...] as uint8 or floating point", f"{x.dtype} {list(x.shape)}", hint)
    if not x.is_floating_point() or not x.numel():
        return
    low, high = float(x.min()), float(x.max())  # the extremes are NaN where any entry is
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise InputError("finite pixels", "NaN or infinite ones", "find and leave out the broken inputs")
    if low < 0 or high > 1:
        normalized = "give images before normalization, and make lc.Normalize(mean, std) the model's first layer"
        raise InputError(
            "pixels in [0, 1]", f"values from {low:g} to {high:g}", normalized if low < 0 else "divide by 255"
        )
