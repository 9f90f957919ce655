"""The user's own networks: a function that builds one, named as package.module:function."""

import importlib
from dataclasses import dataclass

from torch import nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.layers import Normalize


@dataclass(frozen=True)
class Factory:
    """A network built by a user's function, which takes pixels in [0, 1].

    Args:
        path: The function, as package.module:function. It takes no arguments and returns the network.
        mean: Means of the training pixels, one per channel, for a network that expects normalized inputs. Empty if
            normalization is the network's own first layer.
        std: Standard deviations that belong to `mean`.

    Example:
        >>> Factory("torch.nn:Identity").build(seed=0)
        Identity()
        >>> Factory("torch.nn:Identity", mean=(0.5,), std=(0.2,)).build(seed=0)
        Sequential(
          (0): Normalize()
          (1): Identity()
        )
    """

    path: str
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def build(self, seed: int) -> nn.Module:
        """Build a new network in training mode, behind a `Normalize` layer where `mean` and `std` are given.

        Only the seed makes it random.
        """
        model = self.build_bare(seed)
        return nn.Sequential(Normalize(self.mean, self.std), model) if self.mean or self.std else model

    def build_bare(self, seed: int) -> nn.Module:
        """Build the network as the user's function returns it, to which the user's weights belong."""
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
