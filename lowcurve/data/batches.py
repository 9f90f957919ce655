"""Batches of examples.

The batches of an epoch depend on (seed, epoch, batch number) alone: not on the batch at which training resumes, nor on the
number of processes.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from lowcurve.data.examples import Examples
from lowcurve.errors import InputError
from lowcurve.randomness import integers, permutation, stream


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
