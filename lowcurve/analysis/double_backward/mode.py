"""The mode that replaces layers of torch by ones whose gradients are cheap to differentiate again."""

import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from lowcurve.analysis.double_backward.batch_statistics import normalize_by_batch
from lowcurve.analysis.double_backward.convolutions import Convolution, autocast_of
from lowcurve.analysis.double_backward.elementwise import apply_nonlinearity, hard_sigmoid
from lowcurve.analysis.double_backward.running_statistics import Normalization
from lowcurve.analysis.smooth_nonlinearities import SMOOTH_NONLINEARITIES, find_smooth_nonlinearity

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
PRECISIONS = (torch.float32, torch.float64, torch.bfloat16)
REPLACED = {*CONVOLUTIONS, "batch_norm", "hardsigmoid", *SMOOTH_NONLINEARITIES}


class TwiceDifferentiable(TorchFunctionMode):
    """Make second derivatives of convolutions, batch normalization and smooth nonlinearities faster.

    Inside the mode, these layers have the same values and the same first and second derivatives up to rounding.

    The gain: torch computes the derivative of an input gradient in the weights as a convolution with kernels as large as
    images, where here it is an ordinary weight gradient. Torch passes over the input of a normalization some thirty times,
    and this mode half as often. With running statistics after a convolution it needs no pass, because it scales the
    convolution's weights.

    Torch has no second derivative of hardsigmoid. Here it has one, which is zero.

    Layers inside a checkpoint are left to torch, because it runs them again outside the mode.

    A third derivative of a nonlinearity or of a normalization by the batch raises an `InputError`.

    Args:
        weights: Whether parameters receive gradients.

    Example:
        >>> x = torch.tensor([0.3], requires_grad=True)
        >>> with TwiceDifferentiable():
        ...     (first,) = torch.autograd.grad(torch.nn.functional.softplus(x), x, create_graph=True)
        >>> torch.allclose(torch.autograd.grad(first, x)[0], first * (1 - first))
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
        if getattr(func, "__name__", "") == "register_hook":  # the hook would miss a convolution that is scaled
            self._last = None
        replaced = self._replace(getattr(func, "__name__", ""), func, args, kwargs)
        return func(*args, **kwargs) if replaced is None else replaced

    def _replace(
        self, name: str, func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Tensor | None:
        """Return the result of the replaced layer, or None for a call that is left to torch."""
        if name not in REPLACED or not args or not isinstance(args[0], Tensor) or not _is_supported(args[0]):
            return None
        x = args[0]
        if name in CONVOLUTIONS:
            return self._convolve(Convolution.from_call(func, args, kwargs))
        if name == "hardsigmoid":
            inplace = args[1] if len(args) > 1 else kwargs.get("inplace", False)
            return x.copy_(hard_sigmoid(x.clone())) if inplace else hard_sigmoid(x)
        if name == "batch_norm":
            if func is not F.batch_norm:  # torch.batch_norm takes its arguments in another order
                return None
            norm = Normalization.from_call(args, kwargs)
            if norm is None or (norm.uses_batch and not self.weights):
                return None
            if norm.uses_batch:
                return normalize_by_batch(norm, x)
            return self._normalize(norm if self.weights else norm.detach_parameters(), x)
        sigma = find_smooth_nonlinearity(name, args[1:], kwargs)
        return None if sigma is None else apply_nonlinearity(x, sigma, lambda x: func(x, *args[1:], **kwargs))

    def _convolve(self, call: Convolution | None) -> Tensor | None:
        if call is None:
            return None
        call = call if self.weights else call.detach_parameters()
        found = call.apply()
        self._last = (weakref.ref(found), found._version, call)
        return found

    def _normalize(self, norm: Normalization, x: Tensor) -> Tensor:
        """Normalize by running statistics; right after a convolution, scale its weights instead."""
        value = norm.value(x)
        if self._last is not None:
            result, version, call = self._last
            if result() is x and x._version == version:
                return call.scale_channels(norm.factor, norm.shift).apply(value)
        return norm.apply(x, value)


def _is_supported(x: Tensor) -> bool:
    """Return whether x may need a gradient, outside checkpoints and torch.func; of half precisions in bfloat16 alone."""
    if not x.requires_grad or x.dtype not in PRECISIONS:
        return False
    if torch._C._autograd._top_saved_tensors_default_hooks(True) is not None:
        return False
    return autocast_of(x) in (None, torch.bfloat16) and not torch._C._are_functorch_transforms_active()
