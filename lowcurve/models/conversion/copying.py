"""Copy a network with a separate module for each place of a nonlinearity."""

import copy
from typing import Any

from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.models.conversion.layer_kinds import NONLINEARITY, layer_kind


def copy_sharing_parameters(model: nn.Module) -> nn.Module:
    """Copy a network, sharing its parameters, with a separate module for each place of a nonlinearity.

    Args:
        model: The network, which is not affected by changes of the copy's modules.

    Returns:
        The copy.

    Example:
        >>> act = nn.ReLU()
        >>> model = nn.Sequential(nn.Linear(2, 2), act, act)
        >>> copied = copy_sharing_parameters(model)
        >>> copied[0].weight is model[0].weight, copied[1] is copied[2]
        (True, False)
    """
    return _copy(model, {id(parameter): parameter for parameter in model.parameters()})


def copy_model(model: nn.Module) -> nn.Module:
    """Copy a network and its parameters, with a separate module for each place of a nonlinearity.

    Args:
        model: The network.

    Returns:
        The copy.
    """
    return _copy(model, {})


def _copy(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        copied = copy.deepcopy(model, memo | _without_graphs(model))
    except Exception as error:  # whatever the parts of the user's network raise
        hint = "store only parameters, buffers and detached tensors in it"
        raise InputError("a network that copy.deepcopy can copy", describe_error(error), hint) from error
    seen: set[int] = set()
    for parent in copied.modules():
        for name, child in parent._modules.items():
            if child is not None and layer_kind(child) == NONLINEARITY and not list(child.parameters()):
                if id(child) in seen:
                    parent._modules[name] = copy.deepcopy(child)
                seen.add(id(child))
    return copied


def _without_graphs(model: nn.Module) -> dict[int, Tensor]:
    """Return copies of what layers have kept of a pass, such as pruned weights and attention maps, by the original's id.

    `copy.deepcopy` refuses tensors with a graph.
    """
    found: dict[int, Tensor] = {}
    for part in model.modules():
        for value in vars(part).values():
            several = (
                value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else [value]
            )
            found |= {id(one): one.detach().clone() for one in several if isinstance(one, Tensor) and not one.is_leaf}
    return found


def describe_error(error: Exception) -> str:
    """Return the class and the first line of an error, at most 120 characters of it.

    Args:
        error: The error.

    Returns:
        The description.
    """
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"
