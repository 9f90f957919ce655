"""Record the operations of a network that depend on its input, for one shape of the input.

The network runs once on a tensor subclass. Every operation that reaches its data passes through `__torch_dispatch__`: sizes are
known, arguments are complete, and modules, functions and parametrizations are resolved. What does not depend on the input is a
constant tensor. What cannot be seen, such as `numpy()` or a branch on a value, raises an error.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules import module as global_hooks
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from lowcurve import randomness
from lowcurve.analysis.second_derivatives import math_attention
from lowcurve.errors import NotAvailable
from lowcurve.models.jacobians.graph import (
    Call,
    InputGraph,
    Node,
    WholeFunction,
    bind_arguments,
    operation_name,
    run_operation,
)
from lowcurve.models.layers import centered_softplus
from lowcurve.network_calls import uncompiled

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
WITHOUT = "bound the network without it"
CONSTANTS = frozenset(
    f"{kind}_{how}" if how == "like" else f"{how}_{kind}"
    for kind in ("zeros", "ones", "full", "empty")
    for how in ("like", "new")
)
"""Operations that use only the shape of their argument."""


def record(model: nn.Module, example: Tensor) -> InputGraph:
    """Record the operations of a network that depend on its input.

    Args:
        model: The network, in eval mode.
        example: One input, shape (1, ...); only its shape and precision are used.

    Returns:
        The operations.

    Raises:
        NotAvailable: For hooks, random numbers, branches on values, writing that reaches a value by another name, an output
            that is not one tensor, and whatever else cannot be recorded.

    Cost: one forward pass, and 0.1 ms for each operation.

    Example:
        >>> graph = record(nn.Sequential(nn.Linear(2, 3), nn.ReLU()).eval(), torch.zeros(1, 2))
        >>> [node.call.name for node in graph.nodes[1:]]
        ['addmm', 'relu']
    """
    _require_no_hooks(model)
    x = randomness.uniform(example.detach(), 0.0, 1.0, generator=randomness.stream(0, "record", tuple(example.shape)))
    recorder = _Recorder()
    start = Node.of(Call("input", dict, {}, ""), x)
    try:
        with torch.no_grad(), math_attention(), uncompiled(model), recorder.watching(model):
            output = model(_Tracked(x, start, recorder))
    except NotAvailable:
        raise
    except Exception as error:  # whatever the model's own code raises on a tensor subclass
        reason = f"{type(model).__name__} ({(str(error).splitlines() or [type(error).__name__])[0][:80]})"
        raise NotAvailable("a network whose operations can be recorded", reason, "bound its parts separately") from None
    if recorder.refusal is not None:  # the network caught the error and went on
        raise recorder.refusal
    if any(_version(tensor) != version for tensor, version in recorder.constants):
        changed = "a tensor that the network changes in place after use"
        raise NotAvailable("constants that stay", changed, WITHOUT)
    if not isinstance(output, _Tracked):
        received = "a constant" if isinstance(output, Tensor) else type(output).__name__
        raise NotAvailable("one tensor that depends on the input", received, "bound the part that gives the logits")
    recorder.require_fresh(output)
    return InputGraph(tuple(_needed(start, output.node)))


def _needed(start: Node, end: Node) -> list[Node]:
    """List the values that the logits depend on, each after those it is computed from."""
    found: dict[Node, None] = {start: None}
    waiting = [end]
    while waiting:
        missing = [parent for _, parent in waiting[-1].parents if parent not in found]
        if missing:
            waiting.extend(missing)
        else:
            found.setdefault(waiting.pop())
    return list(found)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shared state of one recording; as a mode it also sees operations on constants.

    Attributes:
        writes: The number of writes to each storage.
        constants: Constants with their versions when they were used.
        layers: Names of the modules that are running, innermost last.
        refusal: The first error.
        ended: True once the network has run. A tensor that the network keeps is then computed with like any other.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.writes: Counter[int] = Counter()
        self.constants: list[tuple[Tensor, int]] = []
        self.layers: list[str] = []
        self.refusal: NotAvailable | None = None
        self.ended = False

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False, because torch would import its compiler to keep it away from this class, which takes two seconds."""
        return False

    @contextmanager
    def watching(self, model: nn.Module) -> Iterator[None]:
        """Note which module runs, and see every operation."""
        handles = []
        for name, module in model.named_modules():
            handles.append(module.register_forward_pre_hook(partial(self._enter, name)))
            handles.append(module.register_forward_hook(self._leave, always_call=True))
        try:
            with randomness.temporary_seed(0, "recording"), self:
                yield
        finally:
            self.ended = True
            for handle in handles:
                handle.remove()

    def _enter(self, name: str, *_: Any) -> None:
        self.layers.append(name)

    def _leave(self, *_: Any) -> None:
        self.layers.pop()

    def where(self, received: str) -> str:
        """Add the name of the layer that is running."""
        return f"{received} in layer {self.layers[-1]!r}" if self.layers and self.layers[-1] else received

    def keep(self, error: NotAvailable) -> NotAvailable:
        """Return the error, and keep the first one in case the network catches it."""
        self.refusal = self.refusal or error
        return error

    def require_fresh(self, value: "_Tracked") -> None:
        """Raise an error for a value whose memory was written to through another view of it."""
        if value.written != self.writes[_storage(value.elem)]:
            raise self.keep(
                NotAvailable(
                    "values that are written to by one name",
                    self.where("a view whose memory another view has changed"),
                    WITHOUT,
                )
            )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if torch.Tag.nondeterministic_seeded in func.tags:
            raise self.keep(
                NotAvailable(
                    "a network without random numbers in eval mode",
                    self.where(f"{operation_name(func)}, which may draw them"),
                    WITHOUT,
                )
            )
        return func(*args, **(kwargs or {}))

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run one operation on the tensors themselves, and record it."""
        if self.ended:
            args, kwargs = tree_map_only(_Tracked, lambda value: value.elem, (args, kwargs))
            return func(*args, **kwargs)
        given, name = bind_arguments(func, args, kwargs), operation_name(func)
        tracked = [leaf for leaf in tree_leaves(given) if isinstance(leaf, _Tracked)]
        for value in tracked:
            self.require_fresh(value)
        self._require_visible(func, name, given)
        written = [a.name for a in func._schema.arguments if a.alias_info is not None and a.alias_info.is_write]
        first = next(iter(given.values()))
        if written and (written != [next(iter(given))] or not isinstance(first, _Tracked)):
            raise self.keep(
                NotAvailable(
                    "operations with known derivative bounds",
                    self.where(f"{name}, which writes into a constant"),
                    WITHOUT,
                )
            )
        self.constants += [(x, _version(x)) for x in tree_leaves(given) if type(x) in (Tensor, nn.Parameter)]
        result = run_operation(func, tree_map_only(_Tracked, lambda value: value.elem, given))
        if name in CONSTANTS:
            return result
        run = partial(run_operation, func, in_place=bool(written))
        call = Call(name, run, tree_map_only(_Tracked, lambda value: value.node, given), (self.layers or [""])[-1])
        if written:
            assert isinstance(first, _Tracked)
            if first.shape != first.elem.shape:
                raise self.keep(
                    NotAvailable(
                        "operations with known derivative bounds",
                        self.where(f"{name}, which changes a shape in place"),
                        WITHOUT,
                    )
                )
            self.writes[_storage(first.elem)] += 1
            first.node, first.written = Node.of(call, first.elem), self.writes[_storage(first.elem)]
            return first
        return self.wrap(result, call)

    def _require_visible(self, func: Any, name: str, given: Mapping[str, Any]) -> None:
        """Raise an error for an operation in training mode, or that turns a value into a number or into a shape."""
        selects = name == "index" and not any(isinstance(x, _Tracked) for x in tree_leaves(given["indices"]))
        if given.get("training") is True or given.get("train") is True:
            raise self.keep(NotAvailable("a network in eval mode", self.where(f"{name} in training mode"), WITHOUT))
        dynamic = torch.Tag.dynamic_output_shape in func.tags and not selects
        if dynamic or torch.Tag.data_dependent_output in func.tags:
            raise self.keep(
                NotAvailable(
                    "a network without conditions on values",
                    self.where(f"{name} of a value that depends on the input"),
                    WITHOUT,
                )
            )

    def wrap(self, result: Any, call: Call) -> Any:
        """Wrap the outputs of an operation."""
        if isinstance(result, Tensor):
            return _Tracked(result, Node.of(call, result), self)
        if not isinstance(result, tuple | list) or not all(isinstance(value, Tensor) for value in result):
            raise self.keep(
                NotAvailable(
                    "operations with known derivative bounds",
                    self.where(f"{call.name}, whose result is not a tensor"),
                    WITHOUT,
                )
            )
        wrapped = [_Tracked(value, Node.of(call, value, place), self) for place, value in enumerate(result)]
        return wrapped if isinstance(result, list) else tuple(wrapped)


class _Tracked(Tensor):
    """A tensor that depends on the input; every operation on it is recorded."""

    elem: Tensor
    node: Node
    recorder: _Recorder
    written: int

    @staticmethod
    def __new__(cls, elem: Tensor, node: Node, recorder: _Recorder) -> "_Tracked":
        made: _Tracked = Tensor._make_wrapper_subclass(
            cls, elem.size(), strides=elem.stride(), dtype=elem.dtype, device=elem.device
        )
        made.elem, made.node, made.recorder, made.written = elem, node, recorder, recorder.writes[_storage(elem)]
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (Tensor.data_ptr, Tensor.untyped_storage):
            value = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Tracked))
            recorder = value.recorder
            raise recorder.keep(
                NotAvailable(
                    "a network of torch's operations", recorder.where("code that reads memory by its address"), WITHOUT
                )
            )
        circular = func is F.pad and "circular" in (*args[2:3], kwargs.get("mode"))
        if func is centered_softplus or circular:
            # Torch writes a circular padding part by part into one tensor, and centered softplus is a chain of nine operations.
            value = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Tracked))
            return value.recorder.dispatch(WholeFunction(func), args, kwargs)
        with torch._C.DisableTorchFunctionSubclass():
            return func(*args, **kwargs)

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        kwargs = kwargs or {}
        value = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, _Tracked))
        return value.recorder.dispatch(func, args, kwargs)


def _version(tensor: Tensor) -> int:
    """Return the number of writes to a tensor, which torch does not count for one made in inference mode."""
    return 0 if tensor.is_inference() else int(tensor._version)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _require_no_hooks(model: nn.Module) -> None:
    """Raise an error for hooks, but for those with which torch computes a normalized weight."""
    kinds = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks")
    everywhere = [hook for kind in kinds for hook in getattr(global_hooks, f"_global_{kind}").values()]
    own = [(name, hook) for name, m in model.named_modules() for kind in HOOKS for hook in getattr(m, kind).values()]
    for name, hook in [("every module", hook) for hook in everywhere] + own:
        if type(hook) not in (WeightNorm, SpectralNorm):
            shown = getattr(hook, "__name__", type(hook).__name__)
            raise NotAvailable("a network without hooks", f"{shown} on {name!r}", "remove the hook")
