"""Evaluate a loss of the user, and refuse one that is reduced over the batch."""

from contextlib import suppress
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.losses.functions import cross_entropy, log_odds, margin, margin_loss, true_logit
from lowcurve.types import Labels, Logits, Loss, PerExample

OWN = (cross_entropy, log_odds, margin, margin_loss, true_logit)
"""Losses with one number per example by construction."""
_CHECKED: "WeakValueDictionary[int, Loss]" = WeakValueDictionary()
"""Further losses that were seen to give one, by their id."""


def evaluate_loss(loss: Loss, logits: Logits, y: Labels) -> PerExample:
    """Return the loss of each example, or refuse a loss that is reduced.

    A mean over the batch divides every gradient by the batch size, and a sum mixes the examples. So a loss must give one
    number per example, which depends on that example's logits and label alone.

    Args:
        loss: Logits, labels -> one number per example.
        logits: Shape (batch, classes), or another with the batch first, which the loss takes.
        y: Labels, shape (batch, ...), in the form that the loss takes.

    Raises:
        InputError: If the loss is reduced, mixes examples, or is random. The first call with a loss evaluates it on two
            more examples to find out, since a batch of one example does not tell.

    Example:
        >>> evaluate_loss(torch.nn.functional.cross_entropy, torch.zeros(2, 3), torch.tensor([0, 1]))
        Traceback (most recent call last):
        ...
        lowcurve.errors.InputError: Expected a loss with one number per example, got cross_entropy with values of shape () \
for 2 examples. Give it reduction="none".
    """
    values = loss(logits, y)
    if any(loss is own for own in OWN):
        return values
    if not isinstance(values, Tensor) or values.shape != y.shape[:1]:
        raise _reduced(loss, _shape(values), len(y))
    if _CHECKED.get(id(loss)) is not loss and len(y):
        _require_separate_examples(loss, logits.detach(), y)
        with suppress(TypeError):  # an object without weak references is looked at each time
            _CHECKED[id(loss)] = loss
    return values


def _require_separate_examples(loss: Loss, logits: Logits, y: Labels) -> None:
    """Refuse a loss whose first value changes with another example beside it."""
    ramp = torch.arange(1, logits[0].numel() + 1, device=logits.device).to(logits).view_as(logits[0])
    pair, labels = torch.stack([logits[0], logits[0] + ramp]), y[[0, 0]]
    with torch.no_grad():
        try:
            alone, both = loss(pair[:1], labels[:1]), loss(pair, labels)
        except (RuntimeError, IndexError, ValueError):
            return  # it holds something for each example of this batch, such as targets, and fits no other
    if not isinstance(both, Tensor) or both.shape != (2,):
        raise _reduced(loss, _shape(both), 2)
    if not torch.allclose(alone, both[:1], rtol=1e-3, atol=1e-6, equal_nan=True):
        hint = 'give it reduction="none", and let it draw no random numbers'
        raise InputError("a loss of each example alone", f"{_name(loss)}, whose values mix examples", hint)


def _reduced(loss: Loss, shape: object, count: int) -> InputError:
    found = f"{_name(loss)} with values of shape {shape} for {count} example{'s' * (count != 1)}"
    return InputError("a loss with one number per example", found, 'give it reduction="none"')


def _shape(values: object) -> object:
    return tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__


def _name(loss: Loss) -> str:
    return str(getattr(loss, "__name__", type(loss).__name__))
