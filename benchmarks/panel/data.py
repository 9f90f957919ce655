"""Images of the panel: digits, pairs of digits, MNIST and a part of CIFAR-10."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lowcurve.data import Limits, digits, load

IMAGES = 100
"""Images of an evaluation."""
TRAIN = {"mnist": 6000, "cifar10": 6000}
"""Training images of the larger data sets. A network is trained in seconds."""


@dataclass(frozen=True)
class Data:
    """Images and labels to train with, and those to evaluate with."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor
    classes: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image."""
        return tuple(self.x.shape[1:])


class Sets:
    """The data sets by name, each read once and stored in the cache.

    Args:
        data_dir: Folder of parquet files.
        cache: Folder to store tensors in.
    """

    def __init__(self, data_dir: Path, cache: Path) -> None:
        self.data_dir, self.cache, self.known = data_dir, cache, {}

    def __call__(self, name: str) -> Data:
        """Return the data set of that name, "digits", "digits:2" with classes modulo 2, "pairs", "mnist" or "cifar10"."""
        if name not in self.known:
            base, _, classes = name.partition(":")
            if classes:
                whole, count = self(base), int(classes)
                found = Data(whole.x, whole.y % count, whole.test_x, whole.test_y % count, count)
            else:
                found = {"digits": _digits, "pairs": _pairs}.get(base, lambda: self._large(base))()
            self.known[name] = found
        return self.known[name]

    def _large(self, name: str) -> Data:
        file = self.cache / f"data-{name}.pt"
        if not file.exists():
            limits = Limits(train=TRAIN[name], validation=1, test=IMAGES)
            found = load(name, data_dir=str(self.data_dir), limits=limits)
            parts = [(part.pixels(slice(None)), part.y) for part in (found.train, found.test)]
            torch.save([tensor for part in parts for tensor in part], file)
        return Data(*torch.load(file), classes=10)


def _digits() -> Data:
    found = digits()
    x, test = (part.pixels(slice(None)) for part in (found.train, found.test))
    return Data(x, found.train.y, test[:IMAGES], found.test.y[:IMAGES], 10)


def _pairs() -> Data:
    """Return pairs of digits side by side, of 100 classes."""
    whole, generator = digits(), torch.Generator().manual_seed(0)

    def pair(x: Tensor, y: Tensor, count: int) -> tuple[Tensor, Tensor]:
        left, right = (torch.randint(len(x), (count,), generator=generator) for _ in range(2))
        return torch.cat([x[left], x[right]], 3), 10 * y[left] + y[right]

    train = pair(whole.train.pixels(slice(None)), whole.train.y, 8000)
    return Data(*train, *pair(whole.test.pixels(slice(None)), whole.test.y, IMAGES), 100)
