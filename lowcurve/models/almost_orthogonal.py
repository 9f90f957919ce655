"""Almost-orthogonal layers (AOL), and a network of them whose Lipschitz constant is at most its scale."""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.models.layers import nonlinearity

SMALLEST = 1e-12
"""Smallest row sum, for inputs whose weights are all 0."""


class AOLLinear(nn.Linear):
    """The linear layer x -> W D x + b with D = diag(sum_j |W^T W|_ij)^(-1/2), whose operator norm is at most 1.

    W D has norm at most 1 because D^(-2) - W^T W is diagonally dominant with a diagonal of at least 0. The rows of an
    orthogonal W need no scaling, so training tends there.

    Example:
        >>> layer = AOLLinear(2, 2, bias=False)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> layer(torch.tensor([[1.0, 1.0]])).tolist()
        [[1.0, 1.0]]

    Reference: Prach and Lampert 2022, Theorem 1.
    """

    def reset_parameters(self) -> None:
        """Start at an orthogonal matrix."""
        nn.init.orthogonal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer to the last axis."""
        sums = (self.weight.T @ self.weight).abs().sum(1)
        return F.linear(x, self.weight * (sums + SMALLEST).rsqrt(), self.bias)


class AOLConv2d(nn.Conv2d):
    """A convolution with stride 1 and zero padding whose input channels are scaled so that its operator norm is at most 1.

    The scale of channel i is (sum over channels j and shifts s of |sum_o,p P_oi(p + s) P_oj(p)|)^(-1/2).

    Args:
        channels: Number of input channels.
        outputs: Number of output channels.
        kernel: Odd size of the kernel.

    Example:
        >>> layer = AOLConv2d(1, 1, 3)
        >>> _ = nn.init.ones_(layer.weight)
        >>> round(layer(torch.ones(1, 1, 5, 5))[0, 0, 2, 2].item(), 3)  # the norm of the plain layer is near 9
        1.0

    Reference: Prach and Lampert 2022, Theorem 2.
    """

    def __init__(self, channels: int, outputs: int, kernel: int) -> None:
        super().__init__(channels, outputs, kernel, padding=kernel // 2)

    def reset_parameters(self) -> None:
        """Start at an orthogonal matrix in the middle of the kernel."""
        with torch.no_grad():
            self.weight.zero_()
            middle = torch.empty(self.weight.shape[:2])
            nn.init.orthogonal_(middle)
            self.weight[:, :, self.weight.shape[2] // 2, self.weight.shape[3] // 2] = middle
            if self.bias is not None:
                self.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer."""
        by_input = self.weight.transpose(0, 1)
        products = F.conv2d(by_input, by_input, padding=self.weight.shape[-1] - 1)
        scale = (products.abs().sum((1, 2, 3)) + SMALLEST).rsqrt()
        return F.conv2d(x, self.weight * scale[:, None, None], self.bias, padding=self.padding)


class Scale(nn.Module):
    """Multiply by a constant, so that logits of a network with Lipschitz constant 1 can be confident.

    Args:
        factor: The constant.

    Example:
        >>> Scale(2.0)(torch.ones(1)).item()
        2.0
    """

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product."""
        return x * self.factor

    def extra_repr(self) -> str:
        """Return the factor for the module's representation."""
        return f"{self.factor:g}"


def aol_convnet(shape: Sequence[int], classes: int, act: str, width: int = 32, **options: Any) -> nn.Sequential:
    """Build a network of three almost-orthogonal convolutions and two linear layers, for certificates in l_2.

    Every part has an operator norm of at most 1, and the end multiplies by `scale`. Between the convolutions the image is
    folded: four neighbors become channels, which loses nothing. The absolute value keeps the length of gradients, unlike ReLU.

    Args:
        shape: Shape of one image: channels, height, width. Zeros fill it up to multiples of four.
        classes: Number of classes.
        act: Name of the nonlinearity. Its slope should be at most 1.
        width: Channels of the first convolution.
        **options: scale, the factor of the logits: the larger, the smaller are the margins that training asks for.

    Returns:
        The network, without a normalization layer.

    Reference: Prach and Lampert 2022, section 4.
    """
    channels, height, breadth = shape
    scale = float(options.pop("scale", 4.0))
    flat = prod((8 * width, -(-height // 4), -(-breadth // 4)))
    return nn.Sequential(
        nn.ZeroPad2d((0, -breadth % 4, 0, -height % 4)),
        AOLConv2d(channels, width, 3),
        nonlinearity(act),
        nn.PixelUnshuffle(2),
        AOLConv2d(4 * width, 2 * width, 3),
        nonlinearity(act),
        nn.PixelUnshuffle(2),
        AOLConv2d(8 * width, 8 * width, 1),
        nonlinearity(act),
        nn.Flatten(),
        AOLLinear(flat, 8 * width),
        nonlinearity(act),
        AOLLinear(8 * width, classes),
        Scale(scale),
    )
