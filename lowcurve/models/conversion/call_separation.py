"""Give every call of a nonlinearity its own module, where several calls share one or it is written as a function.

torch.fx rewrites only the forward method that contains such a call, and leaves every submodule whole. The module keeps its
parameters, buffers, hooks and names. Its class becomes a subclass with the rewritten forward method.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from lowcurve.models.conversion.copying import copy_sharing_parameters
from lowcurve.models.conversion.layer_kinds import (
    NONLINEARITY,
    function_kind,
    layer_kind,
    set_out_of_place,
    strip_underscore,
)
from lowcurve.models.conversion.recording import Call, Recording, bind_arguments
from lowcurve.models.modes import copy_mode, set_training

DROPOUTS = {F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d}


class Untraceable(Exception):
    """The reason why a forward method cannot be rewritten."""


@dataclass(frozen=True)
class RewrittenForward:
    """A forward method as torch.fx writes it.

    Attributes:
        base: The class whose forward method it replaces.
        source: Source code of the method.
        globals: The global names that the source uses, except for torch's own.
    """

    base: type[nn.Module]
    source: str
    globals: Mapping[str, Any]

    def subclass(self) -> type[nn.Module]:
        """Return a subclass of the base, with the same name and this forward method."""
        names = {**fx.Graph().python_code("self").globals, **self.globals, "__name__": self.base.__module__}
        exec(self.source, names)
        body = {
            "forward": names["forward"],
            "__reduce_ex__": _reduce,
            "rewritten_forward": self,
            "__module__": self.base.__module__,
        }
        return type(self.base.__name__, (self.base,), body)


def _reduce(module: Any, protocol: Any) -> tuple[Any, ...]:  # noqa: ARG001 (pickle's signature)
    """Pickle and copy a module with a rewritten forward method by creating its class again."""
    return _empty_module, (module.rewritten_forward,), module.__getstate__()


def _empty_module(forward: RewrittenForward) -> nn.Module:
    kind = forward.subclass()
    return kind.__new__(kind)


def separate_calls(model: nn.Module, recording: Recording, chosen: Iterable[Call]) -> dict[str, str]:
    """Give each chosen call of a nonlinearity its own module, named for its place; the function stays the same.

    Args:
        model: The network, changed in place.
        recording: The calls of this network.
        chosen: The calls to separate.

    Returns:
        The names of the calls whose owner's forward method cannot be rewritten, with the reason. They are left unchanged.
    """
    calls = list(chosen)
    places: dict[str | None, set[tuple[str, str]]] = {}
    for call in recording.calls:
        places.setdefault(call.module, set()).add((call.owner, call.name))
    to_split: dict[str, list[Call]] = {}
    for call in calls:
        if call.module is None or len(places[call.module]) > 1:
            to_split.setdefault(call.owner, []).append(call)
        elif call.layer is not None:
            set_out_of_place(call.layer)
    refused: dict[str, str] = {}
    for owner, sites in to_split.items():
        try:
            _rewrite(model, owner, recording, sites)
        except Untraceable as reason:
            refused |= {call.name: str(reason) for call in sites}
    return refused


def _rewrite(model: nn.Module, owner: str, recording: Recording, sites: list[Call]) -> None:
    module = model.get_submodule(owner)
    if isinstance(module, fx.GraphModule):
        raise Untraceable("it is already a torch.fx trace")
    seen = [call for call in recording.calls if call.owner == owner and call.kind == NONLINEARITY]
    graph, dropouts = _trace(module, recording.arguments.get(owner, {}))
    names = {target: name for name, target in model.named_modules()}
    nodes = [node for node in graph.nodes if _nonlinearity_name(node, module, names) is not None]
    found = [_nonlinearity_name(node, module, names) for node in nodes]
    for run in {call.run for call in seen}:
        expected = [
            call.module or strip_underscore(call.operation.rpartition(".")[2]) for call in seen if call.run == run
        ]
        if found != expected:
            raise Untraceable("its control flow depends on its values")
    first = [call for call in seen if call.run == seen[0].run]
    for node, call in zip(nodes, first, strict=True):
        if any(call.name == site.name for site in sites) and call.layer is not None:
            local = call.name.removeprefix(f"{owner}." if owner else "")
            if call.name == call.module:
                set_out_of_place(call.layer)
            else:
                module.add_module(local, copy_mode(set_out_of_place(copy.deepcopy(call.layer)), module))
            node.op, node.target, node.args, node.kwargs = "call_module", local, (_input(node),), {}
    for node, dropout in dropouts.items():
        local = next(free for k in range(len(graph.nodes)) if not hasattr(module, free := f"dropout_{k}"))
        module.add_module(local, copy_mode(dropout, module))
        node.op, node.target, node.args, node.kwargs = "call_module", local, (_input(node),), {}
    code = graph.python_code("self")
    standard = fx.Graph().python_code("self").globals
    needed = {name: value for name, value in code.globals.items() if name not in standard}
    module.__class__ = RewrittenForward(type(module), code.src, needed).subclass()


class _ForwardTracer(fx.Tracer):
    """Trace one forward method without entering any submodule."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 (fx names them)
        return True


def _trace(module: nn.Module, arguments: Mapping[str, Any]) -> tuple[fx.Graph, dict[fx.Node, nn.Module]]:
    """Trace the forward method to a graph that is valid in both modes, with a module for each functional dropout in it."""
    graphs = []
    for training in (True, False):
        copied = copy_sharing_parameters(module)
        try:
            with set_training(copied, training=training):
                graph = _ForwardTracer().trace(copied, _constant_arguments(module, arguments))
        except Exception as error:  # whatever the user's forward raises when it is traced
            raise Untraceable((str(error).splitlines() or [""])[0][:120]) from None
        if any(node.op == "get_attr" and "_tensor_constant" in str(node.target) for node in graph.nodes):
            raise Untraceable("it creates a tensor, which the trace would make constant")
        names = list(inspect.signature(module.forward).parameters)
        for node, name in zip((n for n in graph.nodes if n.op == "placeholder"), names, strict=False):
            node.target = name if not str(node.target).startswith("*") else node.target
        graphs.append(graph)
    dropouts: dict[fx.Node, nn.Module] = {}
    trained, evaluated = (list(graph.nodes) for graph in graphs)
    for before, after in zip(trained, evaluated, strict=False):
        if before.op == after.op == "call_function" and before.target == after.target in DROPOUTS:
            one, other = (bind_arguments(node.target, node.args, node.kwargs) for node in (before, after))
            if one["training"] is True and other["training"] is False:
                dropouts[before] = DROPOUTS[before.target](one["p"])
                before.args, before.kwargs = (one["input"],), {}
                after.args, after.kwargs = (other["input"],), {}
    if graphs[0].python_code("self").src != graphs[1].python_code("self").src:
        raise Untraceable("it differs in training mode")
    return graphs[0], dropouts


def _constant_arguments(module: nn.Module, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that contained no tensor in the recorded run. The trace treats them as constants and checks them later."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters
    return {name: arguments[name] for name in parameters if name in arguments and parameters[name].kind in named}


def _nonlinearity_name(node: fx.Node, module: nn.Module, names: Mapping[nn.Module, str]) -> str | None:
    """The nonlinearity that a node calls: the module's name in the network, or the function's; None if it calls none."""
    if node.op == "call_module":
        target = module.get_submodule(str(node.target))
        return names[target] if layer_kind(target) == NONLINEARITY else None
    if node.op not in ("call_function", "call_method"):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return strip_underscore(name) if function_kind(name, node.args, node.kwargs) == NONLINEARITY else None


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]
