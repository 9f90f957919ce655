"""List the layers of a network call by call, and what a conversion makes of each."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lowcurve.models.conversion import layer_kinds
from lowcurve.models.conversion.blocks import WEIGHTS, batchnorm_pairs, bounded_norm
from lowcurve.models.conversion.composite_norms import BatchNorm
from lowcurve.models.conversion.conversions import Conversion, LCNNConversion, LipschitzConversion, SmoothConversion
from lowcurve.models.conversion.copying import copy_sharing_parameters
from lowcurve.models.conversion.recording import Call, Recording, Size, record
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzLayer
from lowcurve.network_calls import original_of, require_module

OUTSIDE = "outside the bound: "
"""Beginning of the reason for a layer that LCNN leaves without a bound."""


@dataclass(frozen=True)
class Outcome:
    """The result of a conversion for one call.

    Attributes:
        replacement: The new layer, or "" if the layer stays.
        problem: The reason why the conversion does not support the layer, or "".
        stays: The reason why the layer stays although the conversion supports the network, or "".
    """

    replacement: str = ""
    problem: str = ""
    stays: str = ""


@dataclass(frozen=True, repr=False)
class Inspection:
    """Every call of a layer in order, with its outcome under a conversion; printed as a table.

    Attributes:
        network: Class of the network.
        conversion: The conversion.
        calls: The calls.
        outcomes: The outcome of each call.
    """

    network: str
    conversion: Conversion
    calls: tuple[Call, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def unsupported(self) -> dict[str, str]:
        """The names of the calls that the conversion does not support, with the reason."""
        return {call.name: outcome.problem for call, outcome in self.pairs() if outcome.problem}

    @property
    def staying(self) -> dict[str, str]:
        """The names of the other calls that stay where the conversion would replace or bound them, with the reason."""
        return {call.name: outcome.stays for call, outcome in self.pairs() if outcome.stays}

    def __repr__(self) -> str:
        rows = [("call", "layer", "input", "output", f"under {type(self.conversion).__name__}"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        counts = Counter(call.kind for call in self.calls)
        total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return "\n".join([*lines, f"{self.network}: {total}; {len(self.unsupported)} not supported"])

    def pairs(self) -> Iterator[tuple[Call, Outcome]]:
        """Iterate over the calls with their outcomes."""
        return zip(self.calls, self.outcomes, strict=True)

    def _rows(self) -> Iterator[tuple[str, ...]]:
        seen: set[str] = set()
        for call, outcome in self.pairs():
            place = call.module or call.name
            words = [f"-> {outcome.replacement}"] if outcome.replacement else []
            words += [f"not supported: {outcome.problem}"] if outcome.problem else []
            words += [f"stays: {outcome.stays}"] if outcome.stays else []
            words += [f"shares {place}"] if place in seen else []
            seen.add(place)
            yield call.name, call.operation, _size(call.input), _size(call.output), "; ".join(words)


def inspect_layers(model: nn.Module, example: Tensor, conversion: Conversion | None = None) -> Inspection:
    """List every call of a convolution, linear layer, normalization, pooling or nonlinearity, in order.

    One forward pass in eval mode finds the calls of modules and of functions (F.relu, torch.relu, x.relu(), x.clamp(min=0)).
    Other elementwise functions of the input with a kink, such as torch.maximum(x, 0) and x * (x > 0), are listed as kinks. A
    module that is called several times has one row per call, each with the name of its place. Layers that stay have the
    reason in their row. The network is left unchanged: weights, buffers, modes, hooks and gradients. So is the random state.

    Args:
        model: The network.
        example: A batch of inputs.
        conversion: The conversion whose outcome is shown; `SmoothConversion()` by default.

    Returns:
        The calls with their outcomes.

    Raises:
        InputError: For an example that the network does not accept.

    Cost: one forward pass.

    Example:
        >>> import torch
        >>> act = nn.ReLU()
        >>> found = inspect_layers(nn.Sequential(nn.Linear(2, 3), act, nn.Linear(3, 2), nn.Softmax(1)), torch.zeros(1, 2))
        >>> print(found)
        call  layer    input   output  under SmoothConversion
        0     Linear   (1, 2)  (1, 3)
        1     ReLU     (1, 3)  (1, 3)  -> CenteredSoftplus(beta=10)
        2     Linear   (1, 3)  (1, 2)
        3     Softmax  (1, 2)  (1, 2)
        Sequential: 2 linear, 1 nonlinearity, 1 softmax; 0 not supported
    """
    require_module(model, "a torch.nn.Module to inspect")
    model = original_of(model)
    return inspect_recording(model, record(copy_sharing_parameters(model), example), conversion or SmoothConversion())


def inspect_recording(model: nn.Module, recording: Recording, conversion: Conversion) -> Inspection:
    """List the calls of a recording with their outcomes under a conversion.

    Args:
        model: The network.
        recording: The calls of one forward pass.
        conversion: The conversion.

    Returns:
        The calls with their outcomes.
    """
    pairs = batchnorm_pairs(recording)
    outcomes = tuple(_outcome(call, conversion, pairs) for call in recording.calls)
    return Inspection(type(model).__name__, conversion, recording.calls, outcomes)


def _outcome(call: Call, conversion: Conversion, pairs: Mapping[str, str]) -> Outcome:
    if call.kind == layer_kinds.NONLINEARITY:
        if isinstance(call.layer, CenteredSoftplus):
            return Outcome()
        if layer_kinds.distance_from_relu(call.layer) is not None:
            return Outcome(f"CenteredSoftplus(beta={conversion.beta:g})")
        if call.operation.rpartition(".")[2].rstrip("_") in layer_kinds.SMOOTH:
            return Outcome(stays=f"{call.operation} is smooth and not like ReLU")
        return Outcome(problem=f"{call.operation} has a kink and no smooth form here")
    if call.kind == layer_kinds.KINK:
        return Outcome(problem=f"{call.operation} has a kink and stays; write F.relu(x) where it is meant")
    if isinstance(conversion, SmoothConversion):
        return Outcome()
    if call.kind == layer_kinds.POOLING:
        overlaps = isinstance(conversion, LipschitzConversion) and call.overlap > 1
        return Outcome(problem=f"its windows overlap, Lipschitz constant sqrt({call.overlap})" if overlaps else "")
    outcome = _bounded_outcome(call, pairs)
    if outcome.problem and isinstance(conversion, LCNNConversion):
        return Outcome(stays=f"{OUTSIDE}{outcome.problem}")
    return outcome


def _bounded_outcome(call: Call, pairs: Mapping[str, str]) -> Outcome:
    """The outcome for a layer whose Lipschitz constant is to be bounded."""
    boundable = call.kind in (layer_kinds.CONVOLUTION, layer_kinds.LINEAR) or call.operation == "F.batch_norm"
    if call.module is None and boundable:
        return Outcome(problem=f"{call.operation} is no module, so there is no place for its norm")
    if isinstance(call.layer, LipschitzLayer):
        return Outcome()
    if type(call.layer) in WEIGHTS:
        return Outcome() if call.module in pairs.values() else Outcome(WEIGHTS[type(call.layer)].__name__)
    new = bounded_norm(call.layer)
    if new is not None:
        if isinstance(call.layer, BatchNorm) and call.layer.running_var is None:
            return Outcome(problem=f"{call.operation} without running statistics")
        return Outcome(new.__name__)
    return Outcome(problem=f"no Lipschitz form of {call.operation}")


def _size(size: Size) -> str:
    return f"({', '.join(map(str, size))})"
