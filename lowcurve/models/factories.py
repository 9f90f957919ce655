"""The user's own networks: a function that builds one, named as package.module:function."""

import importlib
from dataclasses import dataclass

from torch import nn

from lowcurve import randomness
from lowcurve.errors import InputError


@dataclass(frozen=True)
class Factory:
    """A network built by a function without arguments that can be imported; it takes pixels in [0, 1].

    Standardization, if it needs one, is the network's own first layer.

    Example:
        >>> Factory("torch.nn:Identity").build(seed=0)
        Identity()
    """

    path: str

    def build(self, seed: int) -> nn.Module:
        """A new network in training mode, random only through the seed."""
        module_name, _, function = self.path.partition(":")
        if not module_name or not function:
            raise InputError("a model written package.module:factory", repr(self.path), "write my_networks:resnet")
        try:
            factory = getattr(importlib.import_module(module_name), function)
        except (ImportError, AttributeError) as error:
            hint = "run where it can be imported, and check its name"
            raise InputError(f"a factory {function} in {module_name}", str(error), hint) from None
        with randomness.isolated(seed, "initial weights", self.path):
            try:
                model = factory()
            except Exception as error:  # whatever the user's code raises
                reason = f"{type(error).__name__}: {error}"
                raise InputError(f"a network from {self.path}", reason, "call it by itself and mend it") from error
        if not isinstance(model, nn.Module):
            raise InputError(f"a torch.nn.Module from {self.path}", type(model).__name__, "return the network itself")
        return model
