"""The input gradient of a mean loss, read from a backward pass that runs later for the weights."""

import torch
from torch import Tensor

from lowcurve.network_calls import without_inference
from lowcurve.types import Inputs


class LaterGradient:
    """Gradients grad l(x) of a loss whose mean is differentiated later, such as the loss of a training step.

    The pass that computes the weights' gradients passes the input as well. So these gradients cost the input's part of the
    first layer alone. The factors between the mean and the number that is differentiated, such as a weight or a loss scale,
    are divided out.

    Args:
        x: Inputs, shape (batch, ...). Evaluate the loss at `leaf`, which has the same values.

    Attributes:
        leaf: The inputs as a leaf of a new graph.
        gradient: The gradients, shape (batch, ...). None until the backward pass has run.

    Example:
        >>> later = LaterGradient(torch.tensor([[3.0, 4.0]]))
        >>> mean = later.watch(later.leaf.square().sum(1).mean())
        >>> later.gradient is None
        True
        >>> (10 * mean).backward()
        >>> later.gradient
        tensor([[6., 8.]])
    """

    def __init__(self, x: Inputs) -> None:
        self.leaf = without_inference(x).detach().requires_grad_()
        self.gradient: Tensor | None = None
        self._factor: Tensor | None = None

    def watch(self, mean: Tensor) -> Tensor:
        """Note the gradients when this mean is differentiated, and return it.

        Args:
            mean: Mean over examples of a loss of `leaf`, a scalar.
        """
        if mean.requires_grad:
            mean.register_hook(self._note_factor)  # type: ignore[no-untyped-call]
            self.leaf.register_hook(self._note_gradient)  # type: ignore[no-untyped-call]
        return mean

    def _note_factor(self, factor: Tensor) -> None:
        self._factor = factor.detach()

    def _note_gradient(self, gradient: Tensor) -> None:
        if self._factor is not None:
            scale = torch.where(self._factor == 0, torch.inf, self._factor) / len(self.leaf)
            self.gradient = gradient.detach() / scale.to(gradient)
