"""A classifier as other libraries take it: on the box [0, 1], and in eval mode whatever they ask."""

import torch
from torch import Tensor, nn

from lowcurve.models.modes import set_own_mode
from lowcurve.network_calls import call
from lowcurve.types import Classifier


class UnitBoxClassifier(nn.Module):
    """A classifier of inputs in [0, 1] that scales them to its own box and stays in eval mode.

    Args:
        model: The classifier, in eval mode.
        box: Lowest and highest pixel value.
        device: Device of the inputs. Libraries read it from the first parameter, so there is always one.

    Example:
        >>> UnitBoxClassifier(nn.Identity(), (-1.0, 1.0))(torch.tensor([[0.0, 0.5]]))
        tensor([[-1.,  0.]])
    """

    def __init__(self, model: Classifier, box: tuple[float, float], device: torch.device | None = None) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.empty(0, device=device), requires_grad=False)
        self.model, self.box = model, box
        set_own_mode(self, training=False)

    def train(self, mode: bool = True) -> "UnitBoxClassifier":  # noqa: ARG002 (torch's signature)
        """Return the classifier as it is."""
        return self

    def to_pixels(self, u: Tensor) -> Tensor:
        """Return points of [0, 1] as points of the box."""
        low, high = self.box
        return u if self.box == (0.0, 1.0) else low + u * (high - low)

    def from_pixels(self, x: Tensor) -> Tensor:
        """Return points of the box as points of [0, 1]."""
        low, high = self.box
        return x if self.box == (0.0, 1.0) else (x - low) / (high - low)

    def forward(self, u: Tensor) -> Tensor:
        """Return the logits at points of [0, 1]."""
        return call(self.model, self.to_pixels(u))
