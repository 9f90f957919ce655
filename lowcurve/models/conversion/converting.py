"""Convert any network, layer by layer, to one of low curvature."""

import fnmatch
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.errors import InputError
from lowcurve.models.conversion import layer_kinds
from lowcurve.models.conversion.blocks import WEIGHTS, batchnorm_pairs, bounded_norm
from lowcurve.models.conversion.call_separation import separate_calls
from lowcurve.models.conversion.conversions import Conversion, LCNNConversion, LipschitzConversion, SmoothConversion
from lowcurve.models.conversion.copying import copy_model
from lowcurve.models.conversion.inspecting import OUTSIDE, Inspection, inspect_recording
from lowcurve.models.conversion.module_replacement import replace_module
from lowcurve.models.conversion.recording import Call, Recording, record
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzLayer, prepare_norms, update_norms
from lowcurve.network_calls import original_of, require_module

log = logging.getLogger("lowcurve")

STEPS = 100
"""Steps of power iteration at the conversion."""
ADDED = ("log_beta", "log_gamma", "sigma", "vector")
"""Names of the parameters and buffers that a conversion adds."""
MARGIN = 0.05
"""Initial difference of log gamma and log sigma, since power iteration finds sigma from below."""

Only = Callable[[str, nn.Module | None], bool] | Sequence[str]


@dataclass(frozen=True)
class ConversionReport:
    """The changes that a conversion made to a network.

    Attributes:
        conversion: The conversion.
        change: Largest absolute difference of a logit on the example.
        per_call: Upper bound of the change of one nonlinearity's output. It holds at any input.
        replaced: The new layer for each name.
        left: The reason for each name that was left unchanged: layers without a bound, nonlinearities that are smooth but not
            like ReLU, and (without `strict`) what the conversion does not support.
    """

    conversion: Conversion
    change: float
    per_call: float
    replaced: Mapping[str, str]
    left: Mapping[str, str]


def convert(
    model: nn.Module,
    conversion: Conversion | None = None,
    *,
    example: Tensor,
    only: Only | None = None,
    strict: bool = True,
) -> nn.Module:
    """Return a converted copy of a network, with a `ConversionReport` as its attribute `conversion_report`.

    A layer that is called once is replaced in its place. Where one module is called several times, or a nonlinearity is
    written as a function, each call gets its own module, named for its place. To call these modules, torch.fx rewrites the
    forward method, and the module's class becomes a subclass with the new method. Every weight keeps its name, so the state
    dict of the original network loads (`load_original`). Device, precision, modes, requires_grad and hooks are kept. A block
    that is itself called several times gets one module for each place in it, because its weights are shared as well.

    Layers without a Lipschitz form, such as LayerNorm and attention, stay as they are under `LCNNConversion`, which then bounds
    the other layers only. A warning and `conversion_report.left` name them. `LipschitzConversion` refuses them.

    A ReLU that is written by hand, such as torch.maximum(x, 0), x * (x > 0) or torch.where(x > 0, x, 0), is not converted.
    Like every other elementwise kink it counts as unsupported and is named in `conversion_report.left`. Max-pooling keeps
    its kinks.

    At every input, a converted ReLU changes by at most log(2) / beta. Another nonlinearity changes by at most that plus its
    own distance from ReLU (`conversion_report.per_call`).

    Args:
        model: The network to convert. It is left unchanged.
        conversion: The kind of conversion; `SmoothConversion()` by default.
        example: A batch of inputs. It gives the sizes and `conversion_report.change`.
        only: The layers that may change. Give a predicate of (name, layer), or patterns of names such as "layer4.*".
        strict: Raise an error for layers that the conversion does not support. Forward methods that torch.fx cannot
            rewrite count as well. Otherwise these are left unchanged, with a warning.

    Returns:
        The converted copy.

    Raises:
        InputError: If the network was converted before, or (with `strict`) for unsupported layers, by their names, and for a
            forward method that torch.fx cannot follow.

    Cost: a copy, three forward passes, and the norms of bounded layers.

    Example:
        >>> act = nn.ReLU()
        >>> model = nn.Sequential(nn.Linear(2, 2), act, nn.Linear(2, 2), act)
        >>> smooth = convert(model, SmoothConversion(beta=100.0), example=torch.zeros(1, 2))
        >>> smooth[1], smooth[3], model[3]
        (CenteredSoftplus(beta=100), CenteredSoftplus(beta=100), ReLU())
        >>> round(smooth.conversion_report.per_call, 6)  # log(2) / 100
        0.006931

    Reference: srinivas2022lcnn, section 3.
    """
    conversion = conversion or SmoothConversion()
    require_module(model, "a torch.nn.Module to convert")
    model = original_of(model)
    require_original(model)
    copied = copy_model(model)
    before = record(copied, example)
    found = inspect_recording(model, before, conversion)
    wanted, left = _select_calls(found, only, strict)
    left |= _separate(copied, before, wanted, example, strict)
    wanted = [call for call in wanted if call.name not in left]
    outside = {name: why for name, why in found.staying.items() if why.startswith(OUTSIDE)}
    if left | outside:
        warnings.warn(f"left unchanged: {_listing(left | outside)}", stacklevel=2)
    left |= found.staying
    like = next((p for p in copied.parameters() if p.is_floating_point()), example)
    per_call = _smooth_nonlinearities(copied, wanted, conversion, like)
    if not isinstance(conversion, SmoothConversion):
        new = _bound_layers(copied, wanted, batchnorm_pairs(before), conversion, like)
        with randomness.temporary_seed(0, "norms"):
            prepare_norms(copied, example, steps=STEPS)
        if isinstance(conversion, LCNNConversion):
            _start_gammas(new, conversion.gamma)
    # Each call of a nonlinearity has its own module by now. A bounded layer that is called twice stays one.
    places = {call.name: call.name if call.kind == layer_kinds.NONLINEARITY else str(call.module) for call in wanted}
    replaced = {name: str(copied.get_submodule(place)) for name, place in places.items()}
    change = float((record(copied, example).output - before.output).abs().max())
    log.debug(
        "%s: %d layers replaced, logits changed by %.2g at most", type(conversion).__name__, len(replaced), change
    )
    copied.conversion_report = ConversionReport(conversion, change, per_call, replaced, left)  # type: ignore[assignment]
    return copied


def require_original(model: nn.Module) -> None:
    """Raise an error for a network that was converted before, as a whole or in part, and for a single layer.

    Args:
        model: The network.

    Raises:
        InputError: If the network cannot be converted.
    """
    require_module(model, "a torch.nn.Module to convert")
    for part in model.modules():
        done = getattr(part, "conversion_report", None)
        if isinstance(done, ConversionReport):
            hint = "convert the original network instead"
            raise InputError("a network that is not converted yet", f"one converted by {done.conversion}", hint)
    if layer_kinds.layer_kind(model) is not None:
        hint = "put it into an nn.Sequential"
        raise InputError("a network that contains its layers", f"a single {type(model).__name__}", hint)


def load_original(converted: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load the state dict of the original network, or of another one of its kind, into the converted network.

    Only the parameters and buffers that the conversion added may be missing. Betas and gammas stay, and norms are estimated
    again.

    Args:
        converted: The converted network, changed in place.
        state: The state dict of the original network.

    Raises:
        InputError: For missing or unexpected names.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        >>> load_original(convert(model, example=torch.zeros(1, 2)), model.state_dict())
    """
    missing, unexpected = converted.load_state_dict(state, strict=False)
    strange = [f"{name} missing" for name in missing if name.rpartition(".")[2] not in ADDED]
    strange += [f"{name} unexpected" for name in unexpected]
    if strange:
        hint = "load the state_dict() of the original network"
        raise InputError("the state dict of the original network", ", ".join(strange[:3]), hint)
    update_norms(converted, STEPS)


def _select_calls(found: Inspection, only: Only | None, strict: bool) -> tuple[list[Call], dict[str, str]]:
    """Return the calls that change, and the names of those that the conversion does not support, with the reason."""
    chosen = _matching_names(found.calls, only)
    pairs = [(call, outcome) for call, outcome in found.pairs() if call.name in chosen]
    left = {call.name: outcome.problem for call, outcome in pairs if outcome.problem}
    if left and strict:
        hint = "exclude them with only=, or leave them unchanged with strict=False"
        raise InputError(f"layers that {type(found.conversion).__name__} supports", _listing(left), hint)
    return [call for call, outcome in pairs if outcome.replacement], left


def _matching_names(calls: Sequence[Call], only: Only | None) -> set[str]:
    """Return the names of the calls that may change. A pattern without a match is an error, since it is probably misspelt."""
    if only is None:
        return {call.name for call in calls}
    if callable(only):
        return {call.name for call in calls if only(call.name, call.layer)}
    patterns = [only] if isinstance(only, str) else list(only)
    names = [call.name for call in calls]
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise InputError(
                "a pattern that matches a layer", repr(pattern), f"write names such as {', '.join(names[:4])}"
            )
    return {name for pattern in patterns for name in fnmatch.filter(names, pattern)}


def _separate(
    copied: nn.Module, before: Recording, wanted: list[Call], example: Tensor, strict: bool
) -> dict[str, str]:
    """Give each call its own module and check that the logits stay the same; return what could not be separated."""
    nonlinearities = [call for call in wanted if call.kind == layer_kinds.NONLINEARITY]
    refused = separate_calls(copied, before, nonlinearities)
    if refused and strict:
        call = next(call for call in nonlinearities if call.name in refused)
        owner = f"{call.owner or 'the network itself'} ({type(copied.get_submodule(call.owner)).__name__})"
        hint = "give each call there its own module, or leave it unchanged with strict=False"
        expected = f"a forward method around {call.operation} that torch.fx can follow"
        raise InputError(expected, f"that of {owner}: {refused[call.name]}", hint)
    after = record(copied, example).output
    if not torch.allclose(after, before.output, rtol=1e-4, atol=1e-5, equal_nan=True):
        hint = "write x = F.relu(x), and let nothing else use the changed x"
        change = float((after - before.output).abs().max())
        raise InputError("nonlinearities that can work out of place", f"a change of {change:.2g}", hint)
    return refused


def _smooth_nonlinearities(copied: nn.Module, wanted: list[Call], conversion: Conversion, like: Tensor) -> float:
    """Replace each nonlinearity by a centered softplus; return the bound of the change of one call."""
    per_call = [0.0]
    for name, call in {call.name: call for call in wanted if call.kind == layer_kinds.NONLINEARITY}.items():
        act = CenteredSoftplus(conversion.beta, learn=conversion.learn).to(call.device, like.dtype)
        act.log_beta.data.fill_(math.log(conversion.beta - act.floor))
        replace_module(copied, name, act)
        distance = layer_kinds.distance_from_relu(call.layer)
        assert distance is not None
        per_call.append(distance + math.log(2) / float(act.beta.detach()))
    return max(per_call)


def _bound_layers(
    copied: nn.Module,
    wanted: list[Call],
    pairs: Mapping[str, str],
    conversion: LCNNConversion | LipschitzConversion,
    like: Tensor,
) -> list[LipschitzLayer]:
    """Replace layers by bounded ones; return these."""
    placed: list[LipschitzLayer] = []
    gamma, learn = (conversion.gamma, True) if isinstance(conversion, LCNNConversion) else (1.0, False)
    for call in {call.module: call for call in wanted if call.kind != layer_kinds.NONLINEARITY}.values():
        layer: Any = call.layer
        name = str(call.module)
        norm = bounded_norm(layer)
        if norm is not None:
            before: Any = copied.get_submodule(pairs[name]) if name in pairs else None
            new: LipschitzLayer = norm.of(before, layer, gamma=gamma, learn=learn)
        else:
            new = WEIGHTS[type(layer)].of(layer, gamma=gamma, learn=learn)
        placed.append(new.double() if like.dtype is torch.float64 else new)
        replace_module(copied, name, placed[-1])
    return placed


def _start_gammas(layers: list[LipschitzLayer], gamma: float) -> None:
    """Set each gamma above the current norm of its layer."""
    for layer in layers:
        layer.log_gamma.data.fill_(max(math.log(gamma), float(layer.sigma.log()) + MARGIN))


def _listing(reasons: Mapping[str, str]) -> str:
    """List the first four names with their reasons.

    Example:
        >>> _listing({"a": "no", "b": "never"})
        'a (no), b (never)'
    """
    shown = [f"{name} ({reason})" for name, reason in list(reasons.items())[:4]]
    return ", ".join([*shown, *([f"{len(reasons) - 4} more"] if len(reasons) > 4 else [])])
