"""Whether a network's input gradient follows what is drawn: its correlation with an image's local contrast."""

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.analysis.calculus import gradient
from lowcurve.errors import InputError
from lowcurve.types import Field, Inputs, PerExample


def local_contrast(x: Inputs) -> Tensor:
    """Largest less smallest value of each pixel's 3 x 3 neighborhood, summed over channels, shape (batch, height, width).

    Errors: InputError for inputs that are no images.

    Example:
        >>> local_contrast(torch.tensor([[[[0.0, 0.0, 0.0, 1.0]]]]))
        tensor([[[0., 0., 1., 1.]]])
    """
    if x.ndim != 4:
        raise InputError("images of shape (batch, channels, height, width)", tuple(x.shape), "leave the contrast out")
    highest, lowest = (sign * F.max_pool2d(sign * x, 3, stride=1, padding=1) for sign in (1, -1))
    return (highest - lowest).sum(1)


def contrast_alignment(field: Field, x: Inputs) -> PerExample:
    """The correlation over pixels of sum_c |J_c| with `local_contrast`: 1 where the gradient follows edges and strokes alone.

    A number for what yu2018interpreting shows in pictures, that a robust network's Jacobian keeps to the pattern of the image.
    No scale of the gradient changes it. Conventions: 0 where either is the same at every pixel.
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
    return torch.where(lengths > 0, (first * second).sum(1) / lengths, 0)
