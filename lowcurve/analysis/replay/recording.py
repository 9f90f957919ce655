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

from lowcurve.analysis.replay.calls import Call, DependentExamples, Layout, NotReplayable, split_names
from lowcurve.analysis.replay.compositions import COMPOSITIONS
from lowcurve.analysis.replay.curved_steps import CurvedStep
from lowcurve.analysis.replay.rules import RULES, find_step, is_public
from lowcurve.analysis.replay.steps import Identity, Step
from lowcurve.analysis.replay.tangents import Instruction, Program, build_program
from lowcurve.analysis.second_derivatives import graph_nodes
from lowcurve.network_calls import is_memory_error

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
        self.x, self.batch = x, len(x)
        self.slots, self.layouts = {id(x): 0}, {0: Layout()}
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
        name = _name(func)
        if name in DERIVATIVES and inputs:
            self.reason = self.reason or f"{name} takes or changes a gradient inside the network"
        if self.reason or not inputs:
            return func(*args, **kwargs)
        slots, versions = tuple(self.slots[id(t)] for t in inputs), [t._version for t in inputs]
        overwrites = bool(kwargs.get("inplace")) or (name.endswith("_") and not name.endswith("__"))
        before = self._copy(name, args) if overwrites else None  # the derivatives are taken at the old value
        given = args, kwargs
        if before is not None:
            args, kwargs, inputs = pytree.tree_map(lambda t: before if t is given[0][0] else t, (args, kwargs, inputs))
        if name.strip("_") not in RULES:
            composed = self._compose(name, func, args, kwargs)
            if composed is not None:
                return composed if before is None else self._write(given[0][0], composed)
        result = func(*given[0], **given[1])
        if before is not None:
            func = _out_of_place(func)
        elif not self.reason and [t._version for t in inputs] != versions:
            self.reason = f"{name} changes its input in place"
        outputs = result if isinstance(result, tuple | list) else (result,)
        for position, output in enumerate(outputs):
            if isinstance(output, Tensor) and output.requires_grad and not any(output is t for t in inputs):
                one_output = func if output is result else _output(func, position)
                layouts = tuple(self.layouts[slot] for slot in slots)
                call = Call(name.strip("_"), one_output, args, kwargs, inputs, output, layouts, self.batch)
                reason = self._record(call, slots, leaves)
                if reason is None:
                    continue
                composed = self._compose(name, func, args, kwargs) if output is result else None
                if composed is not None:
                    return composed if before is None else self._write(result, composed)
                self.reason, self.is_dependent = str(reason), isinstance(reason, DependentExamples)
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
        if not self.reason and self.layouts[self.slots[id(result)]] != Layout():
            self.reason = "the result has no batch axis in front"
        if self.reason:
            found: Program | str = self.reason
        else:
            description = tuple(self.description)
            inner = {slot: layout.inner for slot, layout in self.layouts.items()}
            found = build_program(self.instructions, inner, self.slots[id(result)], description)
        self.alive.clear()  # only autograd holds the activations now, and its backward pass frees them
        self.slots.clear()
        return found

    def _record(self, call: Call, slots: tuple[int, ...], leaves: list[Any]) -> NotReplayable | None:
        """Record a call's step, or return the reason why it has none."""
        if self.reason:
            return None
        try:
            step, layout = find_step(call)
        except NotReplayable as error:
            return error
        if isinstance(step, CurvedStep):
            receive = step.receive
            call.result.register_hook(lambda g: receive(layout.front(g)))  # type: ignore[no-untyped-call]
        self._add(call.result, step, slots, layout)
        words = (None if one == self.batch else one for one in leaves if isinstance(one, int | str | torch.dtype))
        self.description.append((call.name, slots, layout.axis, call.shape, call.result.dtype, *words))
        return None

    def _add(self, result: Tensor, step: Step, inputs: tuple[int, ...], layout: Layout) -> None:
        slot = len(self.instructions) + 1
        self.slots[id(result)] = slot
        self.instructions.append((slot, step, inputs))
        self.layouts[slot], self.versions[slot] = layout, result._version
        self.alive.append(result)

    def _compose(self, name: str, func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return the result of a call by simpler functions, which are recorded, or None."""
        composition = COMPOSITIONS.get(name.strip("_"))
        if self.reason or composition is None or not is_public(func):
            return None
        try:
            with self:
                return composition(*args, **kwargs)
        except NotReplayable as error:
            self.reason, self.is_dependent = str(error), isinstance(error, DependentExamples)
        except Exception as error:  # the call itself fails, or its form is another one
            if is_memory_error(error):
                raise
            self.reason = self.reason or f"{name} in a form that is not understood"
        return None

    def _write(self, target: Tensor, value: Tensor) -> Tensor:
        """Write a recorded value into a tensor in place."""
        slot = self.slots.get(id(value))
        target.copy_(value)
        if slot is not None:  # else the composition has given up
            self._add(target, Identity(), (slot,), self.layouts[slot])
        return target

    def _copy(self, name: str, args: tuple[Any, ...]) -> Tensor | None:
        """Return a copy of the tensor that a call overwrites. A composition reads the recorded copy in its place."""
        tensor = args[0] if args else None
        if (
            not isinstance(tensor, Tensor)
            or id(tensor) not in self.slots
            or tensor._is_view()
            or any(t._base is tensor for t in self.alive)
        ):
            self.reason = "an in-place operation on a tensor that is seen in two ways"
            return None
        if name.strip("_") not in COMPOSITIONS:
            return tensor.detach().clone()
        copy, slot = tensor.clone(), self.slots[id(tensor)]
        self._add(copy, Identity(), (slot,), self.layouts[slot])
        return copy

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


def _name(func: Any) -> str:
    """Return the name of a function, or of a property."""
    name = getattr(func, "__name__", "?")
    return str(getattr(func.__self__, "__name__", "?") if name == "__get__" else name)


def _out_of_place(func: Any) -> Any:
    """Return the function that leaves its first argument as it is."""
    return lambda t, *args, **kwargs: func(t.clone(), *args, **kwargs)


def _output(func: Any, position: int) -> Any:
    return lambda *args, **kwargs: func(*args, **kwargs)[position]
