"""A module of its own for every call of a nonlinearity, where several share one or it is written as a function.

Only the forward in which such a call stands is rewritten, by torch.fx with everything below it left whole. The module keeps its
parameters, buffers, hooks and names; its class becomes a subclass of what it was, whose forward is the rewritten one.
"""

import copy
import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from lowcurve.models.conversion.layer_kinds import NONLINEARITY, kind_of, kind_of_function, out_of_place, plain
from lowcurve.models.conversion.recording import Call, Recording, bound, skeleton
from lowcurve.models.modes import copy_mode, set_training

DROPOUTS = {F.dropout: nn.Dropout, F.dropout1d: nn.Dropout1d, F.dropout2d: nn.Dropout2d, F.dropout3d: nn.Dropout3d}


class Untraceable(Exception):
    """Why a forward cannot be rewritten."""


@dataclass(frozen=True)
class Forward:
    """A forward as fx writes it. kind: the class that it replaces it in. needs: what it names that is not torch's."""

    kind: type[nn.Module]
    source: str
    needs: Mapping[str, Any]

    def subclass(self) -> type[nn.Module]:
        """The class with this forward, under the same name."""
        names = {**fx.Graph().python_code("self").globals, **self.needs, "__name__": self.kind.__module__}
        exec(self.source, names)
        body = {
            "forward": names["forward"],
            "__reduce_ex__": _reduced,
            "split": self,
            "__module__": self.kind.__module__,
        }
        return type(self.kind.__name__, (self.kind,), body)


def _reduced(module: Any, protocol: Any) -> tuple[Any, ...]:  # noqa: ARG001 (pickle's signature)
    """How a module with a rewritten forward is pickled and copied: its class is made again."""
    return _bare, (module.split,), module.__getstate__()


def _bare(forward: Forward) -> nn.Module:
    kind = forward.subclass()
    return kind.__new__(kind)


def separate_calls(model: nn.Module, recording: Recording, chosen: Iterable[Call]) -> dict[str, str]:
    """Gives each chosen call of a nonlinearity a module of its own, named for its place; the function stays the same.

    model: changed in place; the recording must be its own. Returned: the calls whose owner's forward cannot be rewritten, by
    name, with the reason; they stay as they are.
    """
    calls = list(chosen)
    places: dict[str | None, set[tuple[str, str]]] = {}
    for call in recording.calls:
        places.setdefault(call.module, set()).add((call.owner, call.name))
    to_split: dict[str, list[Call]] = {}
    for call in calls:
        if call.module is None or len(places[call.module]) > 1:
            to_split.setdefault(call.owner, []).append(call)
        elif call.form is not None:
            out_of_place(call.form)
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
        raise Untraceable("it is a trace already")
    seen = [call for call in recording.calls if call.owner == owner and call.kind == NONLINEARITY]
    graph, dropouts = _traced(module, recording.settings.get(owner, {}))
    names = {target: name for name, target in model.named_modules()}
    nodes = [node for node in graph.nodes if _written(node, module, names) is not None]
    found = [_written(node, module, names) for node in nodes]
    for visit in {call.visit for call in seen}:
        if found != [call.module or plain(call.what.rpartition(".")[2]) for call in seen if call.visit == visit]:
            raise Untraceable("its way depends on its values")
    first = [call for call in seen if call.visit == seen[0].visit]
    for node, call in zip(nodes, first, strict=True):
        if any(call.name == site.name for site in sites) and call.form is not None:
            local = call.name.removeprefix(f"{owner}." if owner else "")
            if call.name == call.module:
                out_of_place(call.form)
            else:
                module.add_module(local, copy_mode(out_of_place(copy.deepcopy(call.form)), module))
            node.op, node.target, node.args, node.kwargs = "call_module", local, (_input(node),), {}
    for node, dropout in dropouts.items():
        local = next(free for k in range(len(graph.nodes)) if not hasattr(module, free := f"dropout_{k}"))
        module.add_module(local, copy_mode(dropout, module))
        node.op, node.target, node.args, node.kwargs = "call_module", local, (_input(node),), {}
    code = graph.python_code("self")
    plainly = fx.Graph().python_code("self").globals
    needs = {name: value for name, value in code.globals.items() if name not in plainly}
    module.__class__ = Forward(type(module), code.src, needs).subclass()


class _Whole(fx.Tracer):
    """Traces one forward alone."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 (fx names them)
        return True


def _traced(module: nn.Module, settings: Mapping[str, Any]) -> tuple[fx.Graph, dict[fx.Node, nn.Module]]:
    """The module's forward as a graph that holds in both modes, and what each of its dropouts becomes for that."""
    graphs = []
    for training in (True, False):
        bare = skeleton(module)
        try:
            with set_training(bare, training=training):
                graph = _Whole().trace(bare, _fixed(module, settings))
        except Exception as error:  # whatever the user's forward raises when it is traced
            raise Untraceable((str(error).splitlines() or [""])[0][:120]) from None
        if any(node.op == "get_attr" and "_tensor_constant" in str(node.target) for node in graph.nodes):
            raise Untraceable("it makes a tensor of its own, which would be frozen")
        names = list(inspect.signature(module.forward).parameters)
        for node, name in zip((n for n in graph.nodes if n.op == "placeholder"), names, strict=False):
            node.target = name if not str(node.target).startswith("*") else node.target
        graphs.append(graph)
    dropouts: dict[fx.Node, nn.Module] = {}
    trained, evaluated = (list(graph.nodes) for graph in graphs)
    for before, after in zip(trained, evaluated, strict=False):
        if before.op == after.op == "call_function" and before.target == after.target in DROPOUTS:
            one, other = (bound(node.target, node.args, node.kwargs) for node in (before, after))
            if one["training"] is True and other["training"] is False:
                dropouts[before] = DROPOUTS[before.target](one["p"])
                before.args, before.kwargs = (one["input"],), {}
                after.args, after.kwargs = (other["input"],), {}
    if graphs[0].python_code("self").src != graphs[1].python_code("self").src:
        raise Untraceable("it is another one in training mode")
    return graphs[0], dropouts


def _fixed(module: nn.Module, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments that held no tensor in the dry run: what the trace may decide by, and what it then asks for."""
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(module.forward).parameters
    return {name: settings[name] for name in parameters if name in settings and parameters[name].kind in named}


def _written(node: fx.Node, module: nn.Module, names: Mapping[nn.Module, str]) -> str | None:
    """Which nonlinearity a node calls: the module's name in the network, or the function's; None if it calls none."""
    if node.op == "call_module":
        target = module.get_submodule(str(node.target))
        return names[target] if kind_of(target) == NONLINEARITY else None
    if node.op not in ("call_function", "call_method"):
        return None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return plain(name) if kind_of_function(name, node.args, node.kwargs) == NONLINEARITY else None


def _input(node: fx.Node) -> Any:
    return node.args[0] if node.args else node.kwargs["input"]
