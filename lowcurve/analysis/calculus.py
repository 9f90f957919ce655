"""First and second derivatives of a field at many points at once: the only calls of automatic differentiation.

Every function backpropagates the sum over examples. That is right because examples are independent,
d l_i / d x_j = 0 for i != j; `losses.loss_field` guards that law.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lowcurve.analysis.norms import L2, per_example
from lowcurve.errors import InputError
from lowcurve.types import Classifier, Field, Inputs, Operator, PerExample


class Jet:
    """A field's value and gradient at a point, computed once and with their graph: what several penalties share.

    Cost: one forward pass for `values`, one input gradient more for `gradient`, each on first use.

    Example:
        >>> jet = Jet(lambda x: x.square().sum(1), torch.tensor([[3.0, 4.0]]))
        >>> jet.values.item(), jet.gradient.tolist()
        (25.0, [[6.0, 8.0]])
    """

    def __init__(self, field: Field, x: Inputs) -> None:
        self.field = field
        self.x = x.detach().requires_grad_()

    @cached_property
    def values(self) -> PerExample:
        """l(x), attached to the parameters and to x."""
        with torch.enable_grad():
            return self.field(self.x)

    @cached_property
    def gradient(self) -> Tensor:
        """grad l(x), attached to the parameters and to x."""
        return _gradient(self.values, self.x, create_graph=True)


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


def hessian(field: Field, x: Inputs) -> Operator:
    """v -> H v with the exact Hessian at x, by differentiating <g(x), v> with the graph of g kept.

    Cost: two passes once, about two more for each product. For a ReLU network this is the Hessian almost everywhere,
    of rank <= classes - 1; what lies in its kinks shows only in `secant_hessian`.

    Example:
        >>> product = hessian(lambda x: (x[:, 0] * x[:, 1]), torch.tensor([[3.0, 4.0]]))
        >>> product(torch.tensor([[1.0, 0.0]]))
        tensor([[0., 1.]])
    """
    jet = Jet(field, x)
    slope = jet.gradient

    def product(v: Tensor) -> Tensor:
        if not slope.requires_grad:  # an affine field
            return torch.zeros_like(v)
        (result,) = torch.autograd.grad(slope, jet.x, v, retain_graph=True, materialize_grads=True)
        return result

    return product


def secant_hessian(field: Field, x: Inputs, h: float) -> Operator:
    """v -> ||v|| (g(x + h v/||v||) - g(x)) / h: curvature at the scale h, an l_2 length in pixel units.

    Not the Hessian with an error but a different quantity: it sees the kinks of a ReLU network within h. It is
    homogeneous by definition (the step has length h whatever v is) and in general not symmetric.

    Cost: one input gradient once and one for each product.

    Example:
        >>> product = secant_hessian(lambda x: x.pow(3).sum(1), torch.zeros(1, 1), h=0.1)
        >>> product(torch.tensor([[2.0]])).round(decimals=4)  # 3 h, where the exact Hessian is 0
        tensor([[0.6000]])

    Reference: moosavi2019cure, Eq. (1).
    """
    if not (math.isfinite(h) and h > 0):
        raise InputError("a scale h > 0 in pixel units (an l_2 length)", h, "write h=0.1, or use hessian for h -> 0")
    clean = gradient(field, x)

    def product(v: Tensor) -> Tensor:
        difference = gradient(field, x + h * L2.unit(v)) - clean
        return difference * per_example(L2.length(v) / h, v)

    return product


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


def _gradient(values: Tensor, x: Tensor, *, create_graph: bool = False, retain_graph: bool = False) -> Tensor:
    if not values.requires_grad:
        raise InputError(
            "a field that is differentiable in its input",
            "values without a graph",
            "remove detach(), rounding or numpy from the model",
        )
    with torch.enable_grad():  # also for a caller under torch.no_grad()
        total = values.sum()
    (result,) = torch.autograd.grad(
        total, x, create_graph=create_graph, retain_graph=retain_graph or create_graph, materialize_grads=True
    )
    return result
