"""Losses of logits and labels, one number per example."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from lowcurve.errors import InputError
from lowcurve.network_calls import ONE_ROW
from lowcurve.types import Labels, Logits, PerExample


def cross_entropy(logits: Logits, y: Labels) -> PerExample:
    """Return cross-entropy in a form whose derivatives are right for confident examples.

    The form is softplus(logsumexp_{k != y}(z_k - z_y)). The usual one, log_softmax and a gather, loses the derivative to
    rounding. In float32 its input gradient is 7 % wrong at a loss of 1e-6 and 93 % at 1e-8, on the small network of
    tests/test_losses.py. Wherever a gradient is normalized, that becomes a long step in a wrong direction. Here gradient
    and Hessian keep their relative precision from losses of 10 down to 1e-8.

    With probabilities p as labels, as mixup and label smoothing give them, it is -sum_k p_k log softmax(z)_k = sum_k p_k *
    cross_entropy(z, t) + sum_k p_k (z_t - z_k) with t the likeliest class of p.

    Args:
        logits: Shape (batch, classes).
        y: Labels, shape (batch,), or probabilities, shape (batch, classes).

    Example:
        >>> cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([0]))  # log(1 + exp(-20))
        tensor([2.0612e-09])
        >>> cross_entropy(torch.tensor([[20.0, 0.0]]), torch.tensor([[1.0, 0.0]]))
        tensor([2.0612e-09])
    """
    return _softplus(log_odds(logits, y)) if y.ndim == 1 else _soft_cross_entropy(logits, y)


def log_odds(logits: Logits, y: Labels) -> PerExample:
    """Return logsumexp_{k != y}(z_k - z_y) = log((1 - p_y) / p_y). Cross-entropy is its softplus.

    Both rise along the same directions, but the gradient of the log-odds does not vanish with confidence. The gradient of
    cross-entropy underflows in float32 once the logits are a hundred apart. An attack that follows it then makes no step
    and reports a robustness that does not exist.

    Args:
        logits: Shape (batch, classes).
        y: Labels, shape (batch,).

    Example:
        >>> log_odds(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))
        tensor([-200.])
    """
    _check(logits, y)
    true, others = _true_and_others(logits, y)
    against = others - true[:, None]
    largest = against.argmax(1, keepdim=True)
    # Factor out the largest term to avoid cancellation in the value and its derivatives.
    top = against.gather(1, largest)
    rest = (against - top).exp().scatter(1, largest, 0.0).sum(1)
    return top.squeeze(1) + rest.log1p()


def margin(logits: Logits, y: Labels) -> PerExample:
    """Return the margin z_y - max_{k != y} z_k, which is positive where the example is classified as y.

    Args:
        logits: Shape (batch, classes).
        y: Labels, shape (batch,).

    Example:
        >>> margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([0]))
        tensor([1.])

    Reference: yu2018interpreting, Eq. (2).
    """
    _check(logits, y)
    column = y[:, None]
    return logits.gather(1, column).squeeze(1) - logits.scatter(1, column, -math.inf).amax(1)


def margin_loss(logits: Logits, y: Labels) -> PerExample:
    """Return the negative margin, the loss of a margin attack. Unlike cross-entropy, it works at any scale of the logits.

    Args:
        logits: Shape (batch, classes).
        y: Labels, shape (batch,).

    Reference: Carlini and Wagner 2017, objective f_6; yu2018interpreting, Eq. (3).
    """
    return -margin(logits, y)


def true_logit(logits: Logits, y: Labels) -> PerExample:
    """Return the logit z_y of the label.

    Args:
        logits: Shape (batch, classes).
        y: Labels, shape (batch,).

    Example:
        >>> true_logit(torch.tensor([[3.0, 1.0]]), torch.tensor([1]))
        tensor([1.])
    """
    _check(logits, y)
    return logits.gather(1, y[:, None]).squeeze(1)


@dataclass(frozen=True)
class TemperatureCrossEntropy:
    """Cross-entropy of z / T, the training loss of the teacher in defensive distillation.

    The same predictions need logits that are T times as far apart, and the loss's gradient in them is T times smaller. A
    network that is trained so and used at T = 1 is confident beyond single precision: the gradient of its cross-entropy
    underflows.

    Args:
        temperature: The temperature T, above 0.

    Example:
        >>> TemperatureCrossEntropy(10.0)(torch.tensor([[200.0, 0.0]]), torch.tensor([0]))  # log(1 + exp(-20))
        tensor([2.0612e-09])

    Reference: Papernot et al. 2016 (defensive distillation).
    """

    temperature: float

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def __call__(self, logits: Logits, y: Labels) -> PerExample:
        """Return one number per example, at least 0, from logits (batch, classes) and labels (batch,)."""
        return cross_entropy(logits / self.temperature, y)


def require_temperature(temperature: float) -> None:
    """Check that logits can be divided by the temperature.

    Args:
        temperature: The temperature T.

    Raises:
        InputError: If it is not finite and above 0.
    """
    if not (math.isfinite(temperature) and temperature > 0):
        raise InputError("a temperature above 0", temperature, "write temperature=1.0 for an ordinary softmax")


def least_likely(logits: Logits) -> Labels:
    """Return the class of the smallest logit, the target of the least-likely attack.

    Args:
        logits: Shape (batch, classes).

    Example:
        >>> least_likely(torch.tensor([[3.0, 1.0, 2.0]]))
        tensor([1])
    """
    return logits.argmin(1)


def _soft_cross_entropy(logits: Logits, p: Tensor) -> PerExample:
    if p.shape != logits.shape or not p.is_floating_point():
        expected = f"labels of shape ({len(logits)},), or probabilities of shape {tuple(logits.shape)}"
        hint = "give class numbers, or a float tensor with a row of probabilities for each example"
        raise InputError(expected, f"{p.dtype} of shape {tuple(p.shape)}", hint)
    top = p.argmax(1)
    others = logits.gather(1, top[:, None]) - logits  # exactly 0 at the top, so one-hot rows are as precise as labels
    return p.sum(1) * cross_entropy(logits, top) + (p * others).sum(1)


def _softplus(a: PerExample) -> PerExample:
    """Return log(1 + exp(a)). Each of torch's two forms has an exact second derivative on one side only."""
    return torch.where(a < 0, F.softplus(a), -F.logsigmoid(-a))


def _true_and_others(logits: Logits, y: Labels) -> tuple[PerExample, Tensor]:
    """Return z_y, shape (batch,), and the other logits, shape (batch, classes - 1)."""
    classes = logits.shape[1]
    others = torch.arange(classes - 1, device=y.device).expand(len(y), -1)
    others = others + (others >= y[:, None])
    return logits.gather(1, y[:, None]).squeeze(1), logits.gather(1, others)


def require_class_numbers(y: Tensor) -> None:
    """Check that labels are one class number per example, which margins and attacks need.

    Args:
        y: Labels.

    Raises:
        InputError: If they are probabilities, or of another type than torch's for indices.

    Example:
        >>> require_class_numbers(torch.tensor([0, 2]))
    """
    if y.ndim != 1:
        hint = "write labels.argmax(1), or use cross-entropy, which takes probabilities"
        raise InputError("one class number for each example", f"labels of shape {tuple(y.shape)}", hint)
    if y.dtype != torch.int64:
        raise InputError("class numbers of type torch.int64", y.dtype, "write y.long()")


def _check(logits: Logits, y: Labels) -> None:
    require_class_numbers(y)
    if logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        raise InputError(
            f"logits of shape ({len(y)}, classes) with at least 2 classes",
            tuple(logits.shape),
            ONE_ROW,
        )
    # On a GPU this check would stall every step; the data set has checked its labels already.
    if y.is_cuda or not len(y):
        return
    low, high = (int(end) for end in y.aminmax())
    if low < 0 or high >= logits.shape[1]:
        wrong = low if low < 0 else high
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}", wrong, "give labels that count the classes from 0")
