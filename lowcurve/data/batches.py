"""Examples in memory, and the batches in which they are seen.

Law: the batches of an epoch are a function of (seed, epoch, number of the batch) alone. Neither the batch at which an
epoch is begun nor the number of processes that share it changes what is seen.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.randomness import integers, permutation, stream

Rows = Tensor | slice | Sequence[int]
CHUNK = 1024


@dataclass(frozen=True, eq=False)
class Examples:
    """Inputs x [N, ...] with labels y [N] (int64) that count into `classes`.

    Pixels are stored as uint8, where 0 to 255 stand for 0 to 1, or as floating point numbers in [0, 1]. What cannot be
    either is refused here, once, so that nothing further on has to ask.

    Example:
        >>> pair = Examples(torch.tensor([[0, 255], [51, 0]], dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
        >>> pair.shape, len(pair), pair.pixels([1]).tolist()
        ((2,), 2, [[0.20000000298023224, 0.0]])
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        _check_labels(self.y, len(self.classes))
        _check_pixels(self.x)
        if len(self.x) != len(self.y):
            raise InputError(
                "one label for each input", f"{len(self.y)} for {len(self.x)}", "give x and y of one length"
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input: (channels, height, width) of an image, (2,) of a point of the plane."""
        return tuple(self.x.shape[1:])

    def take(self, rows: Rows) -> "Examples":
        """The examples of these rows, in this order."""
        rows = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)
        return Examples(self.x[rows], self.y[rows], self.classes)

    def pixels(self, rows: Rows) -> Tensor:
        """The inputs of these rows as float32 in [0, 1]; always a copy, so that changing it is safe."""
        chosen = self.x[rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)]
        copy = chosen.to(torch.float32, copy=True)
        return copy.div_(255) if chosen.dtype == torch.uint8 else copy


@dataclass(frozen=True, eq=False)
class DataSet:
    """Examples to train on, to select by and to report on; `note` says where they come from and how they were split.

    Only the validation part may be empty.
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

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one input."""
        return self.train.shape

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes; label k belongs to classes[k]."""
        return self.train.classes

    def statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of the training pixels: a channel each for images, a coordinate each for points.

        Example:
            >>> part = Examples(torch.tensor([[0.0, 0.25], [1.0, 0.75]]), torch.tensor([0, 1]), ("a", "b"))
            >>> DataSet("pair", part, part, part, "Two points.").statistics()
            ((0.5, 0.5), (0.5, 0.25))
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """One pass over the training pixels, taken once."""
        total, square, count = torch.zeros(()), torch.zeros(()), 0
        for x, _ in in_order(self.train, CHUNK):
            values = x.double().flatten(2) if x.ndim > 2 else x.double().unsqueeze(-1)
            total, square = total + values.sum((0, 2)), square + values.square().sum((0, 2))
            count += values.shape[0] * values.shape[2]
        mean = total / count
        deviation = (square / count - mean.square()).clamp_min(0).sqrt()
        return tuple(mean.tolist()), tuple(deviation.tolist())


@dataclass(frozen=True)
class Augmentation:
    """Random crops and flips of training images.

    Args:
        crop_padding: Black pixels on each side of the image, from which a crop of its size is taken.
        flip: Mirror each image with probability one half.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise InputError("a crop padding of 0 pixels or more", self.crop_padding, "write 4 for 32 x 32 images")

    @property
    def active(self) -> bool:
        """Whether it changes anything."""
        return self.crop_padding > 0 or self.flip


PLAIN = Augmentation()


def augment(x: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Each image shifted by up to `crop_padding` pixels each way, what comes in being black, and perhaps mirrored.

    Crops and mirrorings are drawn whether or not they are asked for, so that switching one on leaves the other alone.

    Example:
        >>> x = torch.tensor([[[[1.0, 2.0]]]]).expand(64, 1, 1, 2)
        >>> flipped = augment(x, Augmentation(flip=True), generator=stream(0, "augmentation"))
        >>> sorted(set(map(tuple, flipped.flatten(1).tolist())))
        [(1.0, 2.0), (2.0, 1.0)]
    """
    if not augmentation.active:
        return x
    if x.ndim != 4:
        raise InputError("images [batch, channels, height, width]", tuple(x.shape), "leave augmentation out for points")
    (batch, channels, height, width), padding = x.shape, augmentation.crop_padding
    down, right = integers((2, batch, 1), 0, 2 * padding + 1, generator=generator).unbind()
    mirrored = integers((batch, 1), 0, 2, generator=generator).bool() & augmentation.flip
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    columns = torch.where(mirrored, columns.flip(1), columns)
    example, channel = torch.arange(batch).view(-1, 1, 1, 1), torch.arange(channels).view(1, -1, 1, 1)
    places = (example, channel, rows.view(batch, 1, height, 1), columns.view(batch, 1, 1, width))
    return F.pad(x, (padding,) * 4)[tuple(place.to(x.device) for place in places)]


def in_order(examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """All examples as they stand, in batches of `size` (the last may be smaller): pixels [B, ...] and labels [B].

    Example:
        >>> part = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), ("a",))
        >>> [len(y) for _, y in in_order(part, 2)]
        [2, 2, 1]
    """
    _check_size(size)
    slices = (slice(k, k + size) for k in range(0, len(examples), size))
    return ((examples.pixels(rows), examples.y[rows]) for rows in slices)


def steps_per_epoch(examples: Examples, size: int) -> int:
    """The number of batches in an epoch: the whole ones, or one if there are fewer examples than `size`.

    Example:
        >>> part = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), ("a",))
        >>> steps_per_epoch(part, 2), steps_per_epoch(part, 8)
        (2, 1)
    """
    _check_size(size)
    if not len(examples):
        raise InputError("at least one example", "none", "train on a part that is not empty")
    return max(1, len(examples) // size)


def shuffled(
    examples: Examples,
    size: int,
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    rank: int = 0,
    ranks: int = 1,
    augmentation: Augmentation = PLAIN,
) -> Iterator[tuple[Tensor, Tensor]]:
    """One epoch in random order, from batch number `start` on: this rank's share of global batches of `size`.

    The shares of all ranks, one after the other, are the batch that a single process sees, augmentation included. The
    last, incomplete batch is left out unless it is the only one. A start equal to `steps_per_epoch` gives no batch.

    Example:
        >>> part = Examples(torch.arange(6).view(6, 1) / 5, torch.arange(6), tuple("abcdef"))
        >>> whole = [y.tolist() for _, y in shuffled(part, 2, seed=0, epoch=0)]
        >>> resumed = [y.tolist() for _, y in shuffled(part, 2, seed=0, epoch=0, start=1)]
        >>> sorted(sum(whole, [])), resumed == whole[1:]
        ([0, 1, 2, 3, 4, 5], True)
    """
    steps = steps_per_epoch(examples, size)
    if not 0 <= start <= steps:
        raise InputError(f"a start from 0 to {steps}", start, "count global batches within the epoch")
    if not 0 <= rank < ranks:
        raise InputError("a rank from 0 to ranks - 1", f"rank {rank} of {ranks}", "number the processes from 0")
    share, remainder = divmod(min(size, len(examples)), ranks)
    if remainder or size % ranks:
        received = f"{min(size, len(examples))} examples for {ranks} ranks"
        raise InputError(
            "a batch that the ranks can share equally", received, f"write a multiple of {ranks} as the size"
        )
    if augmentation.active and len(examples.shape) != 3:
        raise InputError("images to augment", f"inputs of shape {examples.shape}", "leave augmentation out for points")
    order, mine = (
        permutation(len(examples), generator=stream(seed, "order", epoch)),
        slice(rank * share, (rank + 1) * share),
    )

    def batch(k: int) -> tuple[Tensor, Tensor]:
        rows = order[k * size : (k + 1) * size]
        chance = stream(seed, "augmentation", epoch, k)
        return augment(examples.pixels(rows), augmentation, generator=chance)[mine], examples.y[rows][mine]

    return (batch(k) for k in range(start, steps))


def _check_size(size: int) -> None:
    if size < 1:
        raise InputError("a batch size of at least 1", size, "write how many examples a batch holds")


def _check_labels(y: Tensor, classes: int) -> None:
    if y.ndim != 1 or y.dtype != torch.int64:
        raise InputError(
            "labels y [N] of type int64", f"{y.dtype} {list(y.shape)}", "convert them with y.flatten().long()"
        )
    outside = y[(y < 0) | (y >= classes)]
    if len(outside):
        hint = "name every class, and leave out examples without a label"
        raise InputError(f"labels from 0 to {classes - 1} for {classes} classes", int(outside[0]), hint)


def _check_pixels(x: Tensor) -> None:
    if x.ndim < 2 or not (x.dtype == torch.uint8 or x.is_floating_point()):
        hint = "give images as uint8, or divide by 255"
        raise InputError("inputs x [N, ...] as uint8 or floating point", f"{x.dtype} {list(x.shape)}", hint)
    if not x.is_floating_point() or not x.numel():
        return
    low, high = float(x.min()), float(x.max())  # the extremes are NaN where any entry is
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise InputError("finite pixels", "NaN or infinite ones", "find and leave out the broken inputs")
    if low < 0 or high > 1:
        normalized = (
            "give images before they are normalized, and make mean and standard deviation the model's first layer"
        )
        raise InputError(
            "pixels in [0, 1]", f"values from {low:g} to {high:g}", normalized if low < 0 else "divide by 255"
        )
