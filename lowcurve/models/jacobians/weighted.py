"""Rules of convolutions, matrix products and BatchNorm."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lowcurve.models.gram import Geometry, convolution_bound, scale_outputs
from lowcurve.models.jacobians.bounds import Bounded, OperationBound, Unsupported, constants
from lowcurve.models.jacobians.graph import Node

BATCHNORM = ("native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm", "miopen_batch_norm")
PRODUCTS = {
    "mm": ("self", "mat2"), "bmm": ("self", "mat2"), "addmm": ("mat1", "mat2"), "baddbmm": ("batch1", "batch2"),
    "mv": ("self", "vec"), "addmv": ("mat", "vec"), "dot": ("self", "tensor"),
}  # fmt: skip
"""The names of the left and the right factor."""


def convolution(node: Node, scale: Tensor | None = None) -> Bounded:
    """Bound a convolution with zero padding by `gram.convolution_bound`.

    An input element meets every weight of its channel at most once, because zeros and not copies of elements are added. A
    transposed convolution is the transpose of the convolution that acts on its output, so it has the same norm, and its columns
    are that convolution's rows.

    Args:
        node: The value that it computes.
        scale: One factor for each output channel.

    Returns:
        The bounds.
    """
    known = ("weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
    given = constants(node, ("input",), known)
    weight, transposed, groups = given["weight"].detach().double(), given["transposed"], given["groups"]
    axes = weight.ndim - 2
    lists = (list(given[name]) for name in ("stride", "padding", "dilation"))
    stride, padding, dilation = (tuple(values * axes if len(values) == 1 else values) for values in lists)
    geometry = Geometry(stride, dilation, tuple((size, size) for size in padding), groups)
    ((_, parent),) = node.parents
    weight = scale_outputs(weight, scale)
    lipschitz = convolution_bound(weight, (node if transposed else parent).shape[2:], geometry)
    # For each group and input channel, all weights that an element of the channel meets.
    by_channel = weight.view(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(2)
    columns = weight.flatten(1) if transposed else by_channel
    bound = OperationBound(lipschitz, float(columns.norm(dim=-1).max()), float(columns.abs().sum(-1).max()))
    return Bounded(((parent, bound),))


def product(node: Node, scale: Tensor | None = None) -> Bounded:
    """Bound the product of a matrix x with a constant matrix C, x C or C x, times alpha, with a constant added.

    J is one block C^T for each row of x, or one block C for each column. A batch of matrices has such blocks for each. So
    ||J||_2 is the largest ||C||_2, and the columns of J are those of the blocks.

    Args:
        node: The value that it computes.
        scale: One factor for each column of x C.

    Returns:
        The bounds.
    """
    left, right = PRODUCTS[node.call.name]
    names = [name for name, _ in node.parents]
    constants(node, (left, right), ("self", "input", "alpha", "beta"))
    if len(names) != 1:
        raise Unsupported(", a product of two values that depend on the input")
    from_left = names == [left]
    factor = node.call.arguments[right if from_left else left].detach().double() * node.call.arguments.get("alpha", 1)
    if factor.ndim == 1:  # a vector is a column on the right and a row on the left
        factor = factor[:, None] if from_left else factor[None]
    matrix = factor.mT if from_left else factor
    if scale is not None:
        matrix = matrix * scale[:, None]
    lipschitz = float(torch.linalg.matrix_norm(matrix, 2).max())
    bound = OperationBound(lipschitz, float(matrix.norm(dim=-2).max()), float(matrix.abs().sum(-2).max()))
    single = from_left and matrix.ndim == 2 and node.shape == (1, len(matrix))
    return Bounded(((node.parents[0][1], bound),), rows=matrix.cpu() if single else None)


def batchnorm(node: Node) -> Bounded:
    """Bound BatchNorm in eval mode: a product with one number for each channel.

    Args:
        node: The value that it computes.

    Returns:
        The bounds.
    """
    size = float(batchnorm_scale(node).abs().max())
    return Bounded(((node.parents[0][1], OperationBound(size, size, size)),))


def batchnorm_scale(node: Node) -> Tensor:
    """Return the factor of BatchNorm on each channel in eval mode, weight / sqrt(var + eps).

    Args:
        node: The value that it computes.

    Returns:
        The factors in double precision.
    """
    known = (
        "weight",
        "bias",
        "running_mean",
        "running_var",
        "training",
        "momentum",
        "eps",
        "exponential_average_factor",
        "epsilon",
    )
    given = constants(node, ("input",), known)
    if given.get("training", False) or given["running_var"] is None or node.output:
        raise Unsupported(" in training mode")
    variance = given["running_var"].detach().double() + given.get("eps", given.get("epsilon"))
    scale: Tensor = variance.rsqrt()
    return scale if given["weight"] is None else scale * given["weight"].detach().double()


def layer_before(node: Node, uses: Mapping[Node, int]) -> Node | None:
    """Return the convolution or matrix product whose channels a BatchNorm scales, if nothing else uses its result.

    The channels of both are axis 1. So a linear layer on the last axis of tokens, whose result is reshaped before
    BatchNorm along axis 1, is not returned.

    Args:
        node: The value that BatchNorm computes.
        uses: The number of uses of each value.

    Returns:
        The value that the layer computes, or None.
    """
    if node.call.name not in BATCHNORM:
        return None
    before = node.parents[0][1]
    scaled = {"convolution": "input", "addmm": "mat1", "mm": "self"}.get(before.call.name)
    folds = uses[before] == 1 and [name for name, _ in before.parents] == [scaled]
    return before if folds and not before.call.arguments.get("transposed", False) else None
