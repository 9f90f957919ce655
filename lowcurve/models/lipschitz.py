"""Layers with a bound on how much they lengthen: LCNN's spectral normalization and gamma-Lipschitz BatchNorm as one factor.

Where BatchNorm follows a convolution, dividing the convolution's weights by a number changes nothing, since BatchNorm divides
it out again. All that the two do together is to multiply by min(1, gamma / sigma), with sigma the operator norm of the
convolution with BatchNorm folded in. So a `LipschitzBatchNorm2d` knows the layer before it, which stays as it is; a linear
layer without BatchNorm behind it is a `LipschitzConv2d` or a `LipschitzLinear`. While gamma is above sigma a layer is the
plain one: to the bit, or to rounding where BatchNorm has no weights.

They are subclasses with the weights under the names that the plain layers have, no parametrizations, so the state dict of a
plain network loads with strict=True. It brings no norms; `update_norms(model, steps=50)` then finds them.

sigma is followed by power iteration, whose vector is a buffer: `prepare_norms` begins it, and `update_norms`, which `fit`
calls after every step of the optimizer, does one step of it. A forward pass does none and looks at no value.
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
from lowcurve.models.layers import widened
from lowcurve.models.spectral import linear_part

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
    """A linear layer without BatchNorm behind it: its weight times `factor`, in which sigma = ||W v|| is followed by the
    derivative in W, v held constant. `of(layer)` shares the tensors of a plain one.

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
        self._begin(gamma, learn, at_least_one, clips)

    @classmethod
    def of(cls, layer: Weighted, **settings: Any) -> Self:
        """The layer with a bound, its tensors shared; settings: gamma, learn, at_least_one and clips."""
        made = _like(cls, layer)
        made._begin(**{"gamma": 1.0, "learn": False} | settings)
        return made

    @property
    def linear(self) -> Weighted:
        return self  # type: ignore[return-value]

    def forward(self, x: Tensor) -> Tensor:
        return linear_part(self.linear, x, self.linear.weight * self.factor, self.linear.bias)

    def _norm(self) -> Tensor:
        if not self.vector.numel():
            return self.sigma
        with torch.autocast(self.vector.device.type, enabled=False):
            return L2.length(linear_part(self.linear, widened(self.vector), widened(self.linear.weight)))[0]


class LipschitzLinear(LipschitzWeight, nn.Linear):
    """x -> min(1, gamma / sigma) W x + b, sigma = ||W||_2.

    Example:
        >>> layer = LipschitzLinear(2, 2, bias=False, gamma=2.0)
        >>> layer.weight.data = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        >>> prepare_norms(layer, torch.zeros(1, 2))
        >>> layer(torch.tensor([[1.0, 1.0]])).tolist()
        [[1.5, 2.0]]
    """


class LipschitzConv1d(LipschitzWeight, nn.Conv1d):
    """min(1, gamma / sigma) times a convolution, sigma its operator norm on signals of the prepared size."""


class LipschitzConv2d(LipschitzWeight, nn.Conv2d):
    """min(1, gamma / sigma) times a convolution, sigma its operator norm on images of the prepared size."""


class LipschitzConv3d(LipschitzWeight, nn.Conv3d):
    """min(1, gamma / sigma) times a convolution, sigma its operator norm on volumes of the prepared size."""


class LipschitzBatchNorm(LipschitzLayer, nn.modules.batchnorm._BatchNorm):
    """BatchNorm times `factor`, with sigma = ||diag(a / std) W|| for the running deviations and the layer W `before`; max(|a| /
    std) where it is `alone`, with no layer before it.

    gamma is learned from 10 on. Running deviations and W are held constant in sigma, as running statistics are.
    published: sigma is the bound max(|a| / std) ||W|| of it, as in the paper, and more is clipped. `of(before, norm)` shares
    the tensors of a plain BatchNorm. settings: those of the plain layer, and gamma, learn, at_least_one, clips.

    Errors: InputError without running statistics.

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
        self._follow(before, published, gamma=gamma, learn=learn, at_least_one=at_least_one, clips=clips)

    @classmethod
    def of(cls, before: Weighted | None, norm: nn.Module, *, published: bool = False, **settings: Any) -> Self:
        """The BatchNorm with a bound, its tensors shared, behind the layer `before`, or alone."""
        made = _like(cls, norm)
        made._follow(before, published, **{"gamma": 10.0} | settings)
        return made

    @property
    def linear(self) -> Weighted:
        return self.before[0]

    @property
    def alone(self) -> bool:
        return not self.before

    def update(self, steps: int = 1) -> None:
        if self.alone:
            self.sigma.copy_(self.scale.abs().max())
        else:
            super().update(steps)

    def forward(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        # Of its own memory: torch's BatchNorm reads a stretched number as a whole vector where channels stand last.
        factor = self.factor
        weight = factor.repeat(self.num_features) if self.weight is None else self.weight * factor
        if self.training:
            self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        return F.batch_norm(x, self.running_mean, self.running_var, weight, self.bias, self.training, share, self.eps)

    def _follow(self, before: Weighted | None, published: bool, **settings: Any) -> None:
        if self.running_var is None:
            raise InputError("a BatchNorm with running statistics", "none", "write track_running_stats=True")
        # In a tuple it is no part of this module's state.
        self.before, self.published = () if before is None else (before,), published
        self._begin(**settings)

    @property
    def scale(self) -> Tensor:
        """A / std, a number a channel, held constant."""
        std = (self.running_var + self.eps).sqrt()
        return (1 if self.weight is None else self.weight.detach()) / std

    def _scale(self) -> Tensor | None:
        return None if self.published else self.scale

    def _stretched(self, norm: Tensor) -> Tensor:
        return norm * self.scale.abs().max() if self.published else norm


class LipschitzBatchNorm1d(LipschitzBatchNorm, nn.BatchNorm1d):
    """gamma-Lipschitz BatchNorm behind a linear layer or a convolution of signals."""


class LipschitzBatchNorm2d(LipschitzBatchNorm, nn.BatchNorm2d):
    """gamma-Lipschitz BatchNorm behind a convolution of images.

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
    """gamma-Lipschitz BatchNorm behind a convolution of volumes."""


def _like(kind: type[Kind], layer: nn.Module) -> Kind:
    """A module of that kind with the tensors and settings of a layer."""
    made = kind.__new__(kind)
    made.__dict__.update({name: copy.copy(v) if isinstance(v, dict) else v for name, v in layer.__dict__.items()})
    return made
