"""The base class of layers with a norm bound gamma, whose operator norm is tracked by power iteration."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.gram import Weighted
from lowcurve.models.layers import at_least_float32
from lowcurve.models.modes import set_training
from lowcurve.models.spectral import linear_map, power_iteration
from lowcurve.network_calls import call


class LipschitzLayer(nn.Module):
    """A layer whose linear part is multiplied by min(1, gamma / sigma), where sigma is its operator norm.

    gamma is exp(|log_gamma|), so at least 1, or exp(log_gamma) if not `at_least_one`. If not `clips`, the factor is
    gamma / sigma, as in spectral normalization.

    Attributes:
        log_gamma: A parameter if gamma is learned, otherwise a buffer.
        sigma: The norm as last estimated. It is 0 before `prepare_norms`.
        vector: The vector of the power iteration, shape (1, channels, ...). It is empty before `prepare_norms`.
    """

    log_gamma: Tensor
    sigma: Tensor
    vector: Tensor

    def _set_bound(self, gamma: float, learn: bool = True, at_least_one: bool = True, clips: bool = True) -> None:
        if not (1 if at_least_one else 0) <= gamma < math.inf or gamma == 0:
            hint = "write gamma=10.0, or at_least_one=False for a gamma between 0 and 1"
            raise InputError("a gamma of at least 1, or above 0 with at_least_one=False", gamma, hint)
        self.at_least_one, self.clips = at_least_one, clips
        like = (next(self.buffers()) if self.alone else self.linear.weight).new_zeros((), dtype=torch.float32)
        if learn:
            self.log_gamma = nn.Parameter(like + math.log(gamma))
        else:
            self.register_buffer("log_gamma", like + math.log(gamma))
        self.register_buffer("sigma", like.clone())
        self.register_buffer("vector", like.new_zeros(0))

    @property
    def linear(self) -> Weighted:
        """The linear layer whose norm is bounded."""
        raise NotImplementedError

    @property
    def alone(self) -> bool:
        """True for a BatchNorm without a linear layer before it; its norm needs no power iteration."""
        return False

    @property
    def log_of_gamma(self) -> Tensor:
        """The logarithm of gamma, attached to log_gamma; LCNN's penalty is a sum of these."""
        return absolute(self.log_gamma) if self.at_least_one else self.log_gamma

    @property
    def gamma(self) -> Tensor:
        """The upper bound of the layer's operator norm."""
        return self.log_of_gamma.exp()

    @property
    def factor(self) -> Tensor:
        """The factor that multiplies the layer's linear part; the bias is not multiplied."""
        gamma, sigma = self.gamma, self._current_norm()
        divides = sigma > (gamma if self.clips else 0)
        return torch.where(divides, gamma, 1) / torch.where(divides, sigma, 1)

    def update(self, steps: int = 1) -> None:
        """Run steps of power iteration from the current vector, and update `sigma`.

        Args:
            steps: Number of steps.

        Raises:
            InputError: If the layer has no vector yet.
        """
        if not self.vector.numel():
            hint = "call prepare_norms(model, x) with an input x"
            raise InputError("a layer prepared for the size of its input", type(self).__name__, hint)
        scale, weight = self._output_scale(), at_least_float32(self.linear.weight.detach())
        linear = linear_map(self.linear, weight, None if scale is None else at_least_float32(scale))
        found = power_iteration(linear, at_least_float32(self.vector), steps)
        self.vector.copy_(found.direction)
        self.sigma.copy_(self._norm_from(found.length))

    def _output_scale(self) -> Tensor | None:
        """Factors on the outputs of the linear layer, one per channel, which are part of the norm."""
        return None

    def _norm_from(self, norm: Tensor) -> Tensor:
        """The norm of the whole layer, given the one that power iteration found."""
        return norm

    def _current_norm(self) -> Tensor:
        """The norm that `factor` divides by."""
        return self.sigma

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """Keep the norms if the state is that of a plain layer, and accept a vector for inputs of another size."""
        for name in ("log_gamma", "sigma", "vector"):
            state_dict.setdefault(prefix + name, getattr(self, name).detach())
        shape = state_dict[prefix + "vector"].shape
        if shape != self.vector.shape:
            self.vector = self.vector.new_zeros(shape)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def absolute(x: Tensor) -> Tensor:
    """Compute |x| with derivative 1 at 0.

    With the derivative 0 of torch.abs, gradient descent could never leave 0. The function is not torch.abs for another reason
    as well: checks for nonlinearities with a kink would find that name.

    Args:
        x: A tensor of any shape.

    Returns:
        The absolute values.

    Example:
        >>> absolute(torch.tensor([-2.0, 0.0])).tolist()
        [2.0, 0.0]
    """
    return torch.where(x < 0, -x, x)


def logs_of_gammas(layers: Sequence[LipschitzLayer]) -> Tensor:
    """Return the logarithm of each layer's gamma, attached to its log_gamma, shape (layers,).

    The number of tensor operations does not grow with the number of layers if all are `at_least_one`.

    Args:
        layers: The layers.

    Returns:
        The logarithms, shape (layers,).

    Example:
        >>> layer = LipschitzLayer.__new__(LipschitzLayer)
        >>> nn.Module.__init__(layer)
        >>> layer.at_least_one, layer.log_gamma = True, torch.tensor(-2.0)
        >>> logs_of_gammas([layer, layer]).tolist()
        [2.0, 2.0]
    """
    if all(layer.at_least_one for layer in layers):
        return absolute(torch.stack([layer.log_gamma for layer in layers]))
    return torch.stack([layer.log_of_gamma for layer in layers])


def lipschitz_layers(model: nn.Module) -> Iterator[tuple[str, LipschitzLayer]]:
    """Iterate over the layers of a network that have a gamma.

    Args:
        model: The network.

    Returns:
        Pairs of a name and a layer, in the order of `named_modules`.
    """
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LipschitzLayer))


@torch.no_grad()
def update_norms(model: nn.Module, steps: int = 1) -> None:
    """Run steps of power iteration for every layer with a norm bound, from the current vectors.

    One step after each step of the optimizer is enough while the weights change little. A model without such layers is left
    unchanged.

    Args:
        model: The network, changed in place.
        steps: Number of steps.

    Raises:
        InputError: For layers without a vector (see `prepare_norms`).

    Cost: `steps` forward and backward passes of one image, without waiting for a GPU.
    """
    for _, layer in lipschitz_layers(model):
        layer.update(steps)


@torch.no_grad()
def prepare_norms(model: nn.Module, x: Tensor, steps: int = 30) -> None:
    """Start the power iteration of every layer with a norm bound.

    The initial vectors depend on the layers' names and sizes alone.

    Args:
        model: The network, changed in place.
        x: Inputs; only its size is used.
        steps: Number of steps of power iteration.

    Cost: one forward pass, and `update_norms(model, steps)`.
    """
    layers = dict(lipschitz_layers(model))
    sizes: dict[nn.Module, torch.Size] = {}
    hooks = [
        linear.register_forward_pre_hook(partial(_note_size, sizes))
        for linear in {x.linear for x in layers.values() if not x.alone}
    ]
    try:
        with set_training(model, training=False):
            call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    for name, layer in layers.items():
        if not layer.alone and layer.linear in sizes:
            like = layer.sigma.new_zeros(1, *sizes[layer.linear][1:])
            layer.vector = randomness.normal(like, generator=randomness.stream(0, "norms", name))
    update_norms(model, steps)


def _note_size(sizes: dict[nn.Module, torch.Size], layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    sizes[layer] = inputs[0].shape
