"""The nonlinear operations of a recorded network, and their bounds in a region."""

from torch import Tensor

from lowcurve.models.jacobians.bounds import refusal
from lowcurve.models.jacobians.elementwise import ELEMENTWISE
from lowcurve.models.jacobians.graph import Node
from lowcurve.models.local.curves import Curve, curve_of
from lowcurve.models.local.elementwise import Elementwise
from lowcurve.models.local.pooling import Largest, Windows, windows_of, windows_of_axes
from lowcurve.models.local.relaxation import Relaxation

POOLING = ("max_pool2d_with_indices", "max_pool3d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool3d")
WITH_CONSTANT = ("maximum", "minimum")
NONLINEAR = {*ELEMENTWISE, *POOLING, *WITH_CONSTANT, "amax"}


def prepare(node: Node) -> Curve | Windows:
    """Return what does not depend on the image: the nonlinearity, or the places of a pooling's windows.

    Args:
        node: The value that a nonlinear operation computes.

    Raises:
        NotAvailable: For an argument or a shape that is not supported.
    """
    if len(node.parents) != 1:
        raise refusal(node, ", of several values that depend on the input")
    ((_, parent),) = node.parents
    if node.call.name == "amax":
        return windows_of_axes(node)
    if node.call.name not in POOLING:
        if parent.shape != node.shape or node.output:
            raise refusal(node, " with broadcasting")
        return curve_of(node)
    return windows_of(node)


def relax(
    prepared: Curve | Windows, parent: Node, z: Tensor, low: Tensor, high: Tensor, *, together: bool = False
) -> Relaxation:
    """Return the bounds of a nonlinear operation.

    Args:
        prepared: What `prepare` returned.
        parent: Its input.
        z: The input at each image, shape (batch, ...).
        low: Least change of the input.
        high: Largest change.
        together: Choose slopes for bounds of a layer's changes together.
    """
    if isinstance(prepared, Curve):
        return Elementwise(prepared, z, low, high, together)
    flat = (values.reshape(len(z), -1, prepared.pixels) for values in (z, low, high))
    return Largest(prepared.places, parent.shape, *flat)
