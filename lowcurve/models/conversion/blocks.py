"""Pair each BatchNorm with the layer before it, so that the two form one block."""

from collections.abc import Mapping

from torch import nn

from lowcurve.models import lipschitz
from lowcurve.models.conversion.composite_norms import BatchNorm
from lowcurve.models.conversion.layer_kinds import has_own_forward
from lowcurve.models.conversion.recording import Call, Recording

WEIGHTS: dict[type, type[lipschitz.LipschitzWeight]] = {
    nn.Linear: lipschitz.LipschitzLinear,
    nn.Conv1d: lipschitz.LipschitzConv1d,
    nn.Conv2d: lipschitz.LipschitzConv2d,
    nn.Conv3d: lipschitz.LipschitzConv3d,
}
NORMS: dict[type, type[lipschitz.LipschitzBatchNorm]] = {
    nn.BatchNorm1d: lipschitz.LipschitzBatchNorm1d,
    nn.BatchNorm2d: lipschitz.LipschitzBatchNorm2d,
    nn.BatchNorm3d: lipschitz.LipschitzBatchNorm3d,
}


def bounded_norm(layer: nn.Module | None) -> type[lipschitz.LipschitzBatchNorm] | None:
    """Return the bounded form of a BatchNorm, None for other layers.

    The bounded form of a recorded BatchNorm that applies its children afterwards (`applies_children`) does so too.

    Example:
        >>> bounded_norm(nn.BatchNorm2d(1)).__name__, bounded_norm(nn.LayerNorm(1))
        ('LipschitzBatchNorm2d', None)
    """
    if type(layer) in NORMS:
        return NORMS[type(layer)]
    own = layer is not None and has_own_forward(layer)
    return next((new for kind, new in NORMS.items() if own and isinstance(layer, kind)), None)


def batchnorm_pairs(recording: Recording) -> Mapping[str, str]:
    """Map each BatchNorm to the layer before it, by their names.

    A pair needs that the BatchNorm takes all results of the layer, that nothing else uses them, and that the layer's output
    channels are the axis that BatchNorm normalizes. A linear layer on the last axis of tokens has them elsewhere.

    Args:
        recording: The calls of the network.

    Returns:
        The name of the layer for the name of each BatchNorm that has one.

    Example:
        >>> import torch
        >>> from lowcurve.models.conversion.recording import record
        >>> batchnorm_pairs(record(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.zeros(2, 2)))
        {'1': '0'}
    """
    calls, found = recording.calls, dict[str, set[str]]()
    sources = {index: call for call in calls if (index := _only_consumer(call)) is not None and _is_linear(call)}
    for index, call in enumerate(calls):
        if isinstance(call.layer, BatchNorm) and call.module is not None:
            before = sources.get(index)
            if before is not None and not (_channels_are_second(before) and before.output == call.input):
                before = None
            found.setdefault(call.module, set()).add(before.module or "" if before else "")
    pairs = {norm: next(iter(layers)) for norm, layers in found.items() if len(layers) == 1 and "" not in layers}
    consumers: dict[str | None, set[str | None]] = {}
    for call in filter(_is_linear, calls):
        index = _only_consumer(call)
        consumers.setdefault(call.module, set()).add(None if index is None else calls[index].module)
    return {norm: layer for norm, layer in pairs.items() if consumers.get(layer) == {norm}}


def _is_linear(call: Call) -> bool:
    return type(call.layer) in WEIGHTS or isinstance(call.layer, lipschitz.LipschitzWeight)


def _channels_are_second(call: Call) -> bool:
    """Return True if the layer's output channels are the second axis of its output."""
    axes = {nn.Linear: 2, nn.Conv1d: 3, nn.Conv2d: 4, nn.Conv3d: 5}
    return any(isinstance(call.layer, kind) and len(call.output) == count for kind, count in axes.items())


def _only_consumer(call: Call) -> int | None:
    return call.consumers[0] if len(call.consumers) == 1 else None
