"""Select the test images at which several networks are drawn."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.norms import Ball
from lowcurve.data import DataSet, Examples
from lowcurve.errors import InputError
from lowcurve.network_calls import call, input_like
from lowcurve.types import Inputs, Labels, Progress, silent

BATCH = 256
"""Test images are classified in batches of this size until enough of them are found."""


@dataclass(frozen=True)
class SameImages:
    """Several networks and test images that all of them classify correctly.

    Args:
        models: The networks by name.
        examples: The images with their labels.
        numbers: Each image's place in the test set. It is counted from 0.
        ball: The ball of the attacks.
        steps: PGD steps.
        seed: Seed of the random directions.
        points: Grid points along a side.
        progress: Display of the progress.
    """

    models: Mapping[str, nn.Module]
    examples: Examples
    numbers: tuple[int, ...]
    ball: Ball
    steps: int = 20
    seed: int = 0
    points: int = 101
    progress: Progress[int] = silent

    def __post_init__(self) -> None:
        if self.points < 3:
            raise InputError("at least three points along a side", self.points, "write --points 101")

    def inputs(self, like: nn.Module) -> Inputs:
        """Return the images on the network's device and in its precision."""
        images = self.examples.pixels(slice(None))
        return images.to(input_like(like))

    @property
    def y(self) -> Labels:
        """The images' labels."""
        return self.examples.y

    def image_name(self, number: int) -> str:
        """Name an image by its place in the test set and its class."""
        return f"test image {self.numbers[number]}, class {self.examples.classes[int(self.y[number])]}"

    def short_name(self, number: int) -> str:
        """Name an image in a table's cell."""
        return f"{self.examples.classes[int(self.y[number])]}, no. {self.numbers[number]}"

    def first(self, count: int) -> "SameImages":
        """Return the same networks with the first `count` images."""
        return replace(self, examples=self.examples.take(slice(count)), numbers=self.numbers[:count])

    @property
    def conditions(self) -> dict[str, str]:
        """The conditions that hold for every picture."""
        return {"units": "pixel range [0, 1]", "BatchNorm": "eval mode", "seed of the directions": str(self.seed)}

    @property
    def attack_conditions(self) -> str:
        """Norm and radius of the attacks in words."""
        return f"{self.ball.norm.name}, radius {self.ball.radius:.4g}"

    @property
    def reach(self) -> float:
        """Twice the l_2 length of the largest perturbation in the ball."""
        return 2 * self.ball.l2_length(int(np.prod(self.examples.shape)))


def select_images(
    data: DataSet,
    models: Mapping[str, nn.Module],
    count: int,
    ball: Ball,
    *,
    steps: int = 20,
    seed: int = 0,
    points: int = 101,
    progress: Progress[int] = silent,
) -> SameImages:
    """Select the first `count` test images that every network classifies correctly, or as many as there are.

    Args:
        data: The data. Only its test images are used.
        models: The networks by name.
        count: Number of images.
        ball: Ball of the attacks.
        steps: PGD steps.
        seed: Seed of the random directions.
        points: Grid points along a side.
        progress: Display of the progress.

    Returns:
        The networks with the images.

    Raises:
        InputError: If `count` is below 1, or no image is classified correctly by all networks.
    """
    if count < 1:
        raise InputError("at least one example", count, "write --examples 1")
    found: list[int] = []
    for start in range(0, len(data.test), BATCH):
        part = data.test.take(slice(start, start + BATCH))
        correct = np.logical_and.reduce([evaluation.correct(model, part) for model in models.values()])
        found += (start + np.flatnonzero(correct)).tolist()
        if len(found) >= count:
            break
    if not found:
        raise InputError(
            "a test image that every network classifies correctly", "none", "leave a network out by --networks"
        )
    chosen = found[:count]
    numbers = tuple(data.test.numbers[chosen].tolist())
    one = data.test.pixels(chosen[:1])
    logits = max(call(model, one.to(input_like(model))).shape[1] for model in models.values())
    examples = data.test.take(chosen).name_classes(logits)
    return SameImages(models, examples, numbers, ball, steps, seed, points, progress)
