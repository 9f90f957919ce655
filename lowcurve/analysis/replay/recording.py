"""Record a function's own operations at a point as the steps of a program on tangents.

The recorder reads the calls of torch functions (torch.overrides). It needs no module, name or class of a model, so a model
that calls F.relu is recorded like one with an nn.ReLU.
"""

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lowcurve.analysis.replay.calls import Call, DependentExamples, NotReplayable, split_names
from lowcurve.analysis.replay.rules import find_step
from lowcurve.analysis.replay.steps import Elementwise, Product
from lowcurve.analysis.replay.tangents import Instruction, Program, build_program
from lowcurve.analysis.second_derivatives import graph_nodes

DERIVATIVES = split_names("grad backward _make_dual register_hook register_post_accumulate_grad_hook")
"""Functions that take or change a gradient, which no step shows."""


class ProgramRecorder(TorchFunctionMode):
    """Record every operation on tensors that depend on a leaf; `program` then returns the recorded steps.

    Args:
        x: The leaf, shape (batch, ...).

    Attributes:
        reason: Why the operations cannot be replayed; empty as long as they can.
        is_dependent: Whether the reason is that examples are not independent, or that an operation is random.
        description: For each step its function, shape and arguments. Branches of a network have different ones.

    Example:
        >>> leaf = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> with ProgramRecorder(leaf) as recorder:
        ...     y = torch.relu(leaf @ torch.tensor([[2.0], [1.0]]) - 1)
        >>> recorder.program(y)(torch.tensor([[1.0, 0.0]]))
        tensor([[2.]])
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.slots, self.shapes = {id(x): 0}, {0: x.shape[1:]}
        self.versions = {0: x._version}
        self.alive = [x]  # an id identifies a tensor only while the tensor exists
        self.instructions: list[Instruction] = []
        self.reason, self.is_dependent = "", False
        self.description: list[Hashable] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.reason:
            return func(*args, **kwargs)
        leaves = pytree.tree_leaves((args, kwargs))
        tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
        self._require_recorded(tensors)
        inputs = tuple(t for t in tensors if id(t) in self.slots)
        name = str(getattr(func, "__name__", "?"))
        if name in DERIVATIVES and inputs:
            self.reason = self.reason or f"{name} takes or changes a gradient inside the network"
        if self.reason or not inputs:
            return func(*args, **kwargs)
        slots, versions = tuple(self.slots[id(t)] for t in inputs), [t._version for t in inputs]
        overwrites = bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))
        before = self._copy(args) if overwrites else None  # the derivatives are taken at the old value
        result = func(*args, **kwargs)
        if before is not None:
            inputs, args = tuple(before if t is args[0] else t for t in inputs), (before, *args[1:])
            func = _out_of_place(func)
        elif not self.reason and [t._version for t in inputs] != versions:
            self.reason = f"{name} changes its input in place"
        outputs = result if isinstance(result, tuple | list) else (result,)
        for position, output in enumerate(outputs):
            if isinstance(output, Tensor) and output.requires_grad and not any(output is t for t in inputs):
                one_output = func if output is result else _output(func, position)
                self._record(Call(name.strip("_"), one_output, args, kwargs, inputs, output), slots, leaves)
        return result

    def program(self, result: Tensor) -> Program | str:
        """Return the steps from the leaf to the result, or the reason why there are none.

        Frees what was recorded, so it can be called once.

        Args:
            result: A tensor that was computed inside the recorder.
        """
        self._require_recorded([result])
        if not self.reason and id(result) not in self.slots:
            self.reason = "the result does not depend on the input"
        if self.reason:
            found: Program | str = self.reason
        else:
            description = tuple(self.description)
            found = build_program(self.instructions, self.shapes, self.slots[id(result)], description)
        self.alive.clear()  # only autograd holds the activations now, and its backward pass frees them
        self.slots.clear()
        return found

    def _record(self, call: Call, slots: tuple[int, ...], leaves: list[Any]) -> None:
        if self.reason:
            return
        try:
            if call.result.ndim == 0 or len(call.result) != len(self.x):
                raise NotReplayable(f"{call.name} gives up the batch axis")
            step = find_step(call)
        except NotReplayable as error:
            self.reason, self.is_dependent = str(error), isinstance(error, DependentExamples)
            return
        if isinstance(step, Elementwise | Product):
            call.result.register_hook(step.receive)  # type: ignore[no-untyped-call]
        self.slots[id(call.result)] = slot = len(self.instructions) + 1
        self.instructions.append((slot, step, slots))
        self.shapes[slot], self.versions[slot] = call.shape, call.result._version
        batch = len(self.x)
        words = (None if one == batch else one for one in leaves if isinstance(one, int | str | torch.dtype))
        self.description.append((call.name, slots, call.shape, call.result.dtype, *words))
        self.alive.append(call.result)

    def _copy(self, args: tuple[Any, ...]) -> Tensor | None:
        tensor = args[0] if args else None
        if (
            not isinstance(tensor, Tensor)
            or id(tensor) not in self.slots
            or tensor._is_view()
            or any(t._base is tensor for t in self.alive)
        ):
            self.reason = "an in-place operation on a tensor that is seen in two ways"
            return None
        return tensor.detach().clone()

    def _require_recorded(self, tensors: Iterable[Tensor]) -> None:
        """Refuse a tensor that depends on x but was not recorded, or that was changed since then.

        Custom functions return such tensors.
        """
        for t in tensors:
            slot = self.slots.get(id(t))
            if slot is not None:
                if t._version != self.versions[slot]:
                    self.reason = "a tensor is changed in place, by a custom function or through a view"
            elif t.grad_fn is not None and self._depends_on_leaf(t):
                name = type(t.grad_fn).__name__.removesuffix("Backward")
                self.reason = self.reason or f"{name} is no function of torch"

    def _depends_on_leaf(self, tensor: Tensor) -> bool:
        goal = torch.autograd.graph.get_gradient_edge(self.x).node
        return any(node is goal for node in graph_nodes(tensor))


def _out_of_place(func: Any) -> Any:
    """Return the function that leaves its first argument as it is."""
    return lambda t, *args, **kwargs: func(t.clone(), *args, **kwargs)


def _output(func: Any, position: int) -> Any:
    return lambda *args, **kwargs: func(*args, **kwargs)[position]
