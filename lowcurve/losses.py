"""Losses, one number per example, and `loss_field`, the only bridge from learning to geometry."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.errors import InputError
from lowcurve.types import Classifier, Field, Inputs, Labels, Logits, Loss, PerExample


def cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """softplus(logsumexp_{k != y}(z_k - z_y)): cross-entropy whose derivatives are right for confident examples.

    The usual form, log_softmax and a gather, loses the derivative to rounding: in float32 its input gradient is 7 %
    wrong at a loss of 1e-6 and 93 % at 1e-8 (on the small network of tests/test_losses.py), which turns into long steps
    in no direction wherever a gradient is normalized. Here gradient and Hessian keep their relative precision from
    losses of 10 down to 1e-8.

    Example:
        >>> cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))  # log(1 + exp(-20))
        tensor([2.0612e-09])
    """
    return _softplus(log_odds(logits, y))


def log_odds(logits: Logits, y: Labels) -> PerExample:
    """logsumexp_{k != y}(z_k - z_y) = log((1 - p_y) / p_y), of which cross-entropy is the softplus.

    It rises where cross-entropy rises and along the same directions, but its gradient does not vanish with confidence:
    that of cross-entropy underflows in float32 once the logits are a hundred apart, and an attack that follows it then
    stands still and reports a robustness that is not there.

    Example:
        >>> log_odds(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
        tensor([-200.])
    """
    # Around the largest of them, so that no difference of nearly equal numbers is taken in value or derivative.
    _check(logits, y)
    true, others = _true_and_others(logits, y)
    against = others - true[:, None]
    largest = against.argmax(1, keepdim=True)
    top = against.gather(1, largest)
    rest = (against - top).exp().scatter(1, largest, 0.0).sum(1)
    return top.squeeze(1) + rest.log1p()


def margin(logits: Logits, y: Labels) -> PerExample:
    """z_y - max_{k != y} z_k: positive where the example is classified as y, zero on the decision boundary.

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([1.])

    Reference: yu2018interpreting, Eq. (2).
    """
    _check(logits, y)
    place = y[:, None]
    return logits.gather(1, place).squeeze(1) - logits.scatter(1, place, -math.inf).amax(1)


def margin_loss(logits: Logits, y: Labels) -> PerExample:
    """-margin: what an attack on the margin ascends; unlike cross-entropy, scaling the logits does not blind it.

    Reference: Carlini and Wagner 2017, objective f_6; yu2018interpreting, Eq. (3).
    """
    return -margin(logits, y)


def true_logit(logits: Logits, y: Labels) -> PerExample:
    """z_y: the field of a single logit.

    Example:
        >>> true_logit(torch.tensor([[3.0, 1.0]]), torch.tensor([1]))
        tensor([1.])
    """
    _check(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True)
class TemperatureCrossEntropy:
    """Cross-entropy of z / T: what the teacher of a defensive distillation is trained with.

    The same predictions take logits T times as far apart, and the slope in them is T times as flat. A network trained so and
    used as it is, at T = 1, is confident beyond single precision: the gradient of its cross-entropy underflows.

    Example:
        >>> TemperatureCrossEntropy(10.0)(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))  # log(1 + exp(-20))
        tensor([2.0612e-09])

    Reference: Papernot et al. 2016 (defensive distillation).
    """

    temperature: float

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        """One number per example, at least 0."""
        return cross_entropy(logits / self.temperature, y)


def require_temperature(temperature: float) -> None:
    """Refuse what logits cannot be divided by."""
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError("a temperature above 0", temperature, "write temperature=1.0 for an ordinary softmax")


def least_likely(logits: Logits) -> Labels:
    """The class of smallest logit, the target of the least-likely attack.

    Example:
        >>> least_likely(torch.tensor([[3.0, 1.0, 2.0]]))
        tensor([1])
    """
    return logits.argmin(1)


@dataclass(frozen=True)
class LossField:
    """x -> loss(model(x), y), showing its two halves so that the Gauss-Newton part of its Hessian can be split off."""

    model: Classifier
    y: Labels
    loss: Loss = cross_entropy

    def __call__(self, x: Inputs) -> PerExample:
        return self.from_logits(self.logits(x))

    def logits(self, x: Inputs) -> Logits:
        """The first half, x -> z."""
        return self.model(x)

    def from_logits(self, logits: Logits) -> PerExample:
        """The second half, z -> l."""
        return self.loss(logits, self.y)

    def take(self, rows: Tensor) -> "LossField":
        """The field of these examples, by their numbers; one may stand there several times."""
        return replace(self, y=self.y[rows])


def loss_field(
    model: Classifier, y: Labels, loss: Loss = cross_entropy, *, batch_statistics: bool = False
) -> LossField:
    """The loss of a network as a function of its input: x -> loss(model(x), y), one number per example.

    Its law is d l_i / d x_j = 0 for i != j. BatchNorm in training mode breaks it, and dropout makes it random, so a model
    in training mode is refused; `batch_statistics=True` says that this is known and meant (a training step).

    Example:
        >>> field = loss_field(nn.Linear(2, 3).eval(), torch.tensor([0]))
        >>> field(torch.zeros(1, 2)).shape
        torch.Size([1])
    """
    if isinstance(model, nn.Module) and not batch_statistics:
        require_eval(model)
    return LossField(model, y, loss)


def require_loss_field(field: Field) -> LossField:
    """The field, once it is known to show its model and labels."""
    if not isinstance(field, LossField):
        received = type(field).__name__
        raise InputError("a field that shows its model and labels", received, "write loss_field(model, y)")
    return field


def require_eval(model: nn.Module) -> None:
    """Refuse a model with a layer that acts on the batch or by chance, such as BatchNorm or dropout, in training mode."""
    for name, module in model.named_modules():
        if module.training and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            raise InputError(
                "a model in eval mode, where each example's loss depends on that example alone",
                f"{type(module).__name__} {name!r} in training mode",
                "write model.eval() first",
            )


def _softplus(a: PerExample) -> PerExample:
    """log(1 + exp(a)). Each of torch's two forms has a second derivative that is exact on one side only."""
    return torch.where(a < 0, F.softplus(a), -F.logsigmoid(-a))


def _true_and_others(logits: Logits, y: Labels) -> tuple[PerExample, Tensor]:
    """z_y, shape (batch,), and the other logits, shape (batch, classes - 1)."""
    classes = logits.shape[1]
    others = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    others = others + (others >= y[:, None])
    return logits.gather(1, y[:, None]).squeeze(1), logits.gather(1, others)


def _check(logits: Logits, y: Labels) -> None:
    if logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise InputError(
            f"logits of shape ({len(y)}, classes) with at least 2 classes",
            tuple(logits.shape),
            "return one row of logits an example from the model",
        )
    # On a GPU the look would make every step wait; there the data set has checked its labels already.
    if not y.is_cuda and len(y) and (int(y.min()) < 0 or int(y.max()) >= logits.shape[1]):
        wrong = int(y.min()) if int(y.min()) < 0 else int(y.max())
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}", wrong, "give labels that count the classes from 0")
