"""Upper bounds of the operator norms of convolutions and linear layers, by Gram iteration.

The operator norm is the l_2 norm of the layer without its bias, as it acts on images of one size. The norm of the weights
written as a matrix is something else, and neither a lower nor an upper bound.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.errors import InputError

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
ROUNDING = 1e-9
"""Relative widening of a bound, for rounding in double precision."""
GRID = 48
"""Largest number of frequencies per axis, unless the kernel needs more. Larger images are bounded between frequencies."""
SQUARINGS = 12
AT_ONCE = 2**23
"""Number of complex matrix entries that are squared together."""


def norm_bound(layer: nn.Module, shape: Sequence[int] = (), *, scale: Tensor | None = None) -> float:
    """Compute an upper bound of the operator norm of a layer, or of diag(scale) times a layer.

    It is the upper end of `norm_interval` and needs no power iteration.

    A zero-padded image is part of a periodic image of size + kernel - 1, on which the layer is one small matrix per
    frequency. Strides become channels (polyphase), and groups a maximum. With more than GRID frequencies per axis, a grid of
    them suffices. The symbol is a trigonometric polynomial, so its maximum between grid points is at most
    1 / sqrt(cos(pi (kernel - 1) / GRID)) times that on the grid. The norm of each matrix is bounded by
    ||(M M*)^(2^t)||_F^(1 / 2^(t + 1)), and matrices that cannot be the largest are dropped. Circular padding at stride 1 is
    already periodic. Any other padding multiplies the bound by sqrt(number of repetitions of a pixel) per axis.

    Args:
        layer: A linear layer or a convolution of one to three dimensions.
        shape: Sizes of the image without channels; () for a linear layer.
        scale: One factor per output channel.

    Returns:
        The upper bound.

    Raises:
        InputError: For any other kind of layer, or a shape with the wrong number of sizes.

    Cost: (size + kernel)^2 / 2 complex matrices, squared a few times.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> round(norm_bound(layer), 6)
        4.0

    Reference: Delattre et al. 2023, Theorem 2 (Gram iteration); Ehlich and Zeller 1964 (between frequencies).
    """
    return _upper(*scaled_weight(layer, shape, scale), tuple(shape)) * (1 + ROUNDING)


@dataclass(frozen=True)
class Geometry:
    """How a kernel moves over an image.

    Attributes:
        stride: The stride along each axis.
        dilation: The dilation along each axis.
        border: The padding before and after each axis.
        groups: Number of groups of channels.
        padding_mode: Name of the padding, as in torch.
    """

    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    border: tuple[tuple[int, int], ...]
    groups: int = 1
    padding_mode: str = "zeros"


def convolution_bound(weight: Tensor, shape: Sequence[int], geometry: Geometry) -> float:
    """Compute an upper bound of the operator norm of a convolution with this weight; see `norm_bound`.

    Args:
        weight: The kernel in double precision, shape (outputs, inputs / groups, ...).
        shape: Sizes of the image without channels.
        geometry: How the kernel moves.

    Returns:
        The upper bound.

    Example:
        >>> once = Geometry(stride=(1,), dilation=(1,), border=((0, 0),))
        >>> round(convolution_bound(torch.tensor([[[1.0, 1.0]]], dtype=torch.float64), (100,), once), 2)
        2.0
    """
    return _convolution_upper(weight, tuple(shape), geometry) * (1 + ROUNDING)


def scaled_weight(layer: nn.Module, shape: Sequence[int], scale: Tensor | None) -> tuple[Weighted, Tensor]:
    """Check a layer and its image sizes, and compute diag(scale) W in double precision.

    Args:
        layer: The layer.
        shape: Sizes of the image without channels.
        scale: One factor per output channel.

    Returns:
        The layer and its scaled weight.

    Raises:
        InputError: For any other kind of layer, or a shape with the wrong number of sizes.
    """
    if not isinstance(layer, Weighted):
        expected = "a linear layer or a convolution of one to three dimensions"
        raise InputError(expected, type(layer).__name__, "bound other layers separately")
    axes = layer.weight.ndim - 2
    if len(shape) != axes:
        hint = "write the image sizes without channels, such as (32, 32)"
        raise InputError(f"{axes} sizes of an image", tuple(shape), hint)
    return layer, scale_outputs(layer.weight.detach().double(), None if scale is None else scale.detach().double())


def scale_outputs(weight: Tensor, scale: Tensor | None) -> Tensor:
    """Return diag(scale) W.

    Args:
        weight: A weight W, shape (outputs, ...).
        scale: One factor per output, or None for 1.

    Returns:
        The scaled weight.
    """
    return weight if scale is None else weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _upper(layer: Weighted, weight: Tensor, shape: tuple[int, ...]) -> float:
    """Compute an upper bound of the norm of a layer with this weight."""
    if isinstance(layer, nn.Linear):
        return _largest(weight.view(1, 1, *weight.shape), _phases((), (), weight), 1.0)
    both = list(layer._reversed_padding_repeated_twice)  # the last axis comes first
    border = tuple((both[place], both[place + 1]) for place in range(len(both) - 2, -1, -2))
    geometry = Geometry(tuple(layer.stride), tuple(layer.dilation), border, layer.groups, layer.padding_mode)
    return _convolution_upper(weight, shape, geometry)


def _convolution_upper(weight: Tensor, shape: tuple[int, ...], geometry: Geometry) -> float:
    sizes, factor, repeats = [], 1.0, _repeats(geometry, shape)
    for axis, (size, stride, dilation) in enumerate(zip(shape, geometry.stride, geometry.dilation, strict=True)):
        kernel = weight.shape[2 + axis]
        weight, beyond = _polyphase(weight, axis, size, stride, dilation)
        steps = weight.shape[2 + axis] - 1
        count = beyond + steps
        border = sum(geometry.border[axis]) - dilation * (kernel - 1)
        if geometry.padding_mode == "circular" and stride == 1 and border <= 0:
            count = size
        else:
            factor *= math.sqrt(repeats[axis])
        if count > max(GRID, 8 * steps):
            count = max(GRID, 8 * steps)
            factor /= math.sqrt(math.cos(math.pi * steps / count))
        sizes.append(count)
    taps = weight.flatten(2).permute(2, 0, 1).contiguous()  # (taps, out, in)
    grouped = taps.view(len(taps), geometry.groups, -1, taps.shape[2]).transpose(0, 1)
    return _largest(grouped, _phases(sizes, weight.shape[2:], weight), factor)


def _polyphase(weight: Tensor, axis: int, size: int, stride: int, dilation: int) -> tuple[Tensor, int]:
    """Rewrite the kernel along an axis for stride 1 and dilation 1, with the image's phases as channels; also the new size."""
    shared = math.gcd(stride, dilation)  # pixels in different residue classes modulo this never interact
    size, stride, dilation, place = -(-size // shared), stride // shared, dilation // shared, 2 + axis
    if stride == 1:
        return weight, -(-size // dilation)
    kernel = (weight.shape[place] - 1) * dilation + 1
    padded = [stride * -(-kernel // stride) if at == place else length for at, length in enumerate(weight.shape)]
    spread = weight.new_zeros(padded)
    spread.narrow(place, 0, kernel).index_copy_(place, torch.arange(0, kernel, dilation, device=weight.device), weight)
    phases = spread.view(*padded[:place], -1, stride, *padded[place + 1 :]).movedim(place + 1, 2)
    return phases.flatten(1, 2), (size + stride - 2) // stride + 1


def _phases(sizes: Sequence[int], kernel: Sequence[int], like: Tensor) -> Tensor:
    """Compute exp(-i w tap) for half of the frequencies w, shape (frequencies, taps). The others are their conjugates."""
    found = torch.ones(1, 1, dtype=torch.complex128, device=like.device)
    for axis, (size, taps) in enumerate(zip(sizes, kernel, strict=True)):
        count = size // 2 + 1 if axis == len(sizes) - 1 else size
        steps = torch.arange(count, device=like.device)[:, None] * torch.arange(taps, device=like.device)
        angles = -2 * math.pi * (steps % size).double() / size
        found = torch.kron(found, torch.polar(torch.ones_like(angles), angles))
    return found


def _largest(taps: Tensor, phases: Tensor, factor: float) -> float:
    """Bound the norms of sum_tap phase taps over groups and frequencies, times a factor. taps: (groups, taps, out, in)."""
    log, known = -math.inf, -math.inf
    rows, entries = taps.shape[2:], taps.shape[2:].numel()
    for group in taps.flatten(2).to(phases.dtype):
        for part in torch.split(phases, max(1, AT_ONCE // entries)):
            matrices = (part @ group).view(-1, *rows)
            upper, known = _gram(matrices if rows[0] <= rows[1] else matrices.mH, known)
            log = max(log, upper)
    return factor * math.exp(log / 2)


def _gram(matrices: Tensor, known: float) -> tuple[float, float]:
    """Compute an upper and a lower bound of the logarithm of the largest squared norm among matrices.

    `known` is a lower bound from earlier matrices. With L the logarithm of ||(M M*)^k||_F, L / k is an upper bound, and
    (2 L - log tr (M M*)^k) / k is a lower bound.
    """
    gram, logs, power, upper = matrices @ matrices.mH, torch.zeros((), dtype=torch.float64), 1, known
    for _ in range(SQUARINGS + 1):
        # As real numbers, because torch takes ten times as long for the norm of complex ones.
        size = torch.linalg.vector_norm(torch.view_as_real(gram).flatten(1), dim=1)
        if not bool(size.any()):
            break
        gram = gram / torch.where(size == 0, 1, size)[:, None, None]
        logs = logs + size.log()
        trace = gram.diagonal(dim1=1, dim2=2).sum(1).real
        known = max(known, float(((logs - trace.log())[size > 0] / power).max()))
        upper = max(float((logs / power).max()), known)
        stays = logs / power >= known
        if upper - known < 1e-4 or not bool(stays.any()):
            break
        gram, logs, power = gram[stays] @ gram[stays], 2 * logs[stays], 2 * power
    return upper, known


def _repeats(geometry: Geometry, shape: tuple[int, ...]) -> list[int]:
    """The largest number of times that the padding repeats a pixel, along each axis."""
    if geometry.padding_mode == "zeros":
        return [1] * len(shape)
    found = []
    for size, border in zip(shape, geometry.border, strict=True):
        places = torch.arange(float(size)).view(1, 1, -1)
        places = F.pad(places, border, geometry.padding_mode)
        found.append(int(places.flatten().long().bincount().max()))
    return found
