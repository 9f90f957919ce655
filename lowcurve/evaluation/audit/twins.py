"""Twins of a network: the same function with a way back to the pixels that its own gradients do not show."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowcurve import randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.errors import InputError
from lowcurve.network_calls import call

FLAT = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn", "heaviside", "frac")
"""Functions of torch that are constant between jumps, or whose slope says nothing of the jumps (frac)."""
CUT = ("detach", "detach_", "register_hook")
"""Functions that cut the way back, or that may change a gradient on it."""
LIBRARIES = ("torch.", "lowcurve.", "timm.", "transformers.")
"""Packages whose layers are taken to have the gradients that they should have."""
HALF = (torch.float16, torch.bfloat16)
"""Precisions in which gradients underflow."""
DIRECTIONS = 4
"""Directions in which the values of a function are compared with its gradient."""
SECANT = 0.1
"""Distance at which they are compared, in parts of the size of its input."""
MISLED = 0.5
"""Relative error above which a gradient is called wrong."""


class Averaged(nn.Module):
    """The mean of a network's logits over several passes, each with its own pattern added to the input.

    It averages out a network's noise and shattered gradients. Inputs are not clipped to the pixel box, since clipping would
    cut gradients.

    Args:
        model: The network.
        patterns: What is added to the inputs, shape (passes, ...). Zeros average the draws of a random network.

    Reference: Athalye et al. 2018, section 4.2 (expectation over transformation).
    """

    def __init__(self, model: nn.Module, patterns: Tensor) -> None:
        super().__init__()
        self.model, self.patterns = model, patterns

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean logits."""
        return torch.stack([call(self.model, x + pattern) for pattern in self.patterns.to(x)]).mean(0)


class StraightThrough(nn.Module):
    """A network whose stages before one layer are passed backwards as if they were the identity.

    Args:
        model: The network.
        layer: Name of the layer that receives what these stages make of the image. See `classifier_inside`.
        every: Take the mean of the layer's logits over all points that it receives, such as those of every step of a
            purification. By default only the last point counts.

    Reference: Athalye et al. 2018, section 4.1 (backward pass differentiable approximation); Tramer et al. 2020.
    """

    def __init__(self, model: nn.Module, layer: str, *, every: bool = False) -> None:
        super().__init__()
        self.model, self.layer, self.every = model, layer, every

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's logits at the point that the stages before it make of x, or their mean over all points."""
        points = self.points(x)
        inside = self.model.get_submodule(self.layer)
        chosen = points if self.every else points[-1:]
        return torch.stack([call(inside, _as_identity(x, point.to(x))) for point in chosen]).mean(0)

    def points(self, x: Tensor) -> list[Tensor]:
        """Return what the layer receives in a forward pass, in order.

        Args:
            x: Images, shape (batch, ...).
        """
        with torch.no_grad():
            return self._received(x)

    def hides(self, x: Tensor) -> bool:
        """Return whether the stages before the layer have a gradient that misleads; see `misleads`.

        Args:
            x: Images, shape (batch, ...).
        """
        return misleads(lambda at: self._received(at)[-1], x)

    def stages(self, x: Tensor) -> str:
        """Return the kinds of the stages before the layer, or "what stands" where none of them is a module.

        Args:
            x: Images, shape (batch, ...).
        """
        done: list[str] = []
        before: list[tuple[str, ...]] = []
        parents = {self.layer[:place] for place, letter in enumerate(self.layer) if letter == "."} | {""}
        hooks = [
            layer.register_forward_hook(lambda layer, *_: done.append(type(layer).__name__))
            for name, layer in self.model.named_modules()
            if name and name.rpartition(".")[0] in parents
        ]
        inside = self.model.get_submodule(self.layer)
        hooks.append(inside.register_forward_pre_hook(lambda *_: before.append(tuple(dict.fromkeys(done)))))
        try:
            with torch.no_grad():
                call(self.model, x)
        finally:
            for hook in hooks:
                hook.remove()
        return ", ".join(before[0]) or "what stands"

    def _received(self, x: Tensor) -> list[Tensor]:
        points: list[Tensor] = []
        inside = self.model.get_submodule(self.layer)
        hook = inside.register_forward_pre_hook(lambda _, args: points.append(args[0]))
        try:
            call(self.model, x)
        finally:
            hook.remove()
        return [point for point in points if point.shape == x.shape]


class Smooth(nn.Module):
    """A network without what hides its gradient inside: rounding, detached tensors, gradient hooks, half precision.

    Rounding keeps its values and is passed backwards as if it were the identity. Half precision is left out, so the logits
    may differ a little.

    Args:
        model: The network.

    Reference: Athalye et al. 2018, section 4.1.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.met: set[str] = set()
        """What was passed through so far."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        with _Through() as through, _without_hooks(self.model, through.met):
            logits = call(self.model, x)
        self.met |= through.met
        return logits.to(x)


class PassedThrough(nn.Module):
    """A network some of whose layers are passed backwards as if they were the identity. Their values stay.

    Args:
        model: The network.
        layers: Names of layers whose output has the shape of their input.
    """

    def __init__(self, model: nn.Module, layers: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.layers = model, layers

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits."""
        hooks = [self.model.get_submodule(layer).register_forward_hook(_pass_through) for layer in self.layers]
        try:
            return call(self.model, x)
        finally:
            for hook in hooks:
                hook.remove()


def _as_identity(x: Tensor, values: Tensor) -> Tensor:
    """Return the values, with the derivatives of x."""
    return x + (values - x).detach()


def _pass_through(_layer: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    same = isinstance(output, Tensor) and output.shape == args[0].shape and output.is_floating_point()
    return _as_identity(args[0], output) if same else output


def layers_that_mislead(model: nn.Module, x: Tensor) -> tuple[str, ...]:
    """Return the names of the layers that keep a tensor's shape and whose gradient is missing, 0 or wrong.

    A gradient of 0 is looked for in all layers, of which the innermost ones count. A wrong one is looked for in layers
    without weights and parts that are of the user's own types. See `misleads`.

    Args:
        model: The network.
        x: Images, shape (batch, ...).

    Cost: a forward pass of the network, and some forward passes and a backward pass of each such layer.
    """
    met: dict[str, Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor) and args[0].shape == output.shape:
                met[name] = args[0].detach()

        return hook

    hooks = [layer.register_forward_hook(note(name)) for name, layer in model.named_modules() if name]
    try:
        with torch.no_grad():
            call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    layers = {name: partial(call, model.get_submodule(name)) for name, at in met.items() if at.is_floating_point()}
    flat = [name for name, layer in layers.items() if _slope(layer, met[name])[1] is None]
    inner = [name for name in flat if not any(other.startswith(f"{name}.") for other in flat)]
    own = [name for name in layers if name not in flat and _is_plain(model.get_submodule(name))]
    return (*inner, *(name for name in own if misleads(layers[name], met[name])))


def _is_plain(layer: nn.Module) -> bool:
    """Return whether a layer is of the user's own type and has no weights and no parts."""
    whole = next(layer.parameters(), None) is None and next(layer.children(), None) is None
    return whole and not type(layer).__module__.startswith(LIBRARIES)


def misleads(function: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    """Return whether the gradient of a function is missing, 0, not finite, or far from the slope of its values.

    The slope is that between two points which lie `SECANT` of the root mean square of x to both sides of x. It sees jumps
    and steps of that size, which the gradient does not show. A random function has the same draws in all passes.

    Args:
        function: Function of one tensor, which acts on each row alone.
        x: Where it is judged, shape (batch, ...).

    Cost: `1 + 2 * DIRECTIONS` forward passes of the function and a backward pass.
    """
    field, slope = _slope(function, x)
    if slope is None:
        return True
    step = SECANT * float(x.square().mean().sqrt())
    wrong = length = 0.0
    for number in range(DIRECTIONS):
        away = step * randomness.normal(x, generator=randomness.stream(number, "audit", "secants"))
        with torch.no_grad():
            secant = (field(x + away) - field(x - away)) / 2
        wrong += float((secant - (slope * away).flatten(1).sum(1)).square().sum())
        length += float(secant.square().sum())
    return wrong > MISLED**2 * length


def _slope(function: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Callable[[Tensor], Tensor], Tensor | None]:
    """Return a field of the function's outputs and its gradient at x, None if that is missing, 0 or not finite."""

    def field(v: Tensor) -> Tensor:
        with randomness.temporary_seed(0, "audit", "slope"):
            out = function(v).flatten(1)
        return (out * torch.cos(torch.arange(out.shape[1]).to(out))).sum(1)  # a plain sum is constant behind a softmax

    try:
        slope = gradient(field, x)
    except (InputError, RuntimeError):  # torch's own error where numpy meets a tensor with a graph
        return field, None
    return field, slope if bool(slope.any() and slope.isfinite().all()) else None


class _Through(TorchFunctionMode):
    """Pass functions without a useful slope as if they were the identity; leave out what cuts or changes gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.met: set[str] = set()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        x = args[0] if args else None
        if not (isinstance(x, Tensor) and x.requires_grad):
            return func(*args, **given)
        name = "data" if func is Tensor.data.__get__ else getattr(func, "__name__", "")  # type: ignore[attr-defined]
        if name in CUT or name == "data":
            self.met.add(name)
            return x if name != "register_hook" else func(x, lambda _: None)
        if name.rstrip("_") in FLAT:
            self.met.add(name.rstrip("_"))
            passed = _as_identity(x, func(x.detach().clone(), *args[1:], **given))
            return x.copy_(passed) if name.endswith("_") else passed
        asked = {"half": torch.float16, "bfloat16": torch.bfloat16}.get(name)
        if asked or (name in ("to", "type") and any(one in HALF for one in (*args[1:], *given.values()))):
            self.met.add("half precision")
            return x
        return func(*args, **given)


@contextmanager
def _without_hooks(model: nn.Module, met: set[str]) -> Iterator[None]:
    """Take away the hooks on the backward passes of a network's layers."""
    kept = [(module, dict(module._backward_hooks), dict(module._backward_pre_hooks)) for module in model.modules()]
    if any(hooks or before for _, hooks, before in kept):
        met.add("backward hooks")
    try:
        for module, _, _ in kept:
            module._backward_hooks.clear()
            module._backward_pre_hooks.clear()
        yield
    finally:
        for module, hooks, before in kept:
            module._backward_hooks.update(hooks)
            module._backward_pre_hooks.update(before)


def classifier_inside(model: nn.Module, x: Tensor) -> str | None:
    """Return the name of the layer that makes logits of something of the image's shape, the outermost one.

    What stands before it may be a defense: quantization, noise, purification. What stands behind it may be one too: a
    softmax, a squashed or rounded output.

    Args:
        model: The network.
        x: Images, shape (batch, ...).

    Returns:
        The layer's name as in `named_modules`, or None if there is no such layer.

    Cost: one forward pass.
    """
    found: dict[str, torch.Size] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            if args and isinstance(args[0], Tensor) and args[0].shape == x.shape and isinstance(output, Tensor):
                found[name] = output.shape

        return hook

    hooks = [layer.register_forward_hook(note(name)) for name, layer in model.named_modules() if name]
    try:
        with torch.no_grad():
            logits = call(model, x)
    finally:
        for hook in hooks:
            hook.remove()
    return next((name for name, _ in model.named_modules() if found.get(name) == logits.shape), None)
