"""First and second derivatives of a field at many points at once: the only calls of automatic differentiation.

Every function backpropagates the sum over examples. That is right because examples are independent,
d l_i / d x_j = 0 for i != j, which `losses.loss_field` checks.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lowcurve.analysis.second_derivatives import math_attention
from lowcurve.errors import InputError
from lowcurve.network_calls import (
    NetworkError,
    first_line,
    gradients_enabled,
    hint_for,
    is_memory_error,
    without_inference,
)
from lowcurve.types import Classifier, Field, Inputs, LogitField, Logits, PerExample, RepeatableField


class Jet:
    """A field's value and gradient at a point, computed once, with their graph, and shared by several penalties.

    For a `types.LogitField`, such as `losses.loss_field` returns, the jet keeps the logits as well.

    Cost: one forward pass for `logits` and `values` together, and one input gradient for `gradient` or
    `detached_gradient`. Each is computed on first use.

    Args:
        field: One number per example as a function of the input.
        x: Inputs, shape (batch, ...). The jet differentiates a detached copy.

    Example:
        >>> jet = Jet(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> jet.values.item(), jet.gradient.tolist()
        (25.0, [[6.0, 8.0]])
    """

    def __init__(self, field: Field, x: Inputs) -> None:
        self.field = field.repeating_draws() if isinstance(field, RepeatableField) else field
        self.x = _leaf(x)

    def with_field(self, field: LogitField) -> "Jet":
        """Return the jet of another loss of the same logits, which are not computed again.

        Args:
            field: A field with the same model and labels and another loss.
        """
        other = Jet(field, self.x)
        other.field, other.x, other.logits = field, self.x, self.logits
        return other

    @cached_property
    def logits(self) -> Logits:
        """Logits z(x), shape (batch, classes), attached to the parameters and to x.

        Raises:
            InputError: If the field does not show its logits.
        """
        if not isinstance(self.field, LogitField):
            received = type(self.field).__name__
            raise InputError("a field that shows its logits", received, "write loss_field(model, y)")
        with gradients_enabled(), math_attention():
            return self.field.logits(self.x)

    @cached_property
    def values(self) -> PerExample:
        """Values l(x), attached to the parameters and to x."""
        with gradients_enabled(), math_attention():
            if isinstance(self.field, LogitField):
                return self.field.from_logits(self.logits)
            return require_per_example_values(self.field(self.x), self.x)

    @cached_property
    def gradient(self) -> Tensor:
        """Gradients grad l(x), shape (batch, ...), attached to the parameters and to x."""
        values = self.values
        with math_attention():
            return _gradient(values, self.x, create_graph=True)

    @cached_property
    def detached_gradient(self) -> Tensor:
        """Gradients grad l(x), shape (batch, ...), without a graph; taken from `gradient` if that is computed already."""
        if "gradient" in self.__dict__:
            return self.gradient.detach()
        return _gradient(self.values, self.x, retain_graph=True)

    @property
    def known_gradient(self) -> Tensor | None:
        """Gradients grad l(x) without a graph, or None if they have not been computed."""
        found: Tensor | None = self.__dict__.get("gradient", self.__dict__.get("detached_gradient"))
        return None if found is None else found.detach()

    def mean_with_gradients(self, parameters: Sequence[Tensor]) -> Tensor:
        """Return mean_i l_i(x), attached to these parameters only, from the pass that gives `detached_gradient`.

        `gradient` cannot be computed afterwards, because the graph is freed.

        Cost: the loss's own backward pass, and none for `detached_gradient`.

        Args:
            parameters: The tensors that receive the mean's derivative.

        Returns:
            A scalar. Its derivative in the parameters is known already, so its own backward pass costs nothing.

        Example:
            >>> w = torch.tensor([2.0], requires_grad=True)
            >>> jet = Jet(lambda x: (w * x).square().sum(1), torch.tensor([[3.0]]))
            >>> mean = jet.mean_with_gradients([w])
            >>> torch.autograd.grad(mean, w)[0].item(), jet.detached_gradient.item()  # 2 w x^2 and 2 w^2 x
            (36.0, 24.0)
        """
        values, count = self.values, len(self.values)
        self.__dict__["detached_gradient"], *found = _gradients(values, [self.x, *parameters])
        pairs = [(p, g / count) for p, g in zip(parameters, found, strict=True) if g is not None]
        mean = values.detach().mean()
        return _WithGradients.apply(mean, [g for _, g in pairs], *(p for p, _ in pairs))  # type: ignore[no-untyped-call, no-any-return]


class _WithGradients(torch.autograd.Function):
    """A number whose derivatives in the parameters are given."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ctx.gradients = gradients
        return number.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g * gradient for gradient in ctx.gradients)


def value_and_gradient(field: Field, x: Inputs, *, create_graph: bool = False) -> tuple[PerExample, Tensor]:
    """Return l(x) and grad l(x).

    Cost: one forward pass and one input gradient. The parameters' `.grad` does not change.

    Args:
        field: One number per example as a function of the input.
        x: Inputs, shape (batch, ...).
        create_graph: Keep the graph of both; otherwise they are detached.

    Returns:
        The values, shape (batch,), and the gradients, shape (batch, ...).

    Raises:
        InputError: If the field is not differentiable in its input.

    Example:
        >>> value_and_gradient(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        (tensor([25.]), tensor([[6., 8.]]))
    """
    leaf = _leaf(x)
    with math_attention() if create_graph else nullcontext():
        with gradients_enabled():
            values = require_per_example_values(field(leaf), leaf)
        result = _gradient(values, leaf, create_graph=create_graph)
    return (values, result) if create_graph else (values.detach(), result)


def value_gradient_and_aux(
    function: Callable[[Tensor], tuple[PerExample, Tensor]], x: Inputs
) -> tuple[PerExample, Tensor, Tensor]:
    """Return l(x), grad l(x) and an auxiliary output of the same forward pass, all detached.

    Cost: as `value_and_gradient`. An attack reads the logits from the same pass.

    Args:
        function: Returns (l(x), auxiliary output).
        x: Inputs, shape (batch, ...).

    Returns:
        The values, shape (batch,), the gradients, shape (batch, ...), and the auxiliary output.

    Example:
        >>> value_gradient_and_aux(lambda x: (x.square().sum(1), x + 1), torch.tensor([[3.0, 4.0]]))
        (tensor([25.]), tensor([[6., 8.]]), tensor([[4., 5.]]))
    """
    leaf = _leaf(x)
    with gradients_enabled():
        values, auxiliary = function(leaf)
    return values.detach(), _gradient(values, leaf), auxiliary.detach()


def gradient(field: Field, x: Inputs, *, create_graph: bool = False) -> Tensor:
    """Return grad l(x), one vector per example, as `value_and_gradient` computes it.

    Args:
        field: One number per example as a function of the input.
        x: Inputs, shape (batch, ...).
        create_graph: Keep the graph; otherwise the gradient is detached.

    Example:
        >>> gradient(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        tensor([[6., 8.]])
    """
    return value_and_gradient(field, x, create_graph=create_graph)[1]


def jacobian(function: Classifier, x: Inputs) -> Tensor:
    """Return d f_k / d x for every output k.

    Cost: one forward pass, and one input gradient for each output.

    Args:
        function: Maps inputs to outputs of shape (batch, outputs).
        x: Inputs, shape (batch, ...).

    Returns:
        The Jacobians, shape (batch, outputs, ...).

    Example:
        >>> jacobian(lambda x: x @ torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(1, 2))
        tensor([[[1., 3.],
                 [2., 4.]]])
    """
    leaf = _leaf(x)
    with gradients_enabled():
        columns = function(leaf).unbind(1)
    rows = [_gradient(column, leaf, retain_graph=k + 1 < len(columns)) for k, column in enumerate(columns)]
    return torch.stack(rows, dim=1)


def pullback(
    result: Tensor, leaf: Tensor, cotangent: Tensor, *, create_graph: bool = False, retain_graph: bool = False
) -> Tensor:
    """Return J^T c, the product of a cotangent with the Jacobian of `result` in `leaf`.

    Args:
        result: A tensor with a graph. Without one, the product is zero.
        leaf: The tensor to differentiate `result` in.
        cotangent: The vector c, shaped like `result`.
        create_graph: Keep the product's graph.
        retain_graph: Keep the graph of `result`.

    Example:
        >>> leaf = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> pullback(leaf.square(), leaf, torch.ones(2))
        tensor([6., 8.])
    """
    if not result.requires_grad:
        return torch.zeros_like(leaf)
    with explain_failures():
        (found,) = torch.autograd.grad(
            result,
            leaf,
            cotangent,
            create_graph=create_graph,
            retain_graph=retain_graph or create_graph,
            materialize_grads=True,
        )
    return found


def require_inputs(x: Inputs) -> None:
    """Check that the inputs are a floating-point batch.

    Args:
        x: Inputs, shape (batch, ...).

    Raises:
        InputError: If they are not.
    """
    if x.ndim < 2 or not x.is_floating_point():
        raise InputError(
            "floating-point inputs of shape (batch, ...)",
            f"{x.dtype} of shape {tuple(x.shape)}",
            "write x[None] for one example, and x.float() / 255 for pixel levels",
        )


def require_per_example_values(values: Tensor, x: Inputs) -> PerExample:
    """Return the values of a field, or refuse them unless they are one number per example.

    Args:
        values: Values of the field.
        x: Its inputs.

    Raises:
        InputError: If they are not, for example because the loss is reduced.
    """
    if not isinstance(values, Tensor) or values.shape != (len(x),):
        raise InputError(
            f"one number per example from the field, shape ({len(x)},)",
            tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__,
            "do not reduce the loss, and give the inputs a batch axis",
        )
    return values


def _leaf(x: Inputs) -> Inputs:
    """Return the inputs as a leaf of a new graph."""
    return without_inference(x).detach().requires_grad_()


@contextmanager
def explain_failures() -> Iterator[None]:
    """Leave inference mode, and turn an error of automatic differentiation into a sentence.

    Raises:
        InputError: If torch cannot differentiate a network.
    """
    try:
        with torch.inference_mode(False) if torch.is_inference_mode_enabled() else nullcontext():
            yield
    except RuntimeError as error:
        if isinstance(error, InputError) or is_memory_error(error):
            raise
        hint = hint_for(error, "write the network with functions of torch that can be differentiated")
        raise NetworkError("a network that torch can differentiate", first_line(error), hint) from error


def _gradient(values: Tensor, x: Tensor, *, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    result = _gradients(values, [x], create_graph=create_graph, retain_graph=retain_graph)[0]
    assert result is not None
    return result


def _gradients(
    values: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor | None]:
    """Return the derivatives of sum_i l_i in the leaves. The first leaf is the input and must have one."""
    found: list[Tensor | None] = [None]
    if values.requires_grad:
        keep = retain_graph or create_graph
        ones = torch.ones_like(values)
        with explain_failures():
            found = list(
                torch.autograd.grad(
                    values, leaves, ones, create_graph=create_graph, retain_graph=keep, allow_unused=True
                )
            )
    if found[0] is None:
        raise InputError(
            "a field that is differentiable in its input",
            "values without a graph that leads there",
            "remove detach(), rounding, quantization or numpy from the model",
        )
    return found
