"""Compare an input gradient with the image: correlation of the gradient with local contrast."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import gradient
from lowcurve.errors import InputError
from lowcurve.types import Field, Inputs, PerExample


def local_contrast(x: Inputs) -> Tensor:
    """Compute the local contrast of each pixel, summed over channels.

    The local contrast is the largest minus the smallest value of the pixel's 3 x 3 neighborhood.

    Args:
        x: Images, shape (batch, channels, height, width).

    Returns:
        Contrasts, shape (batch, height, width).

    Raises:
        InputError: If the inputs are not images.

    Example:
        >>> local_contrast(torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]]))
        tensor([[[0., 0., 1., 1.]]])
    """
    if x.ndim != 4:
        raise InputError("images of shape (batch, channels, height, width)", tuple(x.shape), "leave the contrast out")
    highest, lowest = (sign * F.max_pool2d(sign * x, 3, stride=1, padding=1) for sign in (1, -1))
    return (highest - lowest).sum(1)


def contrast_alignment(field: Field, x: Inputs) -> PerExample:
    """Compute the correlation over pixels of the absolute input gradient, summed over channels, with `local_contrast`.

    It is 1 where the gradient follows edges and strokes alone. No scaling of the gradient changes it.
    yu2018interpreting shows in pictures that the Jacobian of a robust network follows the image. This is a number for
    it.

    Args:
        field: Per-example loss, margin or logit as a function of the input.
        x: Images, shape (batch, channels, height, width).

    Returns:
        One correlation per image; 0 where the gradient or the contrast is the same at every pixel.

    Raises:
        InputError: If the inputs are not images.

    Cost: one input gradient.

    Example:
        >>> x = torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]])
        >>> contrast_alignment(lambda x: 5 * (x * torch.tensor([0.0, 0.0, 1.0, -1.0])).sum((1, 2, 3)), x)
        tensor([1.])

    Reference: yu2018interpreting, Figs. 8, 10 and 15.
    """
    seen = [v.flatten(1) for v in (gradient(field, x).abs().sum(1), local_contrast(x))]
    first, second = (v - v.mean(1, keepdim=True) for v in seen)
    lengths = first.square().sum(1).sqrt() * second.square().sum(1).sqrt()
    return torch.where(lengths == 0, 0, (first * second).sum(1) / lengths)
