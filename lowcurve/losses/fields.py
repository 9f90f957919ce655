"""The loss of a network as a function of its input."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm

from lowcurve.errors import InputError
from lowcurve.losses.functions import cross_entropy
from lowcurve.losses.reduction import evaluate_loss
from lowcurve.network_calls import call, without_inference
from lowcurve.randomness import RepeatedDraws
from lowcurve.types import Classifier, Field, Inputs, Labels, Logits, Loss, PerExample


@dataclass(frozen=True)
class LossField:
    """The field x -> loss(model(x), y), as `loss_field` returns it.

    It shows its logits (`types.LogitField`), so the Gauss-Newton part of its Hessian can be split off.

    Attributes:
        model: Pixels in [0, 1] -> logits.
        y: Labels, shape (batch,).
        loss: Logits, labels -> one number per example.
        draws: If given, all passes draw the same random numbers, and have the same weights.
    """

    model: Classifier
    y: Labels
    loss: Loss = cross_entropy
    draws: RepeatedDraws | None = None

    def __call__(self, x: Inputs) -> PerExample:
        """Return the loss of each example, shape (batch,)."""
        return self.from_logits(self.logits(x))

    def logits(self, x: Inputs) -> Logits:
        """Return the logits z(x), shape (batch, classes)."""
        if self.draws is None:
            return call(self.model, x)
        with self.draws.repeat(x, self.model) as again, _same_weights(self.model) if again else nullcontext():
            return call(self.model, x)

    def from_logits(self, logits: Logits) -> PerExample:
        """Return the loss of each example from its logits."""
        return evaluate_loss(self.loss, logits, self.y)

    @property
    def kind(self) -> str:
        """Name of the loss."""
        return str(getattr(self.loss, "__qualname__", type(self.loss).__qualname__))

    def with_model(self, model: Classifier) -> "LossField":
        """Return the same loss of another network.

        Args:
            model: The network.
        """
        return replace(self, model=model)

    def take(self, rows: Tensor) -> "LossField":
        """Return the field of some of the examples.

        Args:
            rows: Indices of the examples; an example may be repeated.
        """
        return replace(self, y=self.y[rows])

    def repeating_draws(self) -> "LossField":
        """Return the same field, whose passes all draw the same random numbers from its next pass on.

        The passes of a training step, such as the two of CURE, then have the same masks of dropout and drop-path. Spectral
        normalization takes its step of power iteration in the first pass only.
        """
        return replace(self, draws=RepeatedDraws())


def loss_field(
    model: Classifier, y: Labels, loss: Loss = cross_entropy, *, batch_statistics: bool = False
) -> LossField:
    """Return the loss of a network as a function of its input: x -> loss(model(x), y), one number per example.

    The examples are independent: d l_i / d x_j = 0 for i != j. BatchNorm in training mode violates this, and dropout makes
    the field random, so a model in training mode raises an error.

    Args:
        model: Pixels in [0, 1] -> logits.
        y: Labels, shape (batch,).
        loss: (logits, labels) -> one number per example.
        batch_statistics: Accept a model in training mode, as a training step does.

    Raises:
        InputError: If the model is in training mode and `batch_statistics` is not set.

    Example:
        >>> import torch
        >>> field = loss_field(nn.Linear(2, 3).eval(), torch.tensor([0]))
        >>> field(torch.zeros(1, 2)).shape
        torch.Size([1])
    """
    if isinstance(model, nn.Module) and not batch_statistics:
        require_eval(model)
    return LossField(model, without_inference(y), loss)


@contextmanager
def _same_weights(model: Classifier) -> Iterator[None]:
    """Leave out the power iteration of `torch.nn.utils.spectral_norm`, which changes the weights in each training pass."""
    parts = list(model.modules()) if isinstance(model, nn.Module) else []
    norms: list[Any] = [part for part in parts if isinstance(part, _SpectralNorm)]
    hooks = [hook for part in parts for hook in vars(part).get("_forward_pre_hooks", {}).values()]
    norms += [hook for hook in hooks if isinstance(hook, SpectralNorm)]
    steps = [norm.n_power_iterations for norm in norms]
    for norm in norms:
        norm.n_power_iterations = 0
    try:
        yield
    finally:
        for norm, count in zip(norms, steps, strict=True):
            norm.n_power_iterations = count


def require_loss_field(field: Field) -> LossField:
    """Return the field if it shows its model and labels.

    Args:
        field: Any field.

    Raises:
        InputError: If it is no `LossField`.
    """
    if not isinstance(field, LossField):
        received = type(field).__name__
        raise InputError("a field that shows its model and labels", received, "write loss_field(model, y)")
    return field


def require_eval(model: nn.Module) -> None:
    """Check that no layer mixes examples or is random, as BatchNorm and dropout in training mode do.

    Args:
        model: The network.

    Raises:
        InputError: If there is such a layer.
    """
    for name, module in model.named_modules():
        unsafe = isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd)
        if unsafe and module.training:
            raise InputError(
                "a model in eval mode, where each example's loss depends on that example alone",
                f"{type(module).__name__} {name!r} in training mode",
                "write model.eval() first",
            )
