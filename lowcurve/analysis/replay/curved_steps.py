# Some steps do not need every argument.
# ruff: noqa: ARG002
"""Steps of functions that are not linear, with their second derivatives.

Let J be the Jacobian of such a function f at the recorded point a, and g the loss's derivative at its result. Then `push`
maps a tangent t to J t. With `second_order`, `pull` maps an adjoint h to J^T h + (d/da J^T g) t: the derivative of the
adjoint J^T g of the gradient, when g moves along h and a along t.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from lowcurve.analysis.replay.stacking import each_vector, multiply, take_examples, unstack
from lowcurve.analysis.replay.steps import Step

Target = Literal["result", "first", "second"]


class CurvedStep(Step):
    """A step with second derivatives. `receive` is called before the first `push` that needs them."""

    @abstractmethod
    def receive(self, g: Tensor) -> None:
        """Take the loss's derivative at the result from a hook of autograd.

        Args:
            g: The derivative, of the result's shape, with the batch axis first.
        """

    @property
    @abstractmethod
    def curved(self) -> bool:
        """Whether second derivatives are added."""


@dataclass
class Elementwise(CurvedStep):
    """t -> sigma'(a) t, whose adjoint adds (sigma''(a) g) t for second derivatives.

    Cost: a pass over memory for `push`, and two for `pull`.

    Attributes:
        derivative: sigma'(a).
        second_derivative: Computes sigma''(a) once the memory of the recorded pass is free; None where it is zero.
        second_order_factor: sigma''(a) g, which `receive` computes.
    """

    derivative: Tensor
    second_derivative: Callable[[], Tensor] | None
    second_order_factor: Tensor | None = None

    @property
    def curved(self) -> bool:
        """Whether sigma'' is not zero."""
        return self.second_order_factor is not None

    def receive(self, g: Tensor) -> None:
        """Compute sigma''(a) g.

        Args:
            g: The derivative, of the result's shape.
        """
        if self.second_derivative is not None:
            self.second_order_factor, self.second_derivative = self.second_derivative() * g, None

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return sigma'(a) t."""
        saved = tangents[0] if second_order and self.second_order_factor is not None else None
        return multiply(tangents[0], self.derivative, inplace=writable[0] and saved is None), saved

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return sigma'(a) g, plus the second-order factor times t."""
        result, factor = multiply(g, self.derivative, inplace=writable), self.second_order_factor
        if saved is not None:
            assert factor is not None
            unstack(result, len(factor)).addcmul_(unstack(saved, len(factor)), factor)
        return (result,)

    def take(self, rows: Tensor) -> "Elementwise":
        """Return the step with the derivatives of some examples."""
        factor = self.second_order_factor
        return Elementwise(
            take_examples(self.derivative, rows), None, None if factor is None else take_examples(factor, rows)
        )


@dataclass
class Bilinear(CurvedStep):
    """(s, t) -> s * b + a * t, the tangent of a product a * b of two parts of the network.

    Let g < b be the adjoint in a, and a > g the adjoint in b. Second derivatives add g < t to the first and s > g to the
    second.

    Cost: two products for `push`, and four for `pull`.

    Attributes:
        a: The first factor.
        b: The second.
        g: The loss's derivative at the result, which `receive` takes.
    """

    a: Tensor
    b: Tensor
    g: Tensor | None = None

    @abstractmethod
    def multiply(self, target: Target, x: Tensor, y: Tensor, add: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return x * y, x < y or x > y, plus that of a second pair. The tensors may share leading axes of vectors.

        Args:
            target: What the product is: the result, or the adjoint in the first or second factor.
            x: The first tensor.
            y: The second.
            add: A second pair.
        """

    @property
    def curved(self) -> bool:
        """True once the derivative at the result is known."""
        return self.g is not None

    def receive(self, g: Tensor) -> None:
        """Keep g.

        Args:
            g: The derivative, of the result's shape.
        """
        self.g = self.order(g)

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return s * b + a * t."""
        s, t = (self._unstack(one) for one in tangents)
        result = self.multiply("result", s, self.b, (self.a, t))
        saved = (s, t) if second_order and self.g is not None else None
        return self._stack(result, tangents[0]), (saved, [one.shape for one in tangents])

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return g < b and a > g, plus the terms of second derivatives."""
        moved, shapes = saved
        h, in_a, in_b = self._unstack(g), None, None
        if moved is not None:
            assert self.g is not None
            in_a, in_b = (self.g, moved[1]), (moved[0], self.g)
        found = self.multiply("first", h, self.b, in_a), self.multiply("second", self.a, h, in_b)
        return tuple(self._stack(one, g).sum_to_size(shape) for one, shape in zip(found, shapes, strict=True))

    def take(self, rows: Tensor) -> "Bilinear":
        """Return the step with the factors of some examples."""
        return replace(self, a=self.a[rows], b=self.b[rows], g=None if self.g is None else self.g[rows])

    def _unstack(self, t: Tensor) -> Tensor:
        """Give several vectors per example an axis of their own."""
        return self.order(t if len(t) == len(self.a) else unstack(t, len(self.a)))

    @staticmethod
    def order(t: Tensor) -> Tensor:
        """Return a tensor in the order in memory that products need, so that it is copied once.

        Args:
            t: The tensor.
        """
        return t

    def _stack(self, found: Tensor, like: Tensor) -> Tensor:
        return found if len(like) == len(self.a) else found.flatten(0, 1)


@dataclass
class ElementwiseProduct(Bilinear):
    """The product of two tensors entry by entry, which may broadcast."""

    def multiply(self, target: Target, x: Tensor, y: Tensor, add: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return x y."""
        return x * y if add is None else torch.addcmul(x * y, *add)


@dataclass
class MatrixProduct(Bilinear):
    """The product of two batches of matrices, a b. The adjoint in a is g b^T, and in b it is a^T g."""

    def multiply(self, target: Target, x: Tensor, y: Tensor, add: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return x y, x y^T or x^T y."""
        found = self._matmul(target, x, y)
        if add is None:
            return found
        x, y = (one.mT if target == which else one for one, which in zip(add, ("second", "first"), strict=True))
        if found.shape[:-2] == x.shape[:-2] == y.shape[:-2] and found.is_contiguous():
            flat = found.view(-1, *found.shape[-2:])
            flat.baddbmm_(x.reshape(-1, *x.shape[-2:]), y.reshape(-1, *y.shape[-2:]))  # without a pass for the sum
            return found
        return found + x @ y

    def __post_init__(self) -> None:
        self.a, self.b = self.order(self.a), self.order(self.b)

    @staticmethod
    def order(t: Tensor) -> Tensor:
        """Return matrices one after the other.

        Args:
            t: Batches of matrices, or of transposed ones.
        """
        return t.mT.contiguous().mT if t.stride(-2) == 1 else t.contiguous()

    @staticmethod
    def _matmul(target: Target, x: Tensor, y: Tensor) -> Tensor:
        return (x.mT if target == "second" else x) @ (y.mT if target == "first" else y)


@dataclass
class Einsum(Bilinear):
    """The sum over products of entries that an equation of einsum describes.

    Attributes:
        letters: The indices of both factors and of the result, one letter each.
    """

    letters: tuple[str, str, str] = ("", "", "")

    def multiply(self, target: Target, x: Tensor, y: Tensor, add: tuple[Tensor, Tensor] | None = None) -> Tensor:
        """Return the product by the equation, or by its adjoint in one of the factors."""
        first, second, result = self.letters
        order = {"result": (first, second, result), "first": (result, second, first), "second": (first, result, second)}
        found = self._sum(order[target], x, y)
        return found if add is None else found + self._sum(order[target], *add)

    @staticmethod
    def _sum(letters: tuple[str, str, str], x: Tensor, y: Tensor) -> Tensor:
        """Sum with the axis of several vectors, called Z, in front of the operand that has it."""
        ranks = [one.ndim - len(word) for one, word in zip((x, y), letters, strict=False)]
        vectors = ["Z" * rank for rank in (*ranks, max(ranks))]
        words = [vector + word for vector, word in zip(vectors, letters, strict=True)]
        return torch.einsum(f"{words[0]},{words[1]}->{words[2]}", x, y)


@dataclass
class Softmax(CurvedStep):
    """t -> p (t - sum(p t)), the tangent of p = softmax(a) along an axis.

    With q = g - sum(p g), second derivatives add r - p sum(r), where r = q p' and p' is the result's tangent.

    Cost: one fused pass over memory for `push`, and four passes for `pull`.

    Attributes:
        p: The softmax.
        axis: Its axis.
        q: The centered derivative, which `receive` computes.
    """

    p: Tensor
    axis: int
    q: Tensor | None = None
    push_allocates: ClassVar[bool] = False  # its result is stored

    @property
    def curved(self) -> bool:
        """True once the derivative at the result is known."""
        return self.q is not None

    def receive(self, g: Tensor) -> None:
        """Compute g - sum(p g).

        Args:
            g: The derivative, of the result's shape.
        """
        self.q = g - (self.p * g).sum(self.axis, keepdim=True)

    def push(self, tangents: tuple[Tensor, ...], writable: tuple[bool, ...], second_order: bool) -> tuple[Tensor, Any]:
        """Return p (t - sum(p t))."""
        result = each_vector(self._apply, len(self.p), tangents[0])
        return result, result if second_order and self.q is not None else None

    def pull(self, g: Tensor, saved: Any, writable: bool) -> tuple[Tensor, ...]:
        """Return p (g - sum(p g)), plus the terms of second derivatives."""
        if saved is None:
            return (each_vector(self._apply, len(self.p), g),)
        return (each_vector(self._pull, len(self.p), g, saved),)

    def take(self, rows: Tensor) -> "Softmax":
        """Return the step of some examples."""
        return Softmax(self.p[rows], self.axis, None if self.q is None else self.q[rows])

    def _apply(self, t: Tensor) -> Tensor:
        found: Tensor = torch.ops.aten._softmax_backward_data(t, self.p, self.axis, t.dtype)
        return found

    def _pull(self, g: Tensor, tangent: Tensor) -> Tensor:
        assert self.q is not None
        found = (self.p * g).addcmul_(tangent, self.q)
        return found.addcmul_(self.p, found.sum(self.axis, keepdim=True), value=-1)
