"""Linear layers and BatchNorm with an upper bound gamma on their operator norm, as in LCNN.

Where BatchNorm follows a convolution, spectral normalization of the convolution has no effect, because BatchNorm divides the
factor out again. Both together multiply by min(1, gamma / sigma), where sigma is the operator norm of the convolution with
BatchNorm folded in. A `LipschitzBatchNorm2d` therefore refers to the layer before it, which stays a plain layer. A linear
layer without BatchNorm after it is a `LipschitzConv2d` or a `LipschitzLinear`. While gamma exceeds sigma, the layer computes
the same as the plain one: exactly, or up to rounding if BatchNorm has no weights.

The layers are subclasses of the plain ones with the same parameter names, so the state dict of a plain network loads with
strict=True. It contains no norms; `update_norms(model, steps=50)` then estimates them.

`prepare_norms` starts the power iteration, whose vector is a buffer. `fit` calls `update_norms` after every step of the
optimizer. A forward pass does no power iteration and reads no value back from the GPU.
"""

import copy
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.analysis.norms import L2
from lowcurve.errors import InputError
from lowcurve.models.clipping import LipschitzLayer, lipschitz_layers, prepare_norms, update_norms
from lowcurve.models.gram import Weighted
from lowcurve.models.layers import at_least_float32
from lowcurve.models.spectral import apply_linear

__all__ = [
    "LipschitzLayer",
    "LipschitzBatchNorm1d",
    "LipschitzBatchNorm2d",
    "LipschitzBatchNorm3d",
    "LipschitzConv1d",
    "LipschitzConv2d",
    "LipschitzConv3d",
    "LipschitzLinear",
    "lipschitz_layers",
    "prepare_norms",
    "update_norms",
]
Kind = TypeVar("Kind", bound=nn.Module)


class LipschitzWeight(LipschitzLayer):
    """A linear layer without BatchNorm after it, whose weight is multiplied by `factor`.

    The gradient takes sigma = ||W v|| as a function of W and v as a constant.

    Args:
        *args: Arguments of the plain layer.
        gamma: First bound of the operator norm.
        learn: Train gamma.
        at_least_one: Keep gamma at 1 or above.
        clips: Multiply by min(1, gamma / sigma). Otherwise multiply by gamma / sigma.
        **kwargs: Arguments of the plain layer.

    Raises:
        InputError: For a gamma below 1, or not above 0 if not `at_least_one`.

    Reference: srinivas2022lcnn, section 3.4.1; Miyato et al. 2018, Eq. (8).
    """

    def __init__(
        self,
        *args: Any,
        gamma: float = 1.0,
        learn: bool = False,
        at_least_one: bool = True,
        clips: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._set_bound(gamma, learn, at_least_one, clips)

    @classmethod
    def of(cls, layer: Weighted, **settings: Any) -> Self:
        """Return a bounded layer that shares the tensors of a plain one.

        Args:
            layer: The plain layer.
            **settings: gamma, learn, at_least_one and clips.

        Returns:
            The bounded layer.
        """
        made = _like(cls, layer)
        made._set_bound(**{"gamma": 1.0, "learn": False} | settings)
        return made

    @property
    def linear(self) -> Weighted:
        """The layer itself."""
        return self  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer with its weight multiplied by `factor`."""
        return apply_linear(self.linear, x, self.linear.weight * self.factor, self.linear.bias)

    def _current_norm(self) -> Tensor:
        if not self.vector.numel():
            return self.sigma
        with torch.autocast(self.vector.device.type, enabled=False):
            return L2.length(
                apply_linear(self.linear, at_least_float32(self.vector), at_least_float32(self.linear.weight))
            )[0]


class LipschitzLinear(LipschitzWeight, nn.Linear):
    """The linear layer x -> min(1, gamma / sigma) W x + b with sigma = ||W||_2.

    Example:
        >>> layer = LipschitzLinear(2, 2, bias=False, gamma=2.0)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> prepare_norms(layer, torch.zeros(1, 2))
        >>> layer(torch.tensor([[1.0, 1.0]])).tolist()
        [[1.5, 2.0]]
    """


class LipschitzConv1d(LipschitzWeight, nn.Conv1d):
    """A convolution times min(1, gamma / sigma), where sigma is its operator norm on signals of the prepared size."""


class LipschitzConv2d(LipschitzWeight, nn.Conv2d):
    """A convolution times min(1, gamma / sigma), where sigma is its operator norm on images of the prepared size."""


class LipschitzConv3d(LipschitzWeight, nn.Conv3d):
    """A convolution times min(1, gamma / sigma), where sigma is its operator norm on volumes of the prepared size."""


class LipschitzBatchNorm(LipschitzLayer, nn.modules.batchnorm._BatchNorm):
    """BatchNorm multiplied by `factor`, which bounds the norm of BatchNorm and the linear layer before it together.

    With the weights a and the running standard deviations std of BatchNorm and the weight W of the layer before it,
    sigma = ||diag(a / std) W||. For a BatchNorm without such a layer (`alone`), sigma = max(|a| / std). The gradient takes a,
    std and W in sigma as constants.

    Args:
        before: The linear layer before it.
        gamma: The bound at the start.
        learn: Train gamma.
        at_least_one: Keep gamma at 1 or above.
        clips: Multiply by min(1, gamma / sigma). Otherwise multiply by gamma / sigma.
        published: Use the upper bound max(|a| / std) ||W|| as sigma, as in the paper. It clips more.
        **settings: Arguments of the plain layer.

    Raises:
        InputError: For a BatchNorm without running statistics, or a gamma that is too small.

    Reference: srinivas2022lcnn, section 3.4.2.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    before: tuple[Weighted, ...]

    def __init__(
        self,
        before: Weighted,
        *,
        gamma: float = 10.0,
        learn: bool = True,
        at_least_one: bool = True,
        clips: bool = True,
        published: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(before.weight.shape[0], **settings)
        self._attach(before, published, gamma=gamma, learn=learn, at_least_one=at_least_one, clips=clips)

    @classmethod
    def of(cls, before: Weighted | None, norm: nn.Module, *, published: bool = False, **settings: Any) -> Self:
        """Return a bounded BatchNorm that shares the tensors of a plain one.

        Args:
            before: The linear layer before it, or None.
            norm: The plain BatchNorm.
            published: Use the paper's bound of sigma.
            **settings: gamma, learn, at_least_one and clips.

        Returns:
            The bounded BatchNorm.
        """
        made = _like(cls, norm)
        made._attach(before, published, **{"gamma": 10.0} | settings)
        return made

    @property
    def linear(self) -> Weighted:
        """The linear layer before it."""
        return self.before[0]

    @property
    def alone(self) -> bool:
        """True without a linear layer before it."""
        return not self.before

    def update(self, steps: int = 1) -> None:
        """Run steps of power iteration, or compute sigma exactly without a layer before it.

        Args:
            steps: Number of steps.
        """
        if self.alone:
            self.sigma.copy_(self.scale.abs().max())
        else:
            super().update(steps)

    def forward(self, x: Tensor) -> Tensor:
        """Apply BatchNorm with its scale multiplied by `factor`."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        # repeat instead of expand: for channels-last inputs, torch's BatchNorm reads an expanded scalar out of bounds.
        factor = self.factor
        weight = factor.repeat(self.num_features) if self.weight is None else self.weight * factor
        if self.training:
            self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        x = F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, self.training, share, self.eps)
        for part in self.children():  # of a BatchNorm that applies them afterwards, as timm's BatchNormAct2d
            x = part(x)
        return x

    def _attach(self, before: Weighted | None, published: bool, **settings: Any) -> None:
        if self.running_var is None:
            raise InputError("a BatchNorm with running statistics", "none", "write track_running_stats=True")
        # The tuple keeps the layer from being registered as a submodule.
        self.before, self.published = () if before is None else (before,), published
        self._set_bound(**settings)

    @property
    def scale(self) -> Tensor:
        """The scale a / std in eval mode, one per channel, detached."""
        std = (self.running_var + self.eps).sqrt()
        return (1 if self.weight is None else self.weight.detach()) / std

    def _output_scale(self) -> Tensor | None:
        return None if self.published else self.scale

    def _norm_from(self, norm: Tensor) -> Tensor:
        return norm * self.scale.abs().max() if self.published else norm


class LipschitzBatchNorm1d(LipschitzBatchNorm, nn.BatchNorm1d):
    """Bounded BatchNorm after a linear layer or a convolution of signals."""


class LipschitzBatchNorm2d(LipschitzBatchNorm, nn.BatchNorm2d):
    """Bounded BatchNorm after a convolution of images.

    Example:
        >>> before = nn.Conv2d(1, 1, 1, bias=False)
        >>> before.weight.data.fill_(8.0)
        tensor([[[[8.]]]])
        >>> norm = LipschitzBatchNorm2d(before, gamma=2.0, affine=False, eps=0.0).eval()
        >>> network = nn.Sequential(before, norm)
        >>> prepare_norms(network, torch.zeros(1, 1, 2, 2))
        >>> network(torch.ones(1, 1, 2, 2)).flatten().tolist()
        [2.0, 2.0, 2.0, 2.0]
    """


class LipschitzBatchNorm3d(LipschitzBatchNorm, nn.BatchNorm3d):
    """Bounded BatchNorm after a convolution of volumes."""


def _like(kind: type[Kind], layer: nn.Module) -> Kind:
    """Return a module of the given class that shares a layer's tensors and settings."""
    made = kind.__new__(kind)
    made.__dict__.update({name: copy.copy(v) if isinstance(v, dict) else v for name, v in layer.__dict__.items()})
    return made
