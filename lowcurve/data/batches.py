"""Examples in memory, and their batches.

The batches of an epoch depend on (seed, epoch, batch number) alone: not on the batch at which training resumes, nor on the
number of processes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.network_calls import without_inference
from lowcurve.randomness import integers, permutation, stream

Rows = Tensor | slice | Sequence[int]
CHUNK = 1024


@dataclass(frozen=True, eq=False, repr=False)
class Examples:
    """Inputs with labels.

    Args:
        x: Inputs, shape (N, ...). They are uint8, where 0 to 255 stand for 0 to 1, or floating point in [0, 1].
        y: Labels, shape (N,), int64, indices into `classes`.
        classes: Names of the classes.

    Raises:
        InputError: If inputs or labels are not of this form.

    Example:
        >>> pair = Examples(torch.tensor([[0, 255], [51, 0]], dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
        >>> pair.shape, len(pair), pair.pixels([1]).tolist()
        ((2,), 2, [[0.20000000298023224, 0.0]])
    """

    x: Tensor
    y: Tensor
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "y", without_inference(self.y))
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
        """The shape of one input: (channels, height, width) for images, (2,) for points of the plane."""
        return tuple(self.x.shape[1:])

    def __repr__(self) -> str:
        return f"{len(self)} examples of shape {self.shape} in {len(self.classes)} classes"

    def take(self, rows: Rows) -> "Examples":
        """Return the examples of these rows, in this order."""
        rows = rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)
        return Examples(self.x[rows], self.y[rows], self.classes)

    def pixels(self, rows: Rows) -> Tensor:
        """Return the inputs of these rows as float32 in [0, 1], always as a copy."""
        chosen = self.x[rows if isinstance(rows, slice) else torch.as_tensor(rows, dtype=torch.int64)]
        return as_pixels(chosen, torch.float32)


def count_repeated(first: Examples, second: Examples) -> int:
    """Return how many images of the second part are, byte for byte, among those of the first.

    Example:
        >>> part = Examples(torch.tensor([[0.5], [1.0]]), torch.tensor([0, 0]), ("a",))
        >>> count_repeated(part, part.take([1])), count_repeated(part.take([0]), part.take([1]))
        (1, 0)
    """
    known = {image.numpy().tobytes() for image in first.x}
    return sum(image.numpy().tobytes() in known for image in second.x)


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

        Example:
            >>> part = Examples(torch.tensor([[0.0, 0.25], [1.0, 0.75]]), torch.tensor([0, 1]), ("a", "b"))
            >>> DataSet("pair", part, part, part, "Two points.").statistics()
            ((0.5, 0.5), (0.5, 0.25))
        """
        return self._statistics

    @cached_property
    def _statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        total, square, count = torch.zeros(()), torch.zeros(()), 0
        for x, _ in ordered_batches(self.train, CHUNK):
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
        crop_padding: Black pixels added on each side of the image before a crop of its size is taken.
        flip: Mirror each image with probability one half.
    """

    crop_padding: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop_padding < 0:
            raise InputError("a crop padding of 0 pixels or more", self.crop_padding, "write 4 for 32 x 32 images")

    @property
    def active(self) -> bool:
        """True if it changes images at all."""
        return self.crop_padding > 0 or self.flip


PLAIN = Augmentation()


def augment(x: Tensor, augmentation: Augmentation, *, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `crop_padding` pixels each way, with black borders, and mirror it with probability 1/2.

    Shifts and flips are always drawn, so that enabling one does not change the other.

    Args:
        x: Images, shape (batch, channels, height, width).
        augmentation: Which changes to make.
        generator: Source of the random numbers.

    Raises:
        InputError: If the inputs are no images.

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


def ordered_batches(examples: Examples, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all examples in order, in batches of pixels and labels.

    Args:
        examples: The examples.
        size: Examples in a batch; the last one may be smaller.

    Example:
        >>> part = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), ("a",))
        >>> [len(y) for _, y in ordered_batches(part, 2)]
        [2, 2, 1]
    """
    _check_size(size)
    slices = (slice(k, k + size) for k in range(0, len(examples), size))
    return ((examples.pixels(rows), examples.y[rows]) for rows in slices)


def steps_per_epoch(examples: Examples, size: int) -> int:
    """Return the number of batches in an epoch: complete ones, or one if there are fewer examples than `size`.

    Example:
        >>> part = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.int64), ("a",))
        >>> steps_per_epoch(part, 2), steps_per_epoch(part, 8)
        (2, 1)
    """
    _check_size(size)
    if not len(examples):
        raise InputError("at least one example", "none", "train on a part that is not empty")
    return max(1, len(examples) // size)


def shuffled_batches(
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
    """Yield one epoch in random order.

    The shares of all ranks together are the batch that a single process gets, augmentation included. The last, incomplete
    batch is left out unless it is the only one.

    Args:
        examples: The examples.
        size: Examples in a global batch.
        seed: Seed of order and augmentation.
        epoch: Number of the epoch. Each epoch has its own order.
        start: First batch to yield. From `steps_per_epoch` on there is none.
        rank: Number of this process.
        ranks: Number of processes that share each batch.
        augmentation: Random changes of the images.

    Yields:
        Pixels and labels of this rank's share of each batch.

    Raises:
        InputError: If the batch cannot be shared equally, or another argument is out of range.

    Example:
        >>> part = Examples(torch.arange(6).view(6, 1) / 5, torch.arange(6), tuple("abcdef"))
        >>> whole = [y.tolist() for _, y in shuffled_batches(part, 2, seed=0, epoch=0)]
        >>> resumed = [y.tolist() for _, y in shuffled_batches(part, 2, seed=0, epoch=0, start=1)]
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
        normalized = "give images before normalization, and make lc.Normalize(mean, std) the model's first layer"
        raise InputError(
            "pixels in [0, 1]", f"values from {low:g} to {high:g}", normalized if low < 0 else "divide by 255"
        )
