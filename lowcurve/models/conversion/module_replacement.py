"""One layer in the place of another, with everything that hangs on the place."""

from torch import nn

from lowcurve.models.modes import copy_mode


def replace_module(model: nn.Module, name: str, new: nn.Module) -> None:
    """Replaces the layer of that name, wherever else it stands too; its mode and its hooks pass on to the new one.

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
