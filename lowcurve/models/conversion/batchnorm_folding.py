"""Fold BatchNorm into the layers before it inside a `with` block, and restore the network afterwards."""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.conversion.blocks import WEIGHTS, batchnorm_pairs
from lowcurve.models.conversion.composite_norms import BatchNorm, layers_after
from lowcurve.models.conversion.folding import fold_weights
from lowcurve.models.conversion.recording import record
from lowcurve.models.modes import set_training
from lowcurve.network_calls import call, is_compiled
from lowcurve.types import Classifier, Inputs

NEAR = 1e-3
"""Relative difference of logits that counts as rounding."""
Pairs = Mapping[nn.Module, nn.Module]
"""The layer before each BatchNorm."""


@contextmanager
def fold_batchnorm(model: Classifier, x: Inputs) -> Iterator[None]:
    """Fold every BatchNorm in eval mode into the layer before it inside a `with` block, as `fold` does.

    BatchNorm then costs nothing, and logits and input gradients are the same up to rounding. Use it for many passes over one
    network whose parameters need no gradient, as in an attack. The parameters get no gradient inside, and changes to them have
    no effect until the end of the block. Layers with hooks are not folded.

    The first time, and whenever the layers or the input shape have changed, the network is run on two inputs. These runs find
    which layers belong together and check that the logits stay the same. Nothing is folded if they change, or for a compiled
    network or a classifier that is not a module.

    Args:
        model: The classifier.
        x: Inputs like those that follow.

    Cost: a pass over the weights; the first time, three forward passes of two images as well.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval()
        >>> model[1].running_mean.fill_(3.0)
        tensor([3., 3.])
        >>> x, seen = torch.zeros(2, 2), []
        >>> before = model(x)
        >>> with fold_batchnorm(model, x):
        ...     seen.append(model[0](x))  # includes BatchNorm
        >>> torch.allclose(seen[0], before), torch.equal(model(x), before)
        (True, True)
    """
    with _fold(_pairs_of(model, x) if isinstance(model, nn.Module) and len(x) else {}):
        yield


def _fold(pairs: Pairs) -> AbstractContextManager[None]:
    """Fold each BatchNorm into its layer."""
    overrides: dict[nn.Module, dict[str, Any]] = {}
    with torch.no_grad():
        for norm, layer in pairs.items():
            weight, bias = fold_weights(layer, norm)
            rest = partial(_apply, tuple(layers_after(norm).values()))
            overrides |= {layer: {"weight": weight, "bias": bias}, norm: {"forward": rest}}
    return _override_attributes(overrides)


@contextmanager
def _override_attributes(overrides: Mapping[nn.Module, Mapping[str, Any]]) -> Iterator[None]:
    """Set instance attributes, which hide the parameters, buffers and methods of the same names without changing them."""
    for module, attributes in overrides.items():
        vars(module).update(attributes)
    try:
        yield
    finally:
        for module, attributes in overrides.items():
            for name in attributes:
                del vars(module)[name]


def _apply(parts: tuple[nn.Module, ...], x: Tensor) -> Tensor:
    for part in parts:
        x = part(x)
    return x


@dataclass(frozen=True)
class _CachedPairs:
    """The pairs that were found for a network with these modules and this input shape."""

    modules: tuple[weakref.ref[nn.Module], ...]
    sizes: torch.Size
    pairs: tuple[tuple[weakref.ref[nn.Module], weakref.ref[nn.Module]], ...]

    def valid_for(self, model: nn.Module, x: Inputs) -> bool:
        """Return True if the modules and the input shape are still the same."""
        now = tuple(model.modules())
        return (
            self.sizes == x.shape[1:]
            and len(now) == len(self.modules)
            and all(a() is b for a, b in zip(self.modules, now, strict=True))
        )


_CACHE: "weakref.WeakKeyDictionary[nn.Module, _CachedPairs]" = weakref.WeakKeyDictionary()


def _pairs_of(model: nn.Module, x: Inputs) -> Pairs:
    """The pairs that can be folded now; hooks may have been added or removed since the last time."""
    cached = _CACHE.get(model)
    if cached is None or not cached.valid_for(model, x):
        modules = tuple(map(weakref.ref, model.modules()))
        found = tuple((weakref.ref(norm), weakref.ref(layer)) for norm, layer in _find_pairs(model, x[:2]).items())
        cached = _CACHE[model] = _CachedPairs(modules, x.shape[1:], found)
    pairs = [(norm(), layer()) for norm, layer in cached.pairs]  # none is dead, since the modules are the same
    return {a: b for a, b in pairs if a is not None and b is not None and _can_fold(a) and _can_fold(b)}


def _unwrapped(model: nn.Module) -> nn.Module:
    """The module that DDP or Fabric has wrapped, which computes in its own precision and not in the wrapper's."""
    inner = getattr(model, "module", None)
    return inner if isinstance(inner, nn.Module) else model


def _can_fold(part: nn.Module) -> bool:
    """Return True for a module in eval mode without hooks and with the forward method of its class.

    A bounded layer is excluded, because its factor depends on its weight; so is a parametrized layer, which has no weight.
    """
    own = vars(part)
    if part.training or "forward" in own or own["_forward_hooks"] or own["_forward_pre_hooks"]:
        return False
    return isinstance(part, BatchNorm) or type(part) in WEIGHTS


def _find_pairs(model: nn.Module, x: Inputs) -> Pairs:
    """Find the pairs, or none if folding them would change the logits."""
    norms = [part for part in model.modules() if isinstance(part, BatchNorm) and part.running_var is not None]
    if not norms or any(is_compiled(part) for part in model.modules()):
        return {}
    model = _unwrapped(model)
    with set_training(model, training=False), torch.autocast(x.device.type, enabled=False):
        try:
            names = batchnorm_pairs(record(model, x))
        except InputError:  # the network cannot be recorded, but an attack may still work on it
            return {}
        pairs = {model.get_submodule(norm): model.get_submodule(layer) for norm, layer in names.items()}
        pairs = {norm: layer for norm, layer in pairs.items() if norm in norms and type(layer) in WEIGHTS}
        return pairs if _keeps_logits(model, x, pairs) else {}


def _keeps_logits(model: nn.Module, x: Inputs, pairs: Pairs) -> bool:
    """Return True if folding keeps the logits.

    The test uses random running statistics, because with the network's own ones BatchNorm may be the identity.
    """
    generator, random_statistics = randomness.stream(0, "statistics"), {}
    for norm in pairs:
        mean = randomness.normal(norm.running_mean, generator=generator)  # type: ignore[arg-type]
        variance = randomness.uniform(norm.running_var, 0.5, 1.5, generator=generator)  # type: ignore[arg-type]
        random_statistics[norm] = {"running_mean": mean, "running_var": variance}
    with torch.no_grad(), randomness.temporary_seed(0, "folding"), _override_attributes(random_statistics):
        plain = call(model, x)
        with _fold(pairs):
            folded = call(model, x)
    return bool((plain - folded).abs().max() <= NEAR * plain.abs().max())
