"""The mode of a model, lent: changed inside a `with`, and afterwards as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lowcurve.types import Classifier


@contextmanager
def mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Inside, every layer is in training or in eval mode; afterwards each is as it was."""
    before = [(module, module.training) for module in model.modules()]
    if any(was != training for _, was in before):
        model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            if module.training != was:  # a module takes its time to be written to
                module.training = was


@contextmanager
def frozen(model: Classifier) -> Iterator[None]:
    """Inside, the model is in eval mode and its parameters ask for no gradient; afterwards both are as they were.

    Without gradients for parameters a forward pass keeps less. A classifier that is not a module is left alone.
    """
    if not isinstance(model, nn.Module):
        yield
        return
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with mode(model, training=False):
        for parameter in wanting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in wanting:
                parameter.requires_grad_()


def like(new: nn.Module, old: nn.Module) -> nn.Module:
    """The new layer in the mode of the one whose place it takes.

    Example:
        >>> like(nn.ReLU(), nn.GELU().eval()).training
        False
    """
    return new.train(old.training)
