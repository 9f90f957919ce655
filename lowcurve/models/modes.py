"""Context managers that set the mode of a model and restore it afterwards."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from weakref import WeakSet

import torch
from torch import nn

from lowcurve.errors import InputError
from lowcurve.network_calls import require_module
from lowcurve.types import Classifier


@contextmanager
def set_training(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put every layer in training or eval mode, and restore each layer's own mode afterwards.

    A module's own `train` method is called, and then every layer's mode is set, since such a method may leave layers as
    they are. Parts without a mode, as those of a frozen script, are left alone.

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
    require_module(model)
    before = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    changes = any(was != training for _, was in before)
    if changes:
        _train(model, [(module, training) for module, _ in before])
    try:
        yield
    finally:
        if changes:
            _train(model, before)


def _train(model: nn.Module, modes: Sequence[tuple[nn.Module, bool]]) -> None:
    """Call the model's own `train` method with the first of the modes, and then set every layer's."""
    with suppress(NotImplementedError):  # raised by the method of an exported network, which heeds no mode
        model.train(modes[0][1])
    _set_modes(modes)


def _set_modes(modes: Iterable[tuple[nn.Module, bool]]) -> None:
    for module, training in modes:
        if module.training != training:  # setting an attribute of a module is slow, so only where it changes
            module.training = training


@contextmanager
def frozen(model: Classifier, *, evaluates: bool = True) -> Iterator[None]:
    """Put a model in eval mode with `requires_grad` off for its parameters, and restore both afterwards.

    A forward pass then stores less for the backward pass. Buffers keep their values: those of a network whose forward
    pass changes them in eval mode, too, are restored. A classifier that is not a module is left unchanged.

    Args:
        model: The classifier to freeze.
        evaluates: False leaves each layer in its mode. Buffers are restored all the same.

    Raises:
        InputError: If the weights were made under `torch.inference_mode`.

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
    if any(parameter.is_inference() for parameter in wanting):
        hint = "build or load the network outside it, or give a copy.deepcopy(model) that is made outside"
        raise InputError("weights that autograd accepts", "weights made under torch.inference_mode", hint)
    steady = evaluates and model in _STEADY
    mode = set_training(model, training=False) if evaluates else nullcontext()
    with mode, nullcontext() if steady else keep_buffers(model) as changed:
        for parameter in wanting:
            parameter.requires_grad_(False)
        try:
            yield
        finally:
            for parameter in wanting:
                parameter.requires_grad_()
    if evaluates and changed == []:
        _STEADY.add(model)


@contextmanager
def keep_buffers(model: nn.Module) -> Iterator[list[str]]:
    """Restore the values of all buffers afterwards, whatever forward passes did to them.

    Args:
        model: The module.

    Yields:
        A list that holds the names of the buffers that changed, once the block has ended.

    Example:
        >>> layer = nn.BatchNorm1d(1)
        >>> with keep_buffers(layer) as changed:
        ...     _ = layer(torch.tensor([[1.0], [3.0]]))
        >>> changed, layer.running_mean
        (['running_mean', 'running_var', 'num_batches_tracked'], tensor([0.]))
    """
    changed: list[str] = []
    before = [
        (module, f"{prefix}.{name}".lstrip("."), name, buffer, buffer.detach().clone())
        for prefix, module in model.named_modules()
        for name, buffer in module.named_buffers(recurse=False)
    ]
    try:
        yield changed
    finally:
        with torch.no_grad():
            for module, path, name, buffer, value in before:
                now = getattr(module, name, None)
                if now is None or not torch.equal(now, value):
                    setattr(module, name, buffer)
                    buffer.copy_(value)
                    changed.append(path)


_STEADY: "WeakSet[nn.Module]" = WeakSet()
"""Networks whose passes in eval mode were seen to leave their buffers as they are."""


def set_own_mode(*modules: nn.Module, training: bool) -> None:
    """Set the mode of these modules, but not of the layers in them.

    Args:
        modules: The modules.
        training: True for training mode, False for eval mode.

    Example:
        >>> block = nn.Sequential(nn.Dropout())
        >>> set_own_mode(block, training=False)
        >>> block.training, block[0].training
        (False, True)
    """
    _set_modes((module, training) for module in modules)


def copy_mode(new: nn.Module, old: nn.Module) -> nn.Module:
    """Return the new layer, put in the training or eval mode of the old one.

    Example:
        >>> copy_mode(nn.ReLU(), nn.GELU().eval()).training
        False
    """
    return new.train(old.training)
