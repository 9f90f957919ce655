"""Record a function's own operations at a point as the steps of a program on tangents.

The recorder reads the calls of torch functions (torch.overrides). It needs no module, name or class of a model, so a model
that calls F.relu is recorded like one with an nn.ReLU.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lowcurve.analysis.replay.calls import Call, DependentExamples, NotReplayable
from lowcurve.analysis.replay.rules import find_step
from lowcurve.analysis.replay.steps import Elementwise, Product
from lowcurve.analysis.replay.tangents import Instruction, Program, build_program


class ProgramRecorder(TorchFunctionMode):
    """Record every operation on tensors that depend on a leaf; `program` then returns the recorded steps.

    Args:
        x: The leaf, shape (batch, ...).

    Attributes:
        reason: Why the operations cannot be replayed; empty as long as they can.
        is_dependent: Whether the reason is that examples are not independent, or that an operation is random.

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
        self.alive = [x]  # an id identifies a tensor only while the tensor exists
        self.instructions: list[Instruction] = []
        self.reason, self.is_dependent = "", False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = () if self.reason else _tensors((args, kwargs))
        self._require_recorded(tensors)
        inputs = tuple(t for t in tensors if id(t) in self.slots)
        if self.reason or not inputs:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", "?"))
        slots, versions = tuple(self.slots[id(t)] for t in inputs), [t._version for t in inputs]
        overwrites = bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))
        before = self._copy(args[0]) if overwrites else None  # the derivatives are taken at the old value
        result = func(*args, **kwargs)
        if before is not None:
            inputs, args = tuple(before if t is args[0] else t for t in inputs), (before, *args[1:])
        elif not self.reason and [t._version for t in inputs] != versions:
            self.reason = f"{name} changes its input in place"
        outputs = result if isinstance(result, tuple | list) else (result,)
        for position, output in enumerate(outputs):
            if isinstance(output, Tensor) and output.requires_grad and not any(output is t for t in inputs):
                one_output = func if output is result else _output(func, position)
                self._record(Call(name.strip("_"), one_output, args, kwargs, inputs, output), slots)
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
        found = self.reason or build_program(self.instructions, self.shapes, self.slots[id(result)])
        self.alive.clear()  # only autograd holds the activations now, and its backward pass frees them
        self.slots.clear()
        return found

    def _record(self, call: Call, slots: tuple[int, ...]) -> None:
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
        self.shapes[slot] = call.shape
        self.alive.append(call.result)

    def _copy(self, tensor: Tensor) -> Tensor | None:
        if id(tensor) not in self.slots or tensor._is_view() or any(t._base is tensor for t in self.alive):
            self.reason = "an in-place operation on a tensor that is seen in two ways"
            return None
        return tensor.detach().clone()

    def _require_recorded(self, tensors: Iterable[Tensor]) -> None:
        """Refuse a tensor that depends on x but was not recorded, such as the result of a custom Function."""
        for t in tensors:
            if id(t) not in self.slots and t.grad_fn is not None and self._depends_on_leaf(t):
                self.reason = (
                    self.reason or f"{type(t.grad_fn).__name__.removesuffix('Backward')} is no function of torch"
                )

    def _depends_on_leaf(self, tensor: Tensor) -> bool:
        goal = torch.autograd.graph.get_gradient_edge(self.x).node
        waiting, visited = [tensor.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is goal:
                return True
            if node is not None and node not in visited:
                visited.add(node)
                waiting += [following for following, _ in node.next_functions]
        return False


def _tensors(tree: Any) -> tuple[Tensor, ...]:
    return tuple(t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor))


def _output(func: Any, position: int) -> Any:
    return lambda *args, **kwargs: func(*args, **kwargs)[position]
