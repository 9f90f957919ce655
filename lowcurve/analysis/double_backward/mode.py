"""Convolutions, normalization and nonlinearities whose gradients are differentiated once more in few passes over memory."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowcurve.analysis.double_backward.convolutions import Convolution
from lowcurve.analysis.double_backward.curves import curved
from lowcurve.analysis.double_backward.live import live
from lowcurve.analysis.double_backward.normalization import Normalization
from lowcurve.analysis.nonlinearities import BENT, bent

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
OWN = {*CONVOLUTIONS, "batch_norm", *BENT}


class TwiceDifferentiable(TorchFunctionMode):
    """While it is on, convolutions, batch normalization and smooth nonlinearities are functions of the house's own: the same
    values, and the same first and second derivatives but for rounding, in less time.

    Torch has the derivative of an input gradient in the weights as a convolution with kernels as large as images, and goes
    over the input of a normalization some thirty times; here it is a weight gradient like any other, and half of that, or none
    where the statistics are the running ones and a convolution stands before, whose weights are then scaled.

    weights: whether parameters receive derivatives.

    Errors: InputError for a third derivative of a nonlinearity or of a normalization by the batch.

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> with TwiceDifferentiable():
        ...     (slope,) = torch.autograd.grad(torch.nn.functional.softplus(x), x, create_graph=True)
        >>> torch.allclose(torch.autograd.grad(slope, x)[0], slope * (1 - slope))
        True
    """

    def __init__(self, *, weights: bool = True) -> None:
        super().__init__()
        self.weights = weights
        self._last: tuple[weakref.ref[Tensor], int, Convolution] | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        own = self._own(getattr(func, "__name__", ""), func, args, kwargs)
        return func(*args, **kwargs) if own is None else own

    def _own(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        """The house's own result, or None for what is left to torch."""
        if name not in OWN or not args or not isinstance(args[0], Tensor) or not _full(args[0]):
            return None
        x = args[0]
        if name in CONVOLUTIONS:
            return self._convolved(Convolution.of(func, args, kwargs))
        if name == "batch_norm":
            norm = Normalization.of(args, kwargs)
            if norm is None or (norm.live and not self.weights):
                return None
            return live(norm, x) if norm.live else self._normalized(norm if self.weights else norm.held(), x)
        form = bent(name, args[1:], kwargs)
        return None if form is None else curved(x, form, lambda x: func(x, *args[1:], **kwargs))

    def _convolved(self, call: Convolution | None) -> Tensor | None:
        if call is None:
            return None
        call = call if self.weights else call.held()
        found = call.attached()
        self._last = (weakref.ref(found), found._version, call)
        return found

    def _normalized(self, norm: Normalization, x: Tensor) -> Tensor:
        """The normalization; after a convolution it is that with other weights, and has no passes of its own backwards."""
        value = norm.value(x)
        if self._last is not None:
            result, version, call = self._last
            if result() is x and x._version == version:
                return call.scaled(norm.factor, norm.shift).attached(value)
        return norm.attached(x, value)


def _full(x: Tensor) -> bool:
    """Whether a gradient in x may be asked for, in a precision that is neither widened nor chosen on the way, and torch.func
    does not look on."""
    if not x.requires_grad or x.dtype not in (torch.float32, torch.float64):
        return False
    return not torch.is_autocast_enabled(x.device.type) and not torch._C._are_functorch_transforms_active()
