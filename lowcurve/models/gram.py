"""Operator norms of convolutions and linear layers from above, by Gram iteration.

The norm is that of the layer as it acts on images of one size, in l_2, without its bias; never that of the weights written
as a matrix, which is neither a lower nor an upper bound.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.errors import InputError

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
ROUNDING = 1e-9
"""What an interval in double precision is widened by."""
GRID = 48
"""Frequencies along an axis from which on they are interpolated between and no longer those of the image."""
SQUARINGS = 12
AT_ONCE = 2**23
"""Complex numbers that are squared together."""


def norm_bound(layer: nn.Module, shape: Sequence[int] = (), *, scale: Tensor | None = None) -> float:
    """No less than the layer's operator norm, or that of diag(scale) layer: the upper end of `norm_interval`, which
    needs no power iteration.

    shape: the image's sizes without its channels; () of a linear layer. scale: one factor an output channel.

    With zeros around it the image is a part of a periodic one of size + kernel - 1, on which the layer is one small matrix a
    frequency; strides become channels (polyphase) and groups a maximum. Beyond GRID frequencies an axis the maximum between
    them is at most 1 / sqrt(cos(pi (kernel - 1) / GRID)) of that on them (of the symbol, a trigonometric polynomial). The
    norm of each matrix is bounded by ||(M M*)^(2^t)||_F^(1 / 2^(t + 1)), and those that cannot be the largest leave.
    Circular padding at stride 1 is periodic already; other paddings cost a factor sqrt(how often a pixel is repeated) an
    axis.

    Cost: (size + kernel)^2 / 2 complex matrices squared a few times.

    Errors: InputError for another kind of layer or a shape that is not its image's.

    Example:
        >>> layer = nn.Linear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> round(norm_bound(layer), 6)
        4.0

    Reference: Delattre et al. 2023, Theorem 2 (Gram iteration); Ehlich and Zeller 1964 (between frequencies).
    """
    return _upper(*in_double(layer, shape, scale), tuple(shape)) * (1 + ROUNDING)


def in_double(layer: nn.Module, shape: Sequence[int], scale: Tensor | None) -> tuple[Weighted, Tensor]:
    """The layer, whose kind and image were looked at, and diag(scale) W in double precision."""
    if not isinstance(layer, Weighted):
        expected = "a linear layer or a convolution of one to three dimensions"
        raise InputError(expected, type(layer).__name__, "bound other layers by hand")
    axes = layer.weight.ndim - 2
    if len(shape) != axes:
        hint = "write the sizes without channels, such as (32, 32)"
        raise InputError(f"{axes} sizes of an image", tuple(shape), hint)
    return layer, scaled(layer.weight.detach().double(), None if scale is None else scale.detach().double())


def scaled(weight: Tensor, scale: Tensor | None) -> Tensor:
    """diag(scale) W."""
    return weight if scale is None else weight * scale.view(-1, *[1] * (weight.ndim - 1))


def _upper(layer: Weighted, weight: Tensor, shape: tuple[int, ...]) -> float:
    """An upper bound of the norm of a layer with this weight."""
    if isinstance(layer, nn.Linear):
        return _largest(weight.view(1, 1, *weight.shape), _phases((), (), weight), 1.0)
    sizes, factor, repeats = [], 1.0, _repeats(layer, shape)
    for axis, (size, stride, dilation) in enumerate(zip(shape, layer.stride, layer.dilation, strict=True)):
        kernel = weight.shape[2 + axis]
        weight, beyond = _polyphase(weight, axis, size, stride, dilation)
        steps = weight.shape[2 + axis] - 1
        count = beyond + steps
        border = sum(_border(layer, axis)) - dilation * (kernel - 1)
        if layer.padding_mode == "circular" and stride == 1 and border <= 0:
            count = size
        else:
            factor *= math.sqrt(repeats[axis])
        if count > max(GRID, 8 * steps):
            count = max(GRID, 8 * steps)
            factor /= math.sqrt(math.cos(math.pi * steps / count))
        sizes.append(count)
    taps = weight.flatten(2).permute(2, 0, 1).contiguous()  # (taps, out, in)
    grouped = taps.view(len(taps), layer.groups, -1, taps.shape[2]).transpose(0, 1)
    return _largest(grouped, _phases(sizes, weight.shape[2:], weight), factor)


def _polyphase(weight: Tensor, axis: int, size: int, stride: int, dilation: int) -> tuple[Tensor, int]:
    """The kernel along this axis at stride 1 and dilation 1, with the phases of the image as channels; the image's new size."""
    shared = math.gcd(stride, dilation)  # other pixels than every so manyth never meet
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
    """exp(-i w tap) for half of the frequencies w, the others being their conjugates: shape (frequencies, taps)."""
    found = torch.ones(1, 1, dtype=torch.complex128, device=like.device)
    for axis, (size, taps) in enumerate(zip(sizes, kernel, strict=True)):
        some = size // 2 + 1 if axis == len(sizes) - 1 else size
        steps = torch.arange(some, device=like.device)[:, None] * torch.arange(taps, device=like.device)
        angles = -2 * math.pi * (steps % size).double() / size
        found = torch.kron(found, torch.polar(torch.ones_like(angles), angles))
    return found


def _largest(taps: Tensor, phases: Tensor, factor: float) -> float:
    """Factor times a bound of the norms of sum_tap phase taps, over groups and frequencies. taps: (groups, taps, out, in)."""
    log, known = -math.inf, -math.inf
    rows, entries = taps.shape[2:], taps.shape[2:].numel()
    for group in taps.flatten(2).to(phases.dtype):
        for part in torch.split(phases, max(1, AT_ONCE // entries)):
            matrices = (part @ group).view(-1, *rows)
            upper, known = _gram(matrices if rows[0] <= rows[1] else matrices.mH, known)
            log = max(log, upper)
    return factor * math.exp(log / 2)


def _gram(matrices: Tensor, known: float) -> tuple[float, float]:
    """Bounds, upper and lower, of the logarithm of the largest squared norm among matrices, given one `known` from before.

    With L the logarithm of ||(M M*)^k||_F, L / k is an upper bound and (2 L - log tr (M M*)^k) / k a lower one.
    """
    gram, logs, power, upper = matrices @ matrices.mH, torch.zeros((), dtype=torch.float64), 1, known
    for _ in range(SQUARINGS + 1):
        # Of real numbers: torch takes ten times as long over complex ones.
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


def _border(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, axis: int) -> tuple[int, int]:
    """The padding in front of and behind an axis."""
    both = list(layer._reversed_padding_repeated_twice)  # of the last axis first
    place = 2 * (len(both) // 2 - 1 - axis)
    return both[place], both[place + 1]


def _repeats(layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, shape: tuple[int, ...]) -> list[int]:
    """How often a pixel is repeated by the padding at most, along each axis."""
    if layer.padding_mode == "zeros":
        return [1] * len(shape)
    found = []
    for axis, size in enumerate(shape):
        places = torch.arange(float(size)).view(1, 1, -1)
        places = F.pad(places, _border(layer, axis), layer.padding_mode)
        found.append(int(places.flatten().long().bincount().max()))
    return found
