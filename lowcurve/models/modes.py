"""Context managers that set the mode of a model and restore it afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from lowcurve.types import Classifier


@contextmanager
def set_training(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every layer in training or eval mode, and restore each layer's own mode afterwards.

    Args:
        model: The module whose mode is set.
        training: True for training mode, False for eval mode.

    Example:
        >>> layer = nn.Dropout()
        >>> with set_training(layer, training=False):
        ...     layer.training
        False
        >>> layer.training
        True
    """
    before = [(module, module.training) for module in model.modules()]
    if any(was != training for _, was in before):
        model.train(training)
    try:
        yield
    finally:
        for module, was in before:
            if module.training != was:  # setting an attribute of a module is slow, so only where it changed
                module.training = was


@contextmanager
def frozen(model: Classifier) -> Iterator[None]:
    """Put a model in eval mode with `requires_grad` off for its parameters, and restore both afterwards.

    A forward pass then stores less for the backward pass. A classifier that is not a module is left unchanged.

    Args:
        model: The classifier to freeze.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> with frozen(layer):
        ...     layer.training, layer.weight.requires_grad
        (False, False)
        >>> layer.training, layer.weight.requires_grad
        (True, True)
    """
    if not isinstance(model, nn.Module):
        yield
        return
    wanting = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with set_training(model, training=False):
        for parameter in wanting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in wanting:
                parameter.requires_grad_()


def copy_mode(new: nn.Module, old: nn.Module) -> nn.Module:
    """Return the new layer, put in the training or eval mode of the old one.

    Example:
        >>> copy_mode(nn.ReLU(), nn.GELU().eval()).training
        False
    """
    return new.train(old.training)
