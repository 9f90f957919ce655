"""Bounds of the Jacobian of one operation, and the form of the rules that prove them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import Node


@dataclass(frozen=True)
class OperationBound:
    """Upper bounds for one operation with Jacobian J in one of its arguments.

    Attributes:
        lipschitz: Bound of ||J||_2.
        column_norm: Bound of the l_2 norm of every column of J.
        column_sum: Bound of the sum of absolute values of every column of J.
        second_derivative: sup |phi''| of an elementwise operation phi, infinite for a kink, else 0.
    """

    lipschitz: float
    column_norm: float
    column_sum: float
    second_derivative: float = 0.0

    def pull_back(self, norm: Tensor, largest: Tensor) -> tuple[Tensor, Tensor]:
        """Bound J^T a in two norms.

        Args:
            norm: Bound of ||a||_2.
            largest: Bound of ||a||_inf.

        Returns:
            Bounds of ||J^T a||_2 and ||J^T a||_inf.
        """
        return self.lipschitz * norm, torch.minimum(self.column_sum * largest, self.column_norm * norm)


IDENTITY = OperationBound(1.0, 1.0, 1.0)


class Bounded(NamedTuple):
    """The bounds of an operation, whose derivative is the sum of its Jacobians in each argument that depends on the input.

    Attributes:
        edges: Those arguments, with repeats, each with its bounds.
        concatenates: True if each argument has outputs of its own.
        rows: The matrix of a linear layer for one row of inputs. It is used if the layer is the last operation.
    """

    edges: tuple[tuple[Node, OperationBound], ...]
    concatenates: bool = False
    rows: Tensor | None = None


class Unsupported(Exception):
    """An argument that the rule of an operation does not support.

    Args:
        detail: The argument, as the end of a phrase that begins with the operation's name.
    """


@dataclass(frozen=True)
class Rule:
    """The bound of an operation, and the arguments for which it is proved.

    Attributes:
        bound: The function that bounds it, or raises `Unsupported`.
        moving: Names of the arguments that may depend on the input.
    """

    bound: Callable[[Node], Bounded]
    moving: tuple[str, ...] = ("self",)

    def apply(self, node: Node) -> Bounded:
        """Bound the operation that computes a value.

        Args:
            node: The value.

        Returns:
            The bounds.

        Raises:
            NotAvailable: If an argument or the precision is not supported.
        """
        outside = [name for name, _ in node.parents if name not in self.moving]
        precise = (torch.float32, torch.float64)
        if outside:
            raise refusal(node, f" whose {outside[0]!r} depends on the input")
        if any(value.dtype not in precise for value in (node, *(parent for _, parent in node.parents))):
            raise refusal(node, " in half precision, or of integers")
        try:
            return self.bound(node)
        except Unsupported as error:
            raise refusal(node, str(error)) from None
        except (RuntimeError, TypeError) as error:  # of a sparse matrix, or of a device without double precision
            raise refusal(node, f" ({str(error).splitlines()[0][:80]})") from None


def refusal(node: Node, detail: str = "") -> NotAvailable:
    """Return the error for an operation that cannot be bounded.

    Args:
        node: The value that it computes.
        detail: The reason, as the end of a phrase that begins with its name.

    Returns:
        The error, with the name of the operation and of its layer.
    """
    where = f" in layer {node.call.layer!r}" if node.call.layer else ""
    received = f"{node.call.name}{detail}{where}"
    return NotAvailable("operations with known derivative bounds", received, "bound the network without it")


def constants(node: Node, moving: tuple[str, ...], expected: tuple[str, ...] | None = None) -> dict[str, Any]:
    """Return the arguments of an operation but for those that may depend on the input.

    Args:
        node: The value that it computes.
        moving: Names of the arguments that may depend on the input.
        expected: Names of all other arguments that the rule knows. None for any.

    Returns:
        The other arguments by name.

    Raises:
        Unsupported: If there is an argument that the rule does not know.
    """
    found = {name: value for name, value in node.call.arguments.items() if name not in moving}
    unknown = set() if expected is None else set(found) - set(expected)
    if unknown:
        raise Unsupported(f" with {min(unknown)}")
    return found
