"""The table of operations with known derivative bounds, and the bounds of every operation of a recorded network."""

from dataclasses import dataclass, replace
from functools import partial

from lowcurve.models.jacobians import copying, nonlinear, weighted
from lowcurve.models.jacobians.bounds import Bounded, Rule, refusal
from lowcurve.models.jacobians.elementwise import ELEMENTWISE
from lowcurve.models.jacobians.graph import InputGraph, Node

REARRANGEMENTS = (
    "view", "_unsafe_view", "_reshape_alias", "permute", "transpose", "t", "unsqueeze", "squeeze", "clone", "alias", "flip",
    "roll", "neg", "_to_copy", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
)  # fmt: skip
"""Operations that change the order or the sign of their elements, or nothing."""
ONE_SIGN = (
    "split", "split_with_sizes", "unbind", "expand", "repeat", "slice", "select", "index", "index_select", "gather", "diagonal",
    "tril", "triu", "unfold", "im2col", "col2im", "constant_pad_nd", "pad", "mean", "sum", "cumsum", "avg_pool2d", "avg_pool3d",
    "_adaptive_avg_pool2d", "_adaptive_avg_pool3d",
    *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("linear1d", "bilinear2d", "trilinear3d")),
    *(f"{kind}{n}d" for kind in ("upsample_nearest", "_upsample_nearest_exact") for n in (1, 2, 3)),
)  # fmt: skip
"""Linear operations without entries of both signs: selections, copies, sums, averages and interpolations between neighbors."""

RULES: dict[str, Rule] = {
    **{name: Rule(copying.rearrangement) for name in REARRANGEMENTS},
    **{name: Rule(copying.one_sign, ("self", "input")) for name in ONE_SIGN},
    **{name: nonlinear.elementwise(bound, moving) for name, (bound, moving) in ELEMENTWISE.items()},
    **{name: Rule(weighted.batchnorm, ("input",)) for name in weighted.BATCHNORM},
    **{name: Rule(weighted.product, factors) for name, factors in weighted.PRODUCTS.items()},
    **{f"max_pool{n}d_with_indices": Rule(nonlinear.max_pooling) for n in (2, 3)},
    **{f"adaptive_max_pool{n}d": Rule(nonlinear.max_pooling) for n in (2, 3)},
    "convolution": Rule(weighted.convolution, ("input",)),
    "add": Rule(copying.plus, copying.BOTH),
    "sub": Rule(copying.plus, copying.BOTH),
    "rsub": Rule(copying.reversed_minus, copying.BOTH),
    "mul": Rule(copying.multiple, copying.BOTH),
    "div": Rule(copying.quotient),
    "where": Rule(copying.choice, copying.BOTH),
    "masked_fill": Rule(copying.masked),
    "maximum": Rule(copying.extremum, copying.BOTH),
    "minimum": Rule(copying.extremum, copying.BOTH),
    "cat": Rule(copying.concatenation, ("tensors",)),
    "stack": Rule(copying.concatenation, ("tensors",)),
    "amax": Rule(nonlinear.largest),
    "amin": Rule(nonlinear.largest),
}
"""A rule for each operation that is supported. Whatever a rule does not name, an argument or an operation, is refused."""


@dataclass(frozen=True)
class Operation:
    """An operation in a recorded network.

    Attributes:
        node: The value that it computes.
        bounds: Its bounds.
    """

    node: Node
    bounds: Bounded

    @property
    def name(self) -> str:
        """The name of the layer, or of the operation if no layer computes it."""
        return self.node.call.layer or self.node.call.name


def list_operations(graph: InputGraph) -> list[Operation]:
    """List the operations of a recorded network in order, with their bounds.

    A BatchNorm is folded into the convolution or the linear layer before it if nothing else uses that layer's output.

    Args:
        graph: The recorded network.

    Returns:
        The operations.

    Raises:
        NotAvailable: For an operation without known bounds.
    """
    uses, nodes = graph.uses, graph.nodes[1:]
    folded = {node: before for node in nodes if (before := weighted.layer_before(node, uses)) is not None}
    within = set(folded.values())
    return [
        Operation(node, _bound_folded(node, folded[node]) if node in folded else bound_operation(node))
        for node in nodes
        if node not in within
    ]


def bound_operation(node: Node) -> Bounded:
    """Bound the operation that computes a value.

    Args:
        node: The value.

    Returns:
        The bounds.

    Raises:
        NotAvailable: For an operation, an argument or a precision that no rule supports.

    Example:
        >>> import torch
        >>> from lowcurve.models.jacobians.recording import record
        >>> class Twice(torch.nn.Module):
        ...     def forward(self, x):
        ...         return torch.add(x, x, alpha=5)
        >>> [round(bound.lipschitz, 1) for _, bound in bound_operation(record(Twice(), torch.zeros(1, 2)).nodes[-1]).edges]
        [1.0, 5.0]
    """
    rule = RULES.get(node.call.name)
    if rule is None:
        raise refusal(node)
    return rule.apply(node)


def _bound_folded(norm: Node, before: Node) -> Bounded:
    """Bound a BatchNorm and the layer before it as one layer with scaled outputs."""
    bound_operation(norm)  # checks its arguments
    layer = weighted.convolution if before.call.name == "convolution" else weighted.product
    return replace(RULES[before.call.name], bound=partial(layer, scale=weighted.batchnorm_scale(norm))).apply(before)
