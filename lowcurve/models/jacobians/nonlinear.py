"""Rules of elementwise nonlinearities and of max-pooling."""

import math
from collections.abc import Callable

from lowcurve.models.jacobians.bounds import Bounded, OperationBound, Rule, Unsupported, constants
from lowcurve.models.jacobians.elementwise import ElementwiseBound
from lowcurve.models.jacobians.graph import Node


def elementwise(bound: Callable[..., ElementwiseBound], moving: str) -> Rule:
    """Make the rule of an elementwise nonlinearity, whose Jacobian is diagonal.

    Args:
        bound: The bounds of its derivatives as a function of its other arguments.
        moving: The name of the argument that depends on the input.

    Returns:
        The rule.
    """

    def bounded(node: Node) -> Bounded:
        try:
            slope, second_derivative = bound(**constants(node, (moving,)))
        except TypeError:
            raise Unsupported(f" with {', '.join(constants(node, (moving,)))}") from None
        ((_, parent),) = node.parents
        if parent.shape != node.shape or node.output:
            raise Unsupported(" with broadcasting")
        if not slope < math.inf:
            raise Unsupported(" with a step")
        return Bounded(((parent, OperationBound(slope, slope, slope, second_derivative)),))

    return Rule(bounded, (moving,))


def largest(node: Node) -> Bounded:
    """Bound the maximum or minimum over axes: each output follows one element of its own, with a kink.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    return Bounded(((node.parents[0][1], OperationBound(1.0, 1.0, 1.0, math.inf)),))


def max_pooling(node: Node) -> Bounded:
    """Bound max-pooling: each output follows one element of its window, with a kink.

    |max x - max x'| is at most the largest |x_i - x'_i| in a window. An element is in at most k windows, so the squares of all
    outputs' changes sum up to at most k ||x - x'||^2.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    if node.output:
        raise Unsupported(", its indices")
    ((_, parent),) = node.parents
    repeats = 1
    for axis in range(-2 if "2d" in node.call.name else -3, 0):
        counts = [0] * parent.shape[axis]
        for places in windows(node, axis, parent.shape[axis]):
            for place in places:
                if 0 <= place < len(counts):
                    counts[place] += 1
        repeats *= max(counts)
    return Bounded(((parent, OperationBound(math.sqrt(repeats), math.sqrt(repeats), repeats, math.inf)),))


def windows(node: Node, axis: int, size: int) -> list[range]:
    """Return the places of each window of a pooling along an axis, in or outside of the image.

    Args:
        node: The value that it computes.
        axis: The axis, counted from the end.
        size: Size of its input along the axis.
    """
    count = node.shape[axis]
    if "output_size" in node.call.arguments:  # as torch's adaptive pooling computes them
        constants(node, ("self",), ("output_size",))
        return [range(at * size // count, -(-(at + 1) * size // count)) for at in range(count)]
    given = constants(node, ("self",), ("kernel_size", "stride", "padding", "dilation", "ceil_mode"))
    kernel, stride, padding, dilation = (
        values[axis] if len(values) > 1 else values[0]
        for values in (
            given["kernel_size"],
            given["stride"] or given["kernel_size"],
            given["padding"],
            given["dilation"],
        )
    )
    starts = [at * stride - padding for at in range(count)]
    return [range(start, start + dilation * (kernel - 1) + 1, dilation) for start in starts]
