"""Which layer a BatchNorm stands behind, so that the two are one block."""

from collections.abc import Mapping

from torch import nn

from lowcurve.models import lipschitz
from lowcurve.models.conversion.recording import Call, Recording

BatchNorm = nn.modules.batchnorm._BatchNorm

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


def blocks(recording: Recording) -> Mapping[str, str]:
    """BatchNorm -> the layer before it, by their names, where it takes all of that layer's results, and nothing else does.

    Example:
        >>> import torch
        >>> from lowcurve.models.conversion.recording import record
        >>> blocks(record(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), torch.zeros(2, 2)))
        {'1': '0'}
    """
    calls, found = recording.calls, dict[str, set[str]]()
    behind = {place: call for call in calls if (place := _only_consumer(call)) is not None and _weighted(call)}
    for place, call in enumerate(calls):
        if isinstance(call.form, BatchNorm) and call.module is not None:
            before = behind.get(place)
            found.setdefault(call.module, set()).add(before.module or "" if before else "")
    pairs = {norm: next(iter(layers)) for norm, layers in found.items() if len(layers) == 1 and "" not in layers}
    served = [(call.module, calls[place].module if place is not None else None) for call in calls if _weighted(call)
              for place in [_only_consumer(call)]]  # fmt: skip
    return {
        norm: layer for norm, layer in pairs.items() if {after for name, after in served if name == layer} == {norm}
    }


def _weighted(call: Call) -> bool:
    return type(call.form) in WEIGHTS or isinstance(call.form, lipschitz.LipschitzWeight)


def _only_consumer(call: Call) -> int | None:
    return call.consumers[0] if len(call.consumers) == 1 else None
