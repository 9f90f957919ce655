"""What every layer with a bound on how much it lengthens has: gamma, and an operator norm followed by power iteration."""

import math
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.gram import Weighted
from lowcurve.models.layers import widened
from lowcurve.models.modes import set_training
from lowcurve.models.spectral import linear_map, power_iteration


class LipschitzLayer(nn.Module):
    """What every layer here has: gamma, and a norm that is followed.

    gamma: exp(|log_gamma|), so at least 1, or exp(log_gamma) where not `at_least_one`; a buffer where it is not to `learn`.
    clips: min(1, gamma / sigma), else gamma / sigma, as spectral normalization has it. sigma: the norm as last found, 0
    before `prepare_norms`. vector: that of the power iteration, shape (1, channels, ...), empty before `prepare_norms`.
    """

    log_gamma: Tensor
    sigma: Tensor
    vector: Tensor

    def _begin(self, gamma: float, learn: bool = True, at_least_one: bool = True, clips: bool = True) -> None:
        if not (1 if at_least_one else 0) <= gamma < math.inf or gamma == 0:
            hint = "write gamma=10.0, or at_least_one=False for any above 0"
            raise InputError("a gamma of at least 1, or above 0 where not at_least_one", gamma, hint)
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
        """The linear layer whose norm it is."""
        raise NotImplementedError

    @property
    def alone(self) -> bool:
        """Whether there is none: a BatchNorm with no layer before it, whose norm needs no power iteration."""
        return False

    @property
    def log_of_gamma(self) -> Tensor:
        """Log gamma, attached to log_gamma: what LCNN's penalty adds up."""
        return size(self.log_gamma) if self.at_least_one else self.log_gamma

    @property
    def gamma(self) -> Tensor:
        """The most by which the layer may lengthen."""
        return self.log_of_gamma.exp()

    @property
    def factor(self) -> Tensor:
        """By what the layer's linear part is multiplied; its bias is not."""
        gamma, sigma = self.gamma, self._norm()
        divides = sigma > (gamma if self.clips else 0)
        return torch.where(divides, gamma, 1) / torch.where(divides, sigma, 1)

    def update(self, steps: int = 1) -> None:
        """Steps of power iteration from where the vector stands."""
        if not self.vector.numel():
            hint = "call prepare_norms(model, x) with an input x"
            raise InputError("a layer that knows the size of its input", type(self).__name__, hint)
        scale = self._scale()
        of = linear_map(self.linear, widened(self.linear.weight.detach()), None if scale is None else widened(scale))
        found = power_iteration(of, widened(self.vector), steps)
        self.vector.copy_(found.direction)
        self.sigma.copy_(self._stretched(found.length))

    def _scale(self) -> Tensor | None:
        """By what the linear layer's results are multiplied in the map whose norm is followed, a number a channel."""
        return None

    def _stretched(self, norm: Tensor) -> Tensor:
        """What follows for the layer from that norm."""
        return norm

    def _norm(self) -> Tensor:
        return self.sigma

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        """The state of a plain layer has no norms: they stay. A vector for inputs of another size is taken as it is."""
        for name in ("log_gamma", "sigma", "vector"):
            state_dict.setdefault(prefix + name, getattr(self, name).detach())
        size = state_dict[prefix + "vector"].shape
        if size != self.vector.shape:
            self.vector = self.vector.new_zeros(size)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def size(x: Tensor) -> Tensor:
    """|x|, with a slope of 1 at 0, where one of 0 would hold it for ever; and by no name that looks like a kink in the network.

    Example:
        >>> size(torch.tensor([-2.0, 0.0])).tolist()
        [2.0, 0.0]
    """
    return torch.where(x < 0, -x, x)


def logs_of_gammas(layers: Sequence[LipschitzLayer]) -> Tensor:
    """Log gamma of each layer, attached to its log_gamma: (layers,). In few operations, whatever their number.

    Example:
        >>> layer = LipschitzLayer.__new__(LipschitzLayer)
        >>> nn.Module.__init__(layer)
        >>> layer.at_least_one, layer.log_gamma = True, torch.tensor(-2.0)
        >>> logs_of_gammas([layer, layer]).tolist()
        [2.0, 2.0]
    """
    if all(layer.at_least_one for layer in layers):
        return size(torch.stack([layer.log_gamma for layer in layers]))
    return torch.stack([layer.log_of_gamma for layer in layers])


def lipschitz_layers(model: nn.Module) -> Iterator[tuple[str, LipschitzLayer]]:
    """The layers of a network that have a gamma, each with its name, in their order."""
    return ((name, layer) for name, layer in model.named_modules() if isinstance(layer, LipschitzLayer))


@torch.no_grad()
def update_norms(model: nn.Module, steps: int = 1) -> None:
    """Steps of power iteration for every layer with a bound, from where the last ones ended; a model without any is left alone.

    One after each step of the optimizer is enough while weights move little. Cost: `steps` forward and backward passes of one
    image; nothing waits for a GPU.

    Errors: InputError for layers that were not prepared.
    """
    for _, layer in lipschitz_layers(model):
        layer.update(steps)


@torch.no_grad()
def prepare_norms(model: nn.Module, x: Tensor, steps: int = 30) -> None:
    """Begin the norms of every layer with a bound, for inputs of x's size, whose values play no part.

    The first vectors follow from the layers' names alone. Cost: one forward pass, and `update_norms(model, steps)`.
    """
    layers = dict(lipschitz_layers(model))
    sizes: dict[nn.Module, torch.Size] = {}
    hooks = [
        linear.register_forward_pre_hook(partial(_note_size, sizes))
        for linear in {x.linear for x in layers.values() if not x.alone}
    ]
    try:
        with set_training(model, training=False):
            model(x)
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
