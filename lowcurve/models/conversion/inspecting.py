"""What a network is made of, call by call, and what a recipe would make of it."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from lowcurve.models.conversion import layer_kinds
from lowcurve.models.conversion.blocks import NORMS, WEIGHTS, BatchNorm, blocks
from lowcurve.models.conversion.conversions import Conversion, LipschitzConversion, SmoothConversion
from lowcurve.models.conversion.recording import Call, Recording, Size, record, skeleton
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzLayer


@dataclass(frozen=True)
class Fate:
    """What becomes of one call: a new layer, or nothing (""). trouble: why the recipe does not hold there."""

    becomes: str = ""
    trouble: str = ""


@dataclass(frozen=True)
class Inspection:
    """Every call of a layer in its order, and its fate under the recipe; `str()` of it is a table.

    unsupported: the names of the calls where the recipe does not hold, with the reason.
    """

    network: str
    conversion: Conversion
    calls: tuple[Call, ...]
    fates: tuple[Fate, ...]

    @property
    def unsupported(self) -> dict[str, str]:
        return {call.name: fate.trouble for call, fate in zip(self.calls, self.fates, strict=True) if fate.trouble}

    def __str__(self) -> str:
        rows = [("call", "layer", "input", "output", f"under {type(self.conversion).__name__}"), *self._rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(5)]
        lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        counts = Counter(call.kind for call in self.calls)
        total = ", ".join(f"{count} {kind}" for kind, count in counts.items())
        return "\n".join([*lines, f"{self.network}: {total}; {len(self.unsupported)} not supported"])

    def _rows(self) -> Iterator[tuple[str, ...]]:
        seen: set[str] = set()
        for call, fate in zip(self.calls, self.fates, strict=True):
            place = call.module or call.name
            words = [f"-> {fate.becomes}"] if fate.becomes else []
            words += [f"not supported: {fate.trouble}"] if fate.trouble else []
            words += [f"shares {place}"] if place in seen else []
            seen.add(place)
            yield call.name, call.what, _size(call.input), _size(call.output), "; ".join(words)


def inspect_layers(model: nn.Module, example: Tensor, conversion: Conversion | None = None) -> Inspection:
    """Every call of a convolution, linear layer, normalization, pooling or nonlinearity, in order, by one run in eval mode.

    A call is seen whether it is a module or a function (F.relu, torch.relu, x.relu(), x.clamp(min=0)); a module that is called
    several times has as many rows, each with the name of the place. The network stays as it is: weights, buffers, modes,
    hooks and gradients, and the random state.

    recipe: `SmoothConversion()` unless given. Cost: one forward pass.

    Errors: InputError for an example that the network does not take.

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
    return inspection(model, record(skeleton(model), example), conversion or SmoothConversion())


def inspection(model: nn.Module, recording: Recording, conversion: Conversion) -> Inspection:
    """The same from a run that has been recorded."""
    behind = blocks(recording)
    fates = tuple(fate(call, conversion, behind) for call in recording.calls)
    return Inspection(type(model).__name__, conversion, recording.calls, fates)


def fate(call: Call, conversion: Conversion, behind: Mapping[str, str]) -> Fate:
    """What a recipe makes of one call. behind: as `blocks` has it."""
    if call.kind == layer_kinds.NONLINEARITY:
        if isinstance(call.form, CenteredSoftplus):
            return Fate()
        if type(call.form) in layer_kinds.FROM_RELU:
            return Fate(f"CenteredSoftplus(beta={conversion.beta:g})")
        smooth = call.what.rpartition(".")[2].rstrip("_") in layer_kinds.SMOOTH
        return Fate(trouble="" if smooth else f"{call.what} has a kink and no smooth form here")
    if isinstance(conversion, SmoothConversion):
        return Fate()
    if call.kind == layer_kinds.POOLING:
        loose = isinstance(conversion, LipschitzConversion) and call.overlap > 1
        return Fate(trouble=f"its windows overlap, Lipschitz constant sqrt({call.overlap})" if loose else "")
    return _bounded(call, behind)


def _bounded(call: Call, behind: Mapping[str, str]) -> Fate:
    """What becomes of a layer whose Lipschitz constant is to be bounded."""
    if call.module is None and call.kind in (layer_kinds.CONVOLUTION, layer_kinds.LINEAR, layer_kinds.NORMALIZATION):
        return Fate(trouble=f"{call.what} is no module, so there is no place for its norm")
    if isinstance(call.form, LipschitzLayer):
        return Fate()
    if type(call.form) in WEIGHTS:
        return Fate() if call.module in behind.values() else Fate(WEIGHTS[type(call.form)].__name__)
    if type(call.form) in NORMS and isinstance(call.form, BatchNorm):
        if call.form.running_var is None:
            return Fate(trouble=f"{call.what} without running statistics")
        return Fate(NORMS[type(call.form)].__name__)
    return Fate(trouble=f"no Lipschitz form of {call.what}")


def _size(size: Size) -> str:
    return f"({', '.join(map(str, size))})"
