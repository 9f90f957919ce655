"""Replace one layer of a network by another."""

from torch import nn

from lowcurve.models.modes import copy_mode


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replace the layer of that name wherever the network contains it; the new layer takes over its mode and hooks.

    Args:
        model: The network, changed in place.
        name: Name of the layer.
        new: The layer that replaces it.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU()).eval()
        >>> replace_module(model, "1", nn.GELU())
        >>> model[1], model[1].training
        (GELU(approximate='none'), False)
    """
    old = model.get_submodule(name)
    vars(new).update({key: value for key, value in vars(old).items() if key.endswith(("_hooks", "_hooks_with_kwargs"))})
    copy_mode(new, old)
    for parent in list(model.modules()):
        for place, child in parent._modules.items():
            if child is old:
                parent._modules[place] = new
