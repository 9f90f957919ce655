"""Windows of images: which pixels of a value a convolution's results depend on, one window for each place.

Coefficients of such results are 0 outside their windows. So only windows are kept: shape (batch, places, rows, channels,
height, width), where places are the pixels of the result and rows its channels.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.models.jacobians.graph import Node
from lowcurve.models.jacobians.weighted import BATCHNORM
from lowcurve.models.local.linear import parents_of

DIAGONAL = ("add", "sub", "rsub", "mul", "div", "clone", "alias", *BATCHNORM)
"""Linear operations that give each element a factor, where no value that depends on the input is broadcast."""
LARGEST_SHARE = 0.5
"""Share of an image that a window may have; larger ones save nothing."""

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """One window of an image for each place of a grid; place (i, j) has the pixels from step * (i, j) + start.

    Attributes:
        grid: Height and width of the grid.
        image: Height and width of the image.
        step: Distance of neighboring windows.
        start: First pixel of the first window. It may lie outside the image, as other pixels may.
        size: Height and width of a window.
    """

    grid: Pair
    image: Pair
    step: Pair = (1, 1)
    start: Pair = (0, 0)
    size: Pair = (1, 1)

    @property
    def share(self) -> float:
        """Number of pixels of a window divided by that of the image."""
        return self.size[0] * self.size[1] / (self.image[0] * self.image[1])

    @cached_property
    def corners(self) -> Tensor:
        """First pixel of each window, shape (places, 2)."""
        axes = (torch.arange(n) * step + start for n, step, start in zip(self.grid, self.step, self.start, strict=True))
        return torch.cartesian_prod(*axes).view(-1, 2)

    @cached_property
    def _pixels(self) -> tuple[Tensor, Tensor]:
        """Number of each pixel, 0 outside the image, and whether it is inside; shape (places, height * width)."""
        within = torch.cartesian_prod(*(torch.arange(size) for size in self.size)).view(-1, 2)
        pixels = self.corners[:, None] + within
        inside = ((pixels >= 0) & (pixels < torch.tensor(self.image))).all(-1)
        return torch.where(inside, pixels[..., 0] * self.image[1] + pixels[..., 1], 0), inside

    def pixel_numbers(self, channels: int) -> Tensor:
        """Return the number of each pixel of the windows in an image of several channels, 0 for pixels outside.

        Args:
            channels: Number of channels of the image.

        Returns:
            Shape (places, channels * height * width).
        """
        first = torch.arange(channels) * self.image[0] * self.image[1]
        numbers, inside = self._pixels
        return torch.where(inside[:, None], numbers[:, None] + first[:, None], 0).flatten(1)

    def gather(self, values: Tensor) -> Tensor:
        """Return the windows of images, with 0 for pixels outside.

        Args:
            values: Images, shape (batch, channels, height, width), or another of as many elements.

        Returns:
            Shape (batch, places, channels, height, width).
        """
        numbers, inside = (part.to(values.device) for part in self._pixels)
        found = values.reshape(len(values), -1, self.image[0] * self.image[1])[..., numbers].transpose(1, 2)
        if not bool(inside.all()):
            found = found * inside[:, None].to(found)
        return found.view(*found.shape[:-1], *self.size)

    def cut(self, rows: Tensor) -> Tensor:
        """Set coefficients outside the image to 0.

        Args:
            rows: Coefficients.
        """
        inside = self._pixels[1].to(rows.device).view(-1, 1, 1, *self.size)
        return rows if bool(inside.all()) else rows * inside.to(rows)

    def spread(self, rows: Tensor) -> Tensor:
        """Return coefficients of whole images, shape (batch, rows * places, 1, channels, height, width).

        Args:
            rows: Coefficients of windows, 0 outside the image.
        """
        flat = rows.flatten(-2).transpose(1, 2)
        whole = flat.new_zeros(*flat.shape[:4], self.image[0] * self.image[1])
        numbers = self._pixels[0].to(rows.device)[:, None].expand(flat.shape)
        found = whole.scatter_add_(-1, numbers, flat).flatten(1, 2)
        return found.view(*found.shape[:-1], *self.image)[:, :, None]

    def fit(self, rows: Tensor, wanted: "Window | None") -> Tensor:
        """Return the same coefficients in larger windows, or of whole images.

        Args:
            rows: Coefficients of these windows.
            wanted: The larger windows, None for whole images.
        """
        if wanted is None:
            return self.spread(rows)
        before = [here - there for here, there in zip(self.start, wanted.start, strict=True)]
        after = [large - small - first for large, small, first in zip(wanted.size, self.size, before, strict=True)]
        return F.pad(rows, (before[1], after[1], before[0], after[0])) if any(before + after) else rows

    def number(self, pixels: Tensor) -> Tensor:
        """Return the numbers within the window of pixels given by their numbers in the image.

        Args:
            pixels: Shape (batch, places, ...).

        Returns:
            Their numbers, 0 for a pixel that is not in its window.
        """
        row, column = pixels // self.image[1], pixels % self.image[1]
        first = self.corners.to(pixels.device).view(1, -1, *[1] * (pixels.ndim - 2), 2)
        numbers = (row - first[..., 0]) * self.size[1] + column - first[..., 1]
        return torch.where((numbers >= 0) & (numbers < self.size[0] * self.size[1]), numbers, 0)

    def join(self, other: "Window") -> "Window | None":
        """Return the smallest windows that contain both; None if neighbors have other distances.

        Args:
            other: Windows of the same image.
        """
        if self.step != other.step:
            return None
        start = _pair(min, self.start, other.start)
        ends = [_pair(lambda a, b: a + b, window.start, window.size) for window in (self, other)]
        return replace(self, start=start, size=_pair(lambda a, b: a - b, _pair(max, *ends), start))

    def before(self, node: Node) -> "Window | None":
        """Return the windows of an operation's input on which windows of its result depend, None if they are not known.

        Args:
            node: The result.
        """
        shapes = {parent.shape for parent in parents_of(node)}
        name, given = node.call.name, node.call.arguments
        if len(node.parents) == 1 and name == "convolution" and not given["transposed"]:
            kernel = given["weight"].shape[2:]
        elif name in ("max_pool2d_with_indices", "avg_pool2d"):
            kernel = _two(given["kernel_size"])
            plain = given.get("divisor_override") is None and not any(given["padding"]) and not given["ceil_mode"]
            if name == "avg_pool2d" and not plain:
                return None
        else:
            return self if shapes == {node.shape} and name in DIAGONAL else None
        ((_, parent),) = node.parents
        stride, padding, dilation = (
            _two(given["stride"] or kernel),
            _two(given["padding"]),
            _two(given.get("dilation", 1)),
        )
        return Window(
            self.grid,
            (parent.shape[2], parent.shape[3]),
            _pair(lambda a, b: a * b, self.step, stride),
            (self.start[0] * stride[0] - padding[0], self.start[1] * stride[1] - padding[1]),
            tuple(
                (n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(self.size, stride, kernel, dilation, strict=True)
            ),
        )


def by_row(values: Tensor) -> Tensor:
    """Return one number for each row of windows in the order of the elements of the value.

    Args:
        values: Shape (batch, places, rows).

    Returns:
        Shape (batch, rows * places).
    """
    return values.transpose(1, 2).flatten(1)


def _two(values: int | Sequence[int]) -> Pair:
    first, *rest = [values] if isinstance(values, int) else values
    return (first, rest[0] if rest else first)


def _pair(function: Callable[[int, int], int], a: Pair, b: Pair) -> Pair:
    return function(a[0], b[0]), function(a[1], b[1])


def plan_windows(nodes: Sequence[Node], target: Node, curved: Callable[[Node], bool]) -> dict[Node, Window]:
    """Return the windows of earlier values on which each pixel of a value depends.

    Args:
        nodes: All values of the network, in order.
        target: The value.
        curved: True for the results of elementwise nonlinearities.

    Returns:
        The windows of the values that have small ones, the target's own too. Other values need whole images.
    """
    if len(target.shape) != 4 or target.shape[0] != 1:
        return {}
    image = (target.shape[2], target.shape[3])
    found: dict[Node, Window | None] = {target: Window(image, image)}
    for node in reversed(nodes[: nodes.index(target) + 1]):
        if node not in found:
            continue
        window = found[node]
        before = None if window is None else window if curved(node) else window.before(node)
        for parent in parents_of(node):
            other = found.get(parent, before)
            joined = None if before is None or other is None else before.join(other)
            found[parent] = None if joined is None or joined.share > LARGEST_SHARE else joined
    windows = {node: window for node, window in found.items() if window is not None}
    return windows if len(windows) > 1 else {}
