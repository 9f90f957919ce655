"""First and second derivatives of a field at many points at once: the only calls of automatic differentiation.

Every function backpropagates the sum over examples. That is right because examples are independent,
d l_i / d x_j = 0 for i != j; `losses.loss_field` guards that law.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from lowcurve.errors import InputError
from lowcurve.types import Classifier, Field, Halves, Inputs, Logits, PerExample


class Jet:
    """A field's value and gradient at a point, computed once and with their graph: what several penalties share.

    Of a field that shows its two halves, as `losses.loss_field` does, the logits between them are kept as well.

    Cost: one forward pass for `logits` and `values` together, one input gradient more for `gradient` or `slope`, each on
    first use.

    Example:
        >>> jet = Jet(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> jet.values.item(), jet.gradient.tolist()
        (25.0, [[6.0, 8.0]])
    """

    def __init__(self, field: Field, x: Inputs) -> None:
        self.field = field
        self.x = x.detach().requires_grad_()

    def of(self, field: Halves) -> "Jet":
        """The jet of another field with the same first half: another loss, of the logits that are here already."""
        other = Jet(field, self.x)
        other.x, other.logits = self.x, self.logits
        return other

    @cached_property
    def logits(self) -> Logits:
        """z(x), attached to the parameters and to x; InputError where the field does not show its halves."""
        if not isinstance(self.field, Halves):
            received = type(self.field).__name__
            raise InputError("a field that shows its logits", received, "write loss_field(model, y)")
        with torch.enable_grad():
            return self.field.logits(self.x)

    @cached_property
    def values(self) -> PerExample:
        """l(x), attached to the parameters and to x."""
        with torch.enable_grad():
            return self.field.of_logits(self.logits) if isinstance(self.field, Halves) else self.field(self.x)

    @cached_property
    def gradient(self) -> Tensor:
        """grad l(x), attached to the parameters and to x."""
        return _gradient(self.values, self.x, create_graph=True)

    @cached_property
    def slope(self) -> Tensor:
        """grad l(x), detached, without a graph of its own unless `gradient` has been asked for already."""
        if "gradient" in self.__dict__:
            return self.gradient.detach()
        return _gradient(self.values, self.x, retain_graph=True)

    def mean_with_slope(self, parameters: Sequence[Tensor]) -> Tensor:
        """mean_i l_i(x), attached to these parameters and to nothing else, its derivative being known: it comes from the
        backward pass that gives `slope`. `gradient` cannot be had afterwards, for the graph is spent.

        Cost: the loss's own backward pass, and none for `slope`.

        Example:
            >>> w = torch.tensor([2.0], requires_grad=True)
            >>> jet = Jet(lambda x: (w * x).square().sum(1), torch.tensor([[3.0]]))
            >>> (torch.autograd.grad(jet.mean_with_slope([w]), w)[0].item(), jet.slope.item())  # 2 w x^2, 2 w^2 x
            (36.0, 24.0)
        """
        values, count = self.values, len(self.values)
        self.__dict__["slope"], *found = _gradients(values, [self.x, *parameters])
        pairs = [(p, g / count) for p, g in zip(parameters, found, strict=True) if g is not None]
        mean = values.detach().mean()
        return _Known.apply(mean, [g for _, g in pairs], *(p for p, _ in pairs))  # type: ignore[no-untyped-call, no-any-return]


class _Known(torch.autograd.Function):
    """A number with the derivatives that are given."""

    @staticmethod
    def forward(ctx: Any, number: Tensor, slopes: list[Tensor], *parameters: Tensor) -> Tensor:  # noqa: ARG004
        ctx.slopes = slopes
        return number.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, *(g * slope for slope in ctx.slopes)


def value_and_gradient(field: Field, x: Inputs, *, create_graph: bool = False) -> tuple[PerExample, Tensor]:
    """l(x) and grad l(x), detached unless `create_graph`.

    Cost: one forward pass and one input gradient; parameters receive nothing.

    Example:
        >>> value_and_gradient(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        (tensor([25.]), tensor([[6., 8.]]))
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        values = field(leaf)
    result = _gradient(values, leaf, create_graph=create_graph)
    return (values, result) if create_graph else (values.detach(), result)


def value_gradient_and_rest(
    function: Callable[[Tensor], tuple[PerExample, Tensor]], x: Inputs
) -> tuple[PerExample, Tensor, Tensor]:
    """l(x), grad l(x) and what else came with l(x), all detached: function(x) = (l(x), rest).

    Cost: as `value_and_gradient`; an attack reads the logits from the same pass.

    Example:
        >>> value_gradient_and_rest(lambda x: (x.square().sum(1), x + 1), torch.tensor([[3.0, 4.0]]))
        (tensor([25.]), tensor([[6., 8.]]), tensor([[4., 5.]]))
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        values, rest = function(leaf)
    return values.detach(), _gradient(values, leaf), rest.detach()


def gradient(field: Field, x: Inputs, *, create_graph: bool = False) -> Tensor:
    """grad l(x), one vector per example.

    Example:
        >>> gradient(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        tensor([[6., 8.]])
    """
    return value_and_gradient(field, x, create_graph=create_graph)[1]


def jacobian(function: Classifier, x: Inputs) -> Tensor:
    """d f_k / d x for every output k, shape (batch, outputs, ...).

    Cost: one forward pass and one input gradient an output.

    Example:
        >>> jacobian(lambda x: x @ torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(1, 2))
        tensor([[[1., 3.],
                 [2., 4.]]])
    """
    leaf = x.detach().requires_grad_()
    with torch.enable_grad():
        columns = function(leaf).unbind(1)
    rows = [_gradient(column, leaf, retain_graph=k + 1 < len(columns)) for k, column in enumerate(columns)]
    return torch.stack(rows, dim=1)


def pullback(
    result: Tensor, leaf: Tensor, cotangent: Tensor, *, create_graph: bool = False, retain_graph: bool = False
) -> Tensor:
    """J^T c, the product of a cotangent with the Jacobian of `result` in `leaf`; zero where it does not depend on it.

    Example:
        >>> leaf = torch.tensor([3.0, 4.0], requires_grad=True)
        >>> pullback(leaf.square(), leaf, torch.ones(2))
        tensor([6., 8.])
    """
    if not result.requires_grad:
        return torch.zeros_like(leaf)
    (found,) = torch.autograd.grad(
        result,
        leaf,
        cotangent,
        create_graph=create_graph,
        retain_graph=retain_graph or create_graph,
        materialize_grads=True,
    )
    return found


@contextmanager
def derivatives_watched() -> Iterator[list[str]]:
    """Inside, whoever asks for a derivative is noted: the list names the calls in their order.

    grad, backward, whatever is made of them (torch.func, torch.autograd.functional) and forward-mode duals are seen,
    under whatever name they were imported; nothing is patched and no trace function is set, so debuggers and coverage go
    on. What runs in other threads is not seen.

    Example:
        >>> with derivatives_watched() as asked:
        ...     _ = gradient(lambda x: x.square().sum(1), torch.ones(1, 2))
        >>> asked
        ['grad']
    """
    with _Watch() as watch:
        yield watch.asked


class _Watch(TorchFunctionMode):
    """Sees every function of torch that is called while it is on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in ("grad", "backward", "_make_dual"):
            self.asked.append(name)
        return func(*args, **(kwargs or {}))


def require_inputs(x: Inputs) -> None:
    """Refuse what is not a batch of floating-point inputs."""
    if x.ndim < 2 or not x.is_floating_point():
        raise InputError(
            "floating-point inputs of shape (batch, ...)",
            f"{x.dtype} of shape {tuple(x.shape)}",
            "write x[None] for one example, and x.float() / 255 for pixel levels",
        )


def _gradient(values: Tensor, x: Tensor, *, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    result = _gradients(values, [x], create_graph=create_graph, retain_graph=retain_graph)[0]
    assert result is not None
    return result


def _gradients(
    values: Tensor, leaves: Sequence[Tensor], *, create_graph: bool = False, retain_graph: bool = False
) -> list[Tensor | None]:
    """The derivatives of sum_i l_i; InputError where there is none in the first leaf, the input."""
    found: list[Tensor | None] = [None]
    if values.requires_grad:
        keep = retain_graph or create_graph
        ones = torch.ones_like(values)
        found = list(
            torch.autograd.grad(values, leaves, ones, create_graph=create_graph, retain_graph=keep, allow_unused=True)
        )
    if found[0] is None:
        raise InputError(
            "a field that is differentiable in its input",
            "values without a graph that leads there",
            "remove detach(), rounding or numpy from the model",
        )
    return found
