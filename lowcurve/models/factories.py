"""Networks that a user's own function builds, named as package.module:function."""

import importlib
from dataclasses import dataclass

from torch import nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.layers import Normalize
from lowcurve.models.wrapping import WrappedNetwork, is_of_transformers, wrap


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
        """Build a new network in training mode, after a `Normalize` layer where `mean` and `std` are given.

        The logits of a network of transformers are read from its output.

        Args:
            seed: Seed of the initial weights.

        Returns:
            The network.

        Raises:
            InputError: If the function cannot be imported, raises an error, or returns something other than a module, or if the
                normalization of a network of transformers is missing.
        """
        model = self.build_bare(seed)
        if not (self.mean or self.std):
            return wrap(model) if is_of_transformers(model) else model  # the first refuses, and says what is missing
        inner = WrappedNetwork(model, nn.Identity(), None) if is_of_transformers(model) else model
        return nn.Sequential(Normalize(self.mean, self.std), inner)

    def build_bare(self, seed: int) -> nn.Module:
        """Build the network as the user's function returns it; its state dict has the user's own names.

        Args:
            seed: Seed of the initial weights.

        Returns:
            The network in training mode.

        Raises:
            InputError: If the function cannot be imported, raises an error, or returns something other than a module.
        """
        module_name, _, function = self.path.partition(":")
        if not module_name or not function:
            raise InputError(
                "a model written package.module:factory", repr(self.path), "write it as my_networks:resnet"
            )
        try:
            factory = getattr(importlib.import_module(module_name), function)
        except (ImportError, AttributeError) as error:
            hint = "check its name, and run in a directory from which it can be imported"
            raise InputError(f"a factory {function} in {module_name}", str(error), hint) from None
        with randomness.temporary_seed(seed, "initial weights", self.path):
            try:
                model = factory()
            except Exception as error:  # whatever the user's code raises
                reason = f"{type(error).__name__}: {error}"
                raise InputError(
                    f"a network from {self.path}", reason, "call the function directly to find the error"
                ) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"a torch.nn.Module from {self.path}",
                type(model).__name__,
                "return the network itself from the function",
            )
        return model
