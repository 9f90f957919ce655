"""The operations from a network's input to its logits, as `recording` finds them."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only


@dataclass(frozen=True, eq=False)
class Call:
    """One operation of the network.

    Attributes:
        name: Name of the operation, such as "convolution"; an operation in place has the name of the plain one.
        run: Compute the operation from arguments like these.
        arguments: Arguments by name, with defaults. A `Node` stands for a value that depends on the input.
        layer: Name of the module in which it runs.
    """

    name: str
    run: Callable[[Mapping[str, Any]], Any]
    arguments: Mapping[str, Any]
    layer: str

    @property
    def parents(self) -> list[tuple[str, "Node"]]:
        """The values among the arguments that depend on the input, with repeats, each with the argument's name."""
        nodes = [(name, leaf) for name, value in self.arguments.items() for leaf in tree_leaves(value)]
        return [(name, leaf) for name, leaf in nodes if isinstance(leaf, Node)]


@dataclass(frozen=True, eq=False)
class Node:
    """A value that depends on the network's input.

    Attributes:
        call: The operation that computed it. That of the input has no arguments.
        shape: Its shape for a batch of one.
        dtype: Its precision.
        device: Its device.
        output: Its place among the operation's outputs. None if there is one.
    """

    call: Call
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    output: int | None = None

    @classmethod
    def of(cls, call: Call, value: Tensor, output: int | None = None) -> "Node":
        """Return the node of a computed value.

        Args:
            call: The operation that computed it.
            value: The value.
            output: Its place among the operation's outputs.

        Returns:
            The node.
        """
        return cls(call, value.shape, value.dtype, value.device, output)

    @property
    def parents(self) -> list[tuple[str, "Node"]]:
        """The values from which it was computed, with repeats, each with the argument's name."""
        return self.call.parents

    def evaluate(self, values: Mapping["Node", Tensor]) -> Tensor:
        """Compute the value from those of its parents, in double precision if they are in double precision.

        Args:
            values: The value of each parent.

        Returns:
            The value.
        """
        arguments = dict(self.call.arguments)
        if any(values[parent].dtype == torch.double for _, parent in self.parents):
            arguments = tree_map_only(Tensor, lambda x: x.double() if x.is_floating_point() else x, arguments)
        found = self.call.run(tree_map_only(Node, values.__getitem__, arguments))
        value: Tensor = found if self.output is None else found[self.output]
        return value


@dataclass(frozen=True)
class InputGraph:
    """The operations from a network's input to its logits, for a batch of one.

    Attributes:
        nodes: The values that the logits depend on, in order. The input is the first, the logits are the last.
    """

    nodes: tuple[Node, ...]

    @property
    def uses(self) -> Counter[Node]:
        """The number of times that each value is used; the logits are used once."""
        return Counter([parent for node in self.nodes for _, parent in node.parents] + [self.nodes[-1]])

    def __call__(self, x: Tensor) -> Tensor:
        """Compute the logits of one input, shape (1, ...)."""
        values = {self.nodes[0]: x}
        for node in self.nodes[1:]:
            values[node] = node.evaluate(values)
        return values[self.nodes[-1]]


@dataclass(frozen=True)
class Argument:
    """An argument of a Python function, with the attributes of an operation's argument that `recording` reads.

    Attributes:
        name: Its name.
        alias_info: None, because it is not written to.
    """

    name: str
    alias_info: None = None


class WholeFunction:
    """A function in Python that is recorded as one operation, in the form of torch's operations.

    Args:
        function: The function.
    """

    tags: tuple[torch.Tag, ...] = ()

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.signature = function, inspect.signature(function)
        self._schema = self
        self.name, self.arguments = function.__name__, [Argument(name) for name in self.signature.parameters]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Compute the function."""
        return self.function(*args, **kwargs)


def bind_arguments(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of an operation by their names, with defaults.

    Args:
        func: The operation.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        All arguments in order.
    """
    if isinstance(func, WholeFunction):
        bound = func.signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return dict(bound.arguments)
    names = [argument.name for argument in func._schema.arguments]
    defaults = {a.name: a.default_value for a in func._schema.arguments if a.has_default_value()}
    given = defaults | dict(zip(names, args, strict=False)) | dict(kwargs)
    return {name: given[name] for name in names}


def run_operation(func: Any, given: Mapping[str, Any], in_place: bool = False) -> Any:
    """Run an operation with named arguments. One that works in place works on a copy.

    Args:
        func: The operation.
        given: All arguments in order.
        in_place: True if it writes into its first argument.

    Returns:
        Its result.
    """
    if isinstance(func, WholeFunction):
        return func(**given)
    values = dict(given)
    if in_place:
        first = next(iter(values))
        values[first] = values[first].clone()
    by_name = {a.name for a in func._schema.arguments if a.kwarg_only}
    positional = [value for name, value in values.items() if name not in by_name]
    return func(*positional, **{name: values[name] for name in by_name})


def operation_name(func: Any) -> str:
    """Return the name of an operation; one in place has the name of the plain one.

    Args:
        func: The operation.

    Returns:
        The name, such as "relu" for both `relu` and `relu_`.
    """
    name = str(func._schema.name).removeprefix("aten::")
    return name if name.startswith("_") else name.rstrip("_")
