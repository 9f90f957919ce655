"""A network without its BatchNorm, lent: gone into the layers before it inside a `with`, and afterwards as it was."""

import sys
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.conversion.blocks import WEIGHTS, BatchNorm, blocks
from lowcurve.models.conversion.folding import taken_in
from lowcurve.models.conversion.recording import record
from lowcurve.models.modes import set_training
from lowcurve.types import Classifier, Inputs

NEAR = 1e-3
"""Logits that differ by less than this share of the largest are the same but for rounding."""
Pairs = Mapping[nn.Module, nn.Module]
"""BatchNorm -> the layer before it."""


@contextmanager
def fold_batchnorm(model: Classifier, x: Inputs) -> Iterator[None]:
    """Inside, BatchNorm in eval mode costs nothing: each has gone into the convolution or linear layer before it, as `fold`
    has it; afterwards every layer is as it was. Logits and input gradients are the same but for rounding.

    For many passes over one network whose parameters receive nothing, such as an attack's: inside they receive nothing, and
    are taken as they are when it begins.

    x: inputs such as will come. The first time that a network is seen, or one of other layers, it is run on two of them, to
    learn which layers belong together and whether it computes the same without BatchNorm; where it does not, or is compiled,
    or is no module, nothing is folded. Layers with hooks stay as they are.

    Cost: a pass over the weights; the first time, three forward passes of two images.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
        >>> model[1].running_mean.fill_(3.0)
        tensor([3., 3.])
        >>> x, seen = torch.zeros(2, 2), []
        >>> before = model(x)
        >>> with fold_batchnorm(model, x):
        ...     seen.append(model[0](x))  # BatchNorm's part already
        >>> torch.allclose(seen[0], before), torch.equal(model(x), before)
        (True, True)
    """
    with _folded(_pairs_of(model, x) if isinstance(model, nn.Module) and len(x) else {}):
        yield


def _folded(pairs: Pairs) -> AbstractContextManager[None]:
    """Every BatchNorm in the layer before it."""
    behind: dict[nn.Module, dict[str, Any]] = {}
    with torch.no_grad():
        for norm, layer in pairs.items():
            weight, bias = taken_in(layer, norm)
            behind |= {layer: {"weight": weight, "bias": bias}, norm: {"forward": _same}}
    return _hidden(behind)


@contextmanager
def _hidden(behind: Mapping[nn.Module, Mapping[str, Any]]) -> Iterator[None]:
    """Attributes of the object's own hide its parameters, buffers and methods of those names, which nobody touches."""
    for module, attributes in behind.items():
        vars(module).update(attributes)
    try:
        yield
    finally:
        for module, attributes in behind.items():
            for name in attributes:
                del vars(module)[name]


def _same(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class _Seen:
    """What was found of a network when its modules were these and its inputs so large."""

    modules: tuple[weakref.ref[nn.Module], ...]
    sizes: torch.Size
    pairs: tuple[tuple[weakref.ref[nn.Module], weakref.ref[nn.Module]], ...]

    def holds(self, model: nn.Module, x: Inputs) -> bool:
        """Whether it is still so."""
        now = tuple(model.modules())
        return (
            self.sizes == x.shape[1:]
            and len(now) == len(self.modules)
            and all(a() is b for a, b in zip(self.modules, now, strict=True))
        )


_SEEN: "weakref.WeakKeyDictionary[nn.Module, _Seen]" = weakref.WeakKeyDictionary()


def _pairs_of(model: nn.Module, x: Inputs) -> Pairs:
    """What may be folded now: hooks come and go."""
    seen = _SEEN.get(model)
    if seen is None or not seen.holds(model, x):
        modules = tuple(map(weakref.ref, model.modules()))
        found = tuple((weakref.ref(norm), weakref.ref(layer)) for norm, layer in _found(model, x[:2]).items())
        seen = _SEEN[model] = _Seen(modules, x.shape[1:], found)
    pairs = [(norm(), layer()) for norm, layer in seen.pairs]  # all are there, or the modules would not be the same
    return {a: b for a, b in pairs if a is not None and b is not None and _free(a) and _free(b)}


def _unwrapped(model: nn.Module) -> nn.Module:
    """What DDP or Fabric has wrapped, which computes in its own precision and not in theirs."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else model


def _free(part: nn.Module) -> bool:
    """Whether it is in eval mode, nobody looks at what goes in and out, and its forward pass is that of its kind: a layer with
    a bound of its own has a factor that hangs on its weight, and a parametrized one has no weight.
    """
    own = vars(part)
    if part.training or "forward" in own or own["_forward_hooks"] or own["_forward_pre_hooks"]:
        return False
    return isinstance(part, BatchNorm) or type(part) in WEIGHTS


def _found(model: nn.Module, x: Inputs) -> Pairs:
    """None where that is not all that becomes of a layer's results."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm) and part.running_var is not None]
    if not norms or any(_compiled(part) for part in model.modules()):
        return {}
    model = _unwrapped(model)
    with set_training(model, training=False), torch.autocast(x.device.type, enabled=False):
        try:
            names = blocks(record(model, x))
        except InputError:  # a network that cannot be looked at as it is, which an attack may bear
            return {}
        pairs = {model.get_submodule(norm): model.get_submodule(layer) for norm, layer in names.items()}
        pairs = {norm: layer for norm, layer in pairs.items() if norm in norms and type(layer) in WEIGHTS}
        return pairs if _is_the_same(model, x, pairs) else {}


def _compiled(part: nn.Module) -> bool:
    """Whether torch compiles it. torch._dynamo takes as long to import as torch, and has been by whoever compiled a network."""
    dynamo = sys.modules.get("torch._dynamo")
    return bool(part._compiled_call_impl) or (dynamo is not None and isinstance(part, dynamo.OptimizedModule))


def _is_the_same(model: nn.Module, x: Inputs, pairs: Pairs) -> bool:
    """Whether folding keeps the logits, for other running statistics than the network's, which may be such that BatchNorm does
    nothing.
    """
    generator, drawn = randomness.stream(0, "statistics"), {}
    for norm in pairs:
        mean = randomness.normal(norm.running_mean, generator=generator)  # type: ignore[arg-type]
        variance = randomness.uniform(norm.running_var, 0.5, 1.5, generator=generator)  # type: ignore[arg-type]
        drawn[norm] = {"running_mean": mean, "running_var": variance}
    with torch.no_grad(), randomness.temporary_seed(0, "folding"), _hidden(drawn):
        plain = model(x)
        with _folded(pairs):
            folded = model(x)
    return bool((plain - folded).abs().max() <= NEAR * plain.abs().max())
