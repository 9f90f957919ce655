"""Recording a function's own operations at a point as the steps of a program on tangents.

Calls are seen as Python makes them (torch.overrides), so no module, name or class of a model is asked for, and a model that
writes F.relu is as good as one that holds an nn.ReLU.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lowcurve.analysis.replay.calls import Call, Mixing, Unrecorded
from lowcurve.analysis.replay.rules import step_of
from lowcurve.analysis.replay.steps import Elementwise, Product, Step
from lowcurve.analysis.replay.tangents import Program, program


class Recorder(TorchFunctionMode):
    """While it is on, notes what happens to whatever depends on the leaf x; `program` says what came of it.

    Example:
        >>> leaf = torch.tensor([[3.0, 4.0]], requires_grad=True)
        >>> with Recorder(leaf) as recorder:
        ...     y = torch.relu(leaf @ torch.tensor([[2.0], [1.0]]) - 1)
        >>> recorder.program(y)(torch.tensor([[1.0, 0.0]]))
        tensor([[2.]])
    """

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x
        self.slots, self.shapes = {id(x): 0}, {0: x.shape[1:]}
        self.kept = [x]  # an id means a tensor only as long as the tensor lives
        self.steps: list[tuple[int, Step, tuple[int, ...]]] = []
        self.reason, self.mixes = "", False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = () if self.reason else _tensors((args, kwargs))
        self._require_seen(tensors)
        inputs = tuple(t for t in tensors if id(t) in self.slots)
        if self.reason or not inputs:
            return func(*args, **kwargs)
        name = str(getattr(func, "__name__", "?"))
        slots, versions = tuple(self.slots[id(t)] for t in inputs), [t._version for t in inputs]
        overwrites = bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))
        before = self._copied(args[0]) if overwrites else None  # its derivatives are taken where it was
        result = func(*args, **kwargs)
        if before is not None:
            inputs, args = tuple(before if t is args[0] else t for t in inputs), (before, *args[1:])
        elif not self.reason and [t._version for t in inputs] != versions:
            self.reason = f"{name} changes its input in place"
        outputs = result if isinstance(result, tuple | list) else (result,)
        for place, output in enumerate(outputs):
            if isinstance(output, Tensor) and output.requires_grad and not any(output is t for t in inputs):
                made = func if output is result else _part(func, place)
                self._note(Call(name.strip("_"), made, args, kwargs, inputs, output), slots)
        return result

    def program(self, result: Tensor) -> Program | str:
        """The steps from x to the result, or why there are none. Once: what was seen is given up."""
        self._require_seen([result])
        if not self.reason and id(result) not in self.slots:
            self.reason = "the result does not depend on the input"
        made = self.reason or program(self.steps, self.shapes, self.slots[id(result)])
        self.kept.clear()  # the pass itself is autograd's from here on, which lets go of it as it goes back
        self.slots.clear()
        return made

    def _note(self, call: Call, slots: tuple[int, ...]) -> None:
        if self.reason:
            return
        try:
            if call.result.ndim == 0 or len(call.result) != len(self.x):
                raise Unrecorded(f"{call.name} gives up the axis of examples")
            step = step_of(call)
        except Unrecorded as unrecorded:
            self.reason, self.mixes = str(unrecorded), isinstance(unrecorded, Mixing)
            return
        if isinstance(step, Elementwise | Product):
            call.result.register_hook(step.receive)  # type: ignore[no-untyped-call]
        self.slots[id(call.result)] = slot = len(self.steps) + 1
        self.steps.append((slot, step, slots))
        self.shapes[slot] = call.shape
        self.kept.append(call.result)

    def _copied(self, tensor: Tensor) -> Tensor | None:
        if id(tensor) not in self.slots or tensor._is_view() or any(t._base is tensor for t in self.kept):
            self.reason = "an in-place operation on a tensor that is seen in two ways"
            return None
        return tensor.detach().clone()

    def _require_seen(self, tensors: Iterable[Tensor]) -> None:
        """Refuse a tensor that depends on x and whose making was not seen, such as the result of a custom Function."""
        for t in tensors:
            if id(t) not in self.slots and t.grad_fn is not None and self._reaches(t):
                self.reason = (
                    self.reason or f"{type(t.grad_fn).__name__.removesuffix('Backward')} is no function of torch"
                )

    def _reaches(self, tensor: Tensor) -> bool:
        goal = torch.autograd.graph.get_gradient_edge(self.x).node
        waiting, known = [tensor.grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is goal:
                return True
            if node is not None and node not in known:
                known.add(node)
                waiting += [following for following, _ in node.next_functions]
        return False


def _tensors(tree: Any) -> tuple[Tensor, ...]:
    return tuple(t for t in pytree.tree_leaves(tree) if isinstance(t, Tensor))


def _part(func: Any, place: int) -> Any:
    return lambda *args, **kwargs: func(*args, **kwargs)[place]
