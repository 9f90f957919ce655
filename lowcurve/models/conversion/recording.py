"""The dry run: every call of a layer, in its order, as hooks and a `TorchFunctionMode` see it; the network stays as it was."""

import copy
import inspect
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.conversion.layer_kinds import (
    NONLINEARITY,
    POOLING,
    TRANSPARENT,
    as_module,
    kind_of,
    kind_of_function,
    overlap,
    plain,
)
from lowcurve.models.modes import set_training

Size = tuple[int, ...]


@dataclass
class Call:
    """One call of one layer.

    name: of the module, or of the one that the call would get for itself. what: Conv2d, F.relu, torch.relu, Tensor.relu.
    module: the module's own name, None for a function. owner: the module in whose forward the call is written. form: the layer.
    visit: in which run of the owner's forward. overlap: how many windows of a max-pooling one number lies in. consumers: the
    calls that its result goes into, None for anything else. shared: the module is called elsewhere too.
    """

    name: str
    kind: str
    what: str
    module: str | None
    owner: str
    visit: int
    form: nn.Module | None
    input: Size
    output: Size
    device: torch.device
    overlap: int = 1
    consumers: list[int | None] = field(default_factory=list)
    shared: bool = False


@dataclass
class ForwardRun:
    """One run of a module's forward, the how-manieth. seen: how often each layer or function was called in it."""

    module: nn.Module
    name: str
    listed: bool
    number: int
    seen: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Recording:
    """calls: in their order. settings: the arguments of each module's first run that hold no tensor. output: of the network."""

    calls: tuple[Call, ...]
    settings: Mapping[str, Mapping[str, Any]]
    output: Tensor


def skeleton(model: nn.Module) -> nn.Module:
    """A copy with the same parameters, where no nonlinearity stands in two places: what is done to it, the model does not see.

    Example:
        >>> act = nn.ReLU()
        >>> model = nn.Sequential(nn.Linear(2, 2), act, act)
        >>> bare = skeleton(model)
        >>> bare[0].weight is model[0].weight, bare[1] is bare[2]
        (True, False)
    """
    return _copied(model, {id(parameter): parameter for parameter in model.parameters()})


def duplicate(model: nn.Module) -> nn.Module:
    """A copy with parameters of its own, where no nonlinearity stands in two places."""
    return _copied(model, {})


def _copied(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    try:
        copied = copy.deepcopy(model, memo)
    except Exception as error:  # whatever the parts of the user's network raise
        hint = "keep no tensor in it that hangs on a graph"
        raise InputError("a network that copy.deepcopy can copy", _said(error), hint) from error
    seen: set[int] = set()
    for parent in copied.modules():
        for name, child in parent._modules.items():
            if child is not None and kind_of(child) == NONLINEARITY and not list(child.parameters()):
                if id(child) in seen:
                    parent._modules[name] = copy.deepcopy(child)
                seen.add(id(child))
    return copied


def record(model: nn.Module, example: Tensor) -> Recording:
    """Runs the network once on the example, in eval mode, without gradients and without touching the global random state."""
    if not isinstance(example, Tensor) or example.ndim < 2 or not len(example):
        received = tuple(example.shape) if isinstance(example, Tensor) else type(example).__name__
        raise InputError("an example batch of the network's inputs", received, "pass a tensor such as x[:2]")
    recorder = CallRecorder(model)
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
            hint = "pass a batch of its inputs such as x[:2], on its device"
            expected = f"an example that {type(model).__name__} takes"
            raise InputError(expected, f"shape {tuple(example.shape)}: {_said(error)}", hint) from error
    if not isinstance(output, Tensor):
        hint = "wrap it so that it returns its logits alone"
        raise InputError("a network whose output is one tensor", type(output).__name__, hint)
    recorder.used((output,), None)
    return recorder.recording(output)


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


class CallRecorder(TorchFunctionMode):
    """Sees every call of a layer of torch.nn, and of a torch function outside of one."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.open: list[ForwardRun] = []
        self.settings: dict[str, Mapping[str, Any]] = {}
        self.visits: Counter[str] = Counter()
        self.sites: dict[tuple[str, str, int], str] = {}
        self.made: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()

    def recording(self, output: Tensor) -> Recording:
        """What was seen; a module that is called more than once, or a place that is come to more than once, is shared."""
        counts = Counter(call.module or call.name for call in self.calls)
        for call in self.calls:
            call.shared = counts[call.module or call.name] > 1
        return Recording(tuple(self.calls), self.settings, output)

    def hooks(self) -> ExitStack:
        """Hooks on every module of the network, taken off when the stack is left."""
        stack = ExitStack()
        for name, module in self.model.named_modules():
            entering = module.register_forward_pre_hook(self._entering(name), with_kwargs=True)
            leaving = module.register_forward_hook(self._leaving, with_kwargs=True)
            stack.callback(entering.remove)
            stack.callback(leaving.remove)
        return stack

    def _entering(self, name: str) -> Callable[..., None]:
        def entering(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.visits[name] += 1
            self.open.append(ForwardRun(module, name, self._inside() or kind_of(module) is not None, self.visits[name]))
            given = bound(module.forward, args, kwargs)
            self.settings.setdefault(name, {key: value for key, value in given.items() if not holds(value)})

        return entering

    def _leaving(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        visit = self.open.pop()
        kind = kind_of(module)
        if kind is not None and not self._inside():
            self._listed(kind, type(module).__name__, visit.name, module, (args, kwargs), output, vars(module))

    def _inside(self) -> bool:
        return bool(self.open) and self.open[-1].listed

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        result = func(*args, **given)
        if self._inside() or not (result is None or holds(result)):
            return result
        name = getattr(func, "__name__", "")
        kind = kind_of_function(name, args, given)
        if kind is not None and self.open:
            form = as_module(name, args, given) if kind == NONLINEARITY else None
            named = bound(func, args, given) if kind == POOLING else {}
            self._listed(kind, f"{_home(func)}.{name}", None, form, (args, given), result, named)
        elif plain(name) in TRANSPARENT or (name == "dropout" and bound(func, args, given).get("training") is False):
            source = self.made.get(next(tensors((args, given))))
            if isinstance(result, Tensor) and source is not None:
                self.made[result] = source
        else:
            self.used((args, given), None)
            for tensor in tensors(args if result is None else result):
                self.made.pop(tensor, None)
        return result

    def used(self, values: Any, by: int | None) -> None:
        """These values went into that call, or into something that is none."""
        for tensor in tensors(values):
            source = self.made.get(tensor)
            if source is not None:
                self.calls[source].consumers.append(by)

    def _listed(
        self,
        kind: str,
        what: str,
        module: str | None,
        form: nn.Module | None,
        given: Any,
        output: Any,
        settings: Mapping[str, Any],
    ) -> None:
        owner = self.open[-1] if self.open else ForwardRun(self.model, "", False, 1)
        came, went = (next(tensors(value)) for value in (given, output))
        name = self._site(owner, what.split(".")[-1], module)
        self.used(given, len(self.calls))
        windows = overlap(settings, came.ndim - 2) if "max" in what.lower() and kind == POOLING else 1
        sizes = tuple(came.shape), tuple(went.shape)
        self.calls.append(
            Call(name, kind, what, module, owner.name, owner.number, form, *sizes, device=went.device, overlap=windows)
        )
        for tensor in tensors(output):
            self.made[tensor] = len(self.calls) - 1

    def _site(self, owner: ForwardRun, function: str, module: str | None) -> str:
        """A name for this place: the module's own where it is called first, else the first free one in the owner."""
        local = plain(function) if module is None else module.removeprefix(f"{owner.name}.").replace(".", "_")
        count = owner.seen[f"{module}.{local}"]
        owner.seen[f"{module}.{local}"] += 1
        if module is not None and count == 0:
            return module
        key = (owner.name, f"{module}.{local}", count)
        if key not in self.sites:
            taken = {*self.sites.values()}
            for number in range(len(self.calls) + 2):
                free = f"{local}_{number}" if number else local
                full = f"{owner.name}.{free}" if owner.name else free
                if full not in taken and not hasattr(owner.module, free):
                    self.sites[key] = full
                    break
        return self.sites[key]


def tensors(value: Any) -> Iterator[Tensor]:
    """The tensors in nested tuples, lists and dictionaries.

    Example:
        >>> len(list(tensors((torch.zeros(1), {"a": [torch.zeros(2), 3]}))))
        2
    """
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        yield from tensors(tuple(value.values()))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tensors(part)


def holds(value: Any) -> bool:
    """Whether a tensor is in it."""
    return next(tensors(value), None) is not None


def bound(function: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """The arguments by their names, with defaults; nothing where the function does not tell its parameters."""
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except (ValueError, TypeError):
        return {}
    bound.apply_defaults()
    return bound.arguments


def _home(function: Callable[..., Any]) -> str:
    qualified = getattr(function, "__qualname__", "")
    if qualified.startswith(("TensorBase.", "Tensor.")):
        return "Tensor"
    return "torch" if getattr(function, "__module__", None) == "torch" else "F"
