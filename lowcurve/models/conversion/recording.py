"""Record every call of a layer in one forward pass, by hooks and a `TorchFunctionMode`. The network is left unchanged."""

import inspect
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.conversion.composite_norms import applies_children
from lowcurve.models.conversion.copying import describe_error
from lowcurve.models.conversion.kinks import KinkFinder
from lowcurve.models.conversion.layer_kinds import (
    KINK,
    NONLINEARITY,
    NORMALIZATION,
    POOLING,
    TRANSPARENT,
    function_kind,
    function_module,
    layer_kind,
    strip_underscore,
    window_overlap,
)
from lowcurve.models.conversion.tensors import tensors
from lowcurve.models.modes import set_training

Size = tuple[int, ...]


@dataclass
class Call:
    """One call of one layer.

    Attributes:
        name: Name of the module. A function has the name that it would get as a separate module.
        kind: Kind of the layer, as in `layer_kinds`.
        operation: The class or function, such as Conv2d, F.relu, torch.relu or Tensor.relu.
        module: Name of the module. None for a function.
        owner: Name of the module whose forward method contains the call.
        run: Number of the run of the owner's forward method.
        layer: The module. For a function it is an equivalent module, if there is one.
        input: Its shape.
        output: Its shape.
        device: Device of the output.
        overlap: Largest number of max-pooling windows with a common element.
        consumers: Indices of the calls that use it. None stands for any other use.
        shared: True if the module is called elsewhere as well.
    """

    name: str
    kind: str
    operation: str
    module: str | None
    owner: str
    run: int
    layer: nn.Module | None
    input: Size
    output: Size
    device: torch.device
    overlap: int = 1
    consumers: list[int | None] = field(default_factory=list)
    shared: bool = False


@dataclass
class ForwardRun:
    """One run of a module's forward method.

    Attributes:
        module: The module.
        name: Name of the module in the network.
        in_layer: True if the module is a layer or is inside one. Calls in it are then not recorded.
        number: Number of the run, from 1.
        counts: Number of calls of each layer or function in this run.
    """

    module: nn.Module
    name: str
    in_layer: bool
    number: int
    counts: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Recording:
    """The calls of one forward pass.

    Attributes:
        calls: The calls in order.
        arguments: For each module, the arguments of its first run that contain no tensor.
        output: Output of the network.
    """

    calls: tuple[Call, ...]
    arguments: Mapping[str, Mapping[str, Any]]
    output: Tensor


def record(model: nn.Module, example: Tensor) -> Recording:
    """Run the network once on the example and record its calls.

    The run is in eval mode, without gradients, and does not change the global random state.

    Args:
        model: The network.
        example: A batch of its inputs.

    Returns:
        The calls and the output.

    Raises:
        InputError: For an example that the network does not accept, or an output that is not one tensor.
    """
    if not isinstance(example, Tensor) or example.ndim < 2 or not len(example):
        received = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InputError("an example batch of the network's inputs", received, "pass a tensor such as x[:2]")
    recorder, example = CallRecorder(model), example.clone()  # the network may write into it
    with ExitStack() as stack:
        stack.enter_context(randomness.temporary_seed(0, "dry run"))
        stack.enter_context(set_training(model, training=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(recorder.hooks())
        stack.enter_context(recorder)
        try:
            output = model(example)
        except InputError:
            raise
        except Exception as error:  # whatever the user's network raises
            hint = "pass a batch of its inputs, such as x[:2], on its device"
            expected = f"an example that {type(model).__name__} accepts"
            raise InputError(expected, f"shape {tuple(example.shape)}: {describe_error(error)}", hint) from error
    if not isinstance(output, Tensor):
        hint = "write lc.wrap(model), which returns only the logits"
        raise InputError("a network whose output is one tensor", type(output).__name__, hint)
    recorder.note_use((output,), None)
    return recorder.recording(output)


class CallRecorder(TorchFunctionMode):
    """Record every call of a layer of torch.nn, and of a torch function outside of such layers.

    Args:
        model: The network whose calls are recorded.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.stack: list[ForwardRun] = []  # the forward methods that are running, innermost last
        self.arguments: dict[str, Mapping[str, Any]] = {}
        self.runs: Counter[str] = Counter()
        self.names: dict[tuple[str, str, int], str] = {}
        self.kinks = KinkFinder(model)
        self.composites = {id(part) for part in model.modules() if applies_children(part)}
        self.origin: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()  # the index of the call that made a tensor

    def recording(self, output: Tensor) -> Recording:
        """Return the recorded calls, with `shared` set for modules and places that are called more than once.

        Args:
            output: Output of the network.

        Returns:
            The recording.
        """
        counts = Counter(call.module or call.name for call in self.calls)
        for call in self.calls:
            call.shared = counts[call.module or call.name] > 1
        return Recording(tuple(self.calls), self.arguments, output)

    def hooks(self) -> ExitStack:
        """Register hooks on every module of the network; leaving the returned stack removes them."""
        stack = ExitStack()
        for name, module in self.model.named_modules():
            before = module.register_forward_pre_hook(self._before_forward(name), with_kwargs=True)
            after = module.register_forward_hook(self._after_forward, with_kwargs=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
        return stack

    def _before_forward(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.runs[name] += 1
            in_layer = self._in_layer() or layer_kind(module) is not None
            self.stack.append(ForwardRun(module, name, in_layer, self.runs[name]))
            given = bind_arguments(module.forward, args, kwargs)
            self.arguments.setdefault(name, {key: value for key, value in given.items() if not has_tensor(value)})

        return hook

    def _after_forward(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        run = self.stack.pop()
        kind = layer_kind(module)
        if kind is not None and not self._in_layer():
            self._add_call(kind, type(module).__name__, run.name, module, (args, kwargs), output, vars(module))

    def _in_layer(self) -> bool:
        return bool(self.stack) and self.stack[-1].in_layer

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        kinked = self.kinks.note_call(getattr(func, "__name__", ""), args, given, result)
        if self._in_layer() or not (result is None or has_tensor(result)):
            return result
        name = getattr(func, "__name__", "")
        kind = function_kind(name, args, given)
        if name == "batch_norm" and self.stack and id(self.stack[-1].module) in self.composites:
            run = self.stack[-1]
            self._add_call(NORMALIZATION, type(run.module).__name__, run.name, run.module, (args, given), result, {})
        elif kind is not None and self.stack:
            layer = function_module(name, args, given) if kind == NONLINEARITY else None
            settings = bind_arguments(func, args, given) if kind == POOLING else {}
            self._add_call(kind, f"{_namespace(func)}.{name}", None, layer, (args, given), result, settings)
        elif kinked and self.stack:
            self._add_call(
                KINK, f"{_namespace(func)}.{name}", None, None, (args, given), args if result is None else result, {}
            )
        elif strip_underscore(name) in TRANSPARENT or (
            name == "dropout" and bind_arguments(func, args, given).get("training") is False
        ):
            source = self.origin.get(next(tensors((args, given))))
            if isinstance(result, Tensor) and source is not None:
                self.origin[result] = source
        else:
            self.note_use((args, given), None)
            for tensor in tensors(args if result is None else result):
                self.origin.pop(tensor, None)
        return result

    def note_use(self, values: Any, by: int | None) -> None:
        """Note that a call uses these values.

        Args:
            values: Tensors, possibly nested.
            by: Index of the call, or None for any other use.
        """
        for tensor in tensors(values):
            source = self.origin.get(tensor)
            if source is not None:
                self.calls[source].consumers.append(by)

    def _add_call(
        self,
        kind: str,
        operation: str,
        module: str | None,
        layer: nn.Module | None,
        given: Any,
        output: Any,
        settings: Mapping[str, Any],
    ) -> None:
        around = self.stack[:-1] if self.stack and self.stack[-1].module is layer else self.stack
        owner = around[-1] if around else ForwardRun(self.model, "", False, 1)
        before, after = (next(tensors(value)) for value in (given, output))
        name = self._call_name(owner, operation.split(".")[-1], module)
        self.note_use(given, len(self.calls))
        is_max_pooling = kind == POOLING and "max" in operation.lower()
        windows = window_overlap(settings, before.ndim - 2) if is_max_pooling else 1
        shapes = tuple(before.shape), tuple(after.shape)
        self.calls.append(
            Call(name, kind, operation, module, owner.name, owner.number, layer, *shapes, after.device, windows)
        )
        for tensor in tensors(output):
            self.origin[tensor] = len(self.calls) - 1

    def _call_name(self, owner: ForwardRun, function: str, module: str | None) -> str:
        """The module's own name for its first call in a run of the owner, else the first free name in the owner."""
        local = strip_underscore(function)
        if module is not None:
            local = module.removeprefix(f"{owner.name}.").replace(".", "_")
        count = owner.counts[f"{module}.{local}"]
        owner.counts[f"{module}.{local}"] += 1
        if module is not None and count == 0:
            return module
        key = (owner.name, f"{module}.{local}", count)
        if key not in self.names:
            taken = {*self.names.values()}
            for number in range(len(self.calls) + 2):
                free = f"{local}_{number}" if number else local
                full = f"{owner.name}.{free}" if owner.name else free
                if full not in taken and not hasattr(owner.module, free):
                    self.names[key] = full
                    break
        return self.names[key]


def has_tensor(value: Any) -> bool:
    """Return True if a nested value contains a tensor.

    Args:
        value: Any value.

    Returns:
        True if `tensors` finds one.
    """
    return next(tensors(value), None) is not None


def bind_arguments(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the arguments of a call by their names, with defaults.

    Args:
        function: The function.
        args: Positional arguments.
        kwargs: Keyword arguments.

    Returns:
        The arguments, or nothing if the function does not reveal its parameters.
    """
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (ValueError, TypeError):
        return {}
    bound.apply_defaults()
    return bound.arguments


def _namespace(function: Callable[..., Any]) -> str:
    qualified = getattr(function, "__qualname__", "")
    if qualified.startswith(("TensorBase.", "Tensor.")):
        return "Tensor"
    return "torch" if getattr(function, "__module__", None) == "torch" else "F"
