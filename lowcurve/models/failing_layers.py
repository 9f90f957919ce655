"""Find the layer whose derivative torch cannot compute."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from lowcurve.analysis.calculus import pullback
from lowcurve.errors import InputError
from lowcurve.models.modes import frozen
from lowcurve.network_calls import ERRORS, NetworkError, call, gradients_enabled, place_of
from lowcurve.types import Inputs


@contextmanager
def name_failing_layer(model: nn.Module, x: Inputs) -> Iterator[None]:
    """Add the layer to an error of a derivative that is raised inside the block.

    Args:
        model: The network that is differentiated.
        x: A few of its inputs.

    Raises:
        InputError: The error, with the layer if one can be found.

    Cost: none without an error. With one, a forward pass, and the derivatives of each layer by itself.
    """
    try:
        yield
    except NetworkError as error:
        layer = None if error.layer or len(x) == 0 else failing_layer(model, x[:2])
        if layer is None:
            raise
        received = f"an error in {place_of(layer)}: {error.received}"
        raise NetworkError(error.expected, received, error.hint, layer=layer) from error


def failing_layer(model: nn.Module, x: Inputs) -> tuple[str, str] | None:
    """Return name and type of the innermost layer that cannot be differentiated twice by itself; None without one.

    Example:
        >>> failing_layer(nn.Sequential(nn.Linear(2, 2), nn.Softplus()), torch.zeros(1, 2)) is None
        True
    """
    calls: list[_LayerCall] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], _: object) -> None:
        calls.append(_LayerCall(name, module, args, kwargs))

    hooks = [m.register_forward_hook(partial(note, name), with_kwargs=True) for name, m in model.named_modules()]
    try:
        with frozen(model), gradients_enabled():
            with torch.no_grad():
                call(model, x)
            for hook in hooks:
                hook.remove()
            found = (one for one in calls if not one.is_differentiable())  # inner layers end first
            return next(((one.name, type(one.module).__name__) for one in found), None)
    except InputError:
        return None
    finally:
        for hook in hooks:
            hook.remove()


class _LayerCall(NamedTuple):
    """A call of a layer with its arguments."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def is_differentiable(self) -> bool:
        """Return False if the second derivative in the first input fails, although the layer itself runs."""
        (args, kwargs), leaves = (self.args, self.kwargs), []

        def copy(t: Tensor) -> Tensor:
            t = t.detach().clone()
            if t.is_floating_point():
                leaves.append(t.requires_grad_())
            return t

        args, kwargs = pytree.tree_map_only(Tensor, copy, (args, kwargs))
        try:
            result = self.module(*args, **kwargs)
        except ERRORS:
            return True  # nothing is known about it
        if not leaves:
            return True
        outputs = [t for t in pytree.tree_leaves(result) if isinstance(t, Tensor) and t.is_floating_point()]
        try:
            total = torch.stack([t.float().square().sum() for t in outputs]).sum()
            first = pullback(total, leaves[0], torch.ones_like(total), create_graph=True)
            if first.requires_grad:
                # Not `pullback`, which returns zeros where a graph ends in an error.
                first.square().sum().backward()  # type: ignore[no-untyped-call]
        except ERRORS:
            return False
        return True
