"""Fold BatchNorm, norm bounds and learned sharpness into plain layers for inference."""

import copy
import logging
import math
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowcurve.errors import InputError
from lowcurve.models.conversion.blocks import NORMS, WEIGHTS, batchnorm_pairs
from lowcurve.models.conversion.composite_norms import BatchNorm, layers_after
from lowcurve.models.conversion.copying import copy_model
from lowcurve.models.conversion.layer_kinds import NORMALIZATION, POOLING
from lowcurve.models.conversion.module_replacement import replace_module
from lowcurve.models.conversion.recording import Recording, record
from lowcurve.models.gram import scale_outputs
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm, LipschitzLayer, LipschitzWeight
from lowcurve.network_calls import original_of, require_module

log = logging.getLogger("lowcurve")

FLAT = 0.1
"""Below this beta, subtracting log(2) / beta would lose precision."""
EXACT = 40.0
"""Above this beta x, softplus is x in double precision, because exp(-40) is negligible."""


@dataclass(frozen=True)
class FoldingReport:
    """The result of folding a network.

    Attributes:
        difference: Largest absolute difference of a logit on the example.
        layers: Number of layers, factors and constants that were folded into others.
        left: The reason for each BatchNorm that stays.
    """

    difference: float
    layers: int
    left: Mapping[str, str]


class ShiftedSoftplus(nn.Module):
    """The function log((1 + exp(beta x)) / 2) / beta with a fixed beta.

    Args:
        beta: Sharpness, positive.

    Example:
        >>> ShiftedSoftplus(2.0)(torch.zeros(1)).item()
        0.0
    """

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def forward(self, x: Tensor) -> Tensor:
        """Return the values, shape as x."""
        if self.beta >= FLAT:
            return F.softplus(x, self.beta, EXACT) - math.log(2) / self.beta
        z = x * self.beta
        return (z.relu() + z.abs().neg().expm1().mul(0.5).log1p()) / self.beta

    def extra_repr(self) -> str:
        """Return the sharpness for the module's representation."""
        return f"beta={self.beta:.4g}"


def fold(model: nn.Module, *, example: Tensor) -> nn.Module:
    """Return a copy of plain layers that computes the same logits in eval mode, up to rounding.

    BatchNorm goes into the convolution or linear layer before it, and a bound's factor min(1, gamma / sigma) into the weights.
    A centered softplus becomes nn.Softplus. Its -log(2) / beta goes into the bias of the next layer, if that layer alone takes
    the result and pads no zeros; elsewhere a `ShiftedSoftplus` subtracts it. Inference then costs as much as that of the plain
    network without BatchNorm, and the copy can be exported. Any network in eval mode can be folded.

    Args:
        model: The network to fold, in eval mode, which is left unchanged.
        example: A batch of inputs, on which the logits of both are compared.

    Returns:
        The folded copy, with a `FoldingReport` as its attribute `folding_report`. If nothing was folded, a warning says why.

    Raises:
        InputError: If the network is in training mode, or if its logits change because something other than a torch function
            uses a layer's result.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), CenteredSoftplus(5.0), nn.Linear(2, 1)).eval()
        >>> fold(model, example=torch.zeros(1, 2))
        Sequential(
          (0): Linear(in_features=2, out_features=2, bias=True)
          (1): Identity()
          (2): Softplus(beta=5.0, threshold=40.0)
          (3): Linear(in_features=2, out_features=1, bias=True)
        )
    """
    require_module(model, "a torch.nn.Module to fold")
    model = original_of(model)
    if any(part.training for part in model.modules()):
        hint = "write fold(model.eval(), example=x[:2])"
        raise InputError(
            "a network in eval mode, because BatchNorm folds with its running statistics", "training mode", hint
        )
    folded = copy_model(model)
    recording = record(folded, example)
    pairs = batchnorm_pairs(recording)
    bounded = [name for name, layer in folded.named_modules() if isinstance(layer, LipschitzWeight)]
    with torch.no_grad():
        for name in bounded:
            replace_module(folded, name, _plain_weight(folded.get_submodule(name)))
        computed = {norm: before for norm, before in pairs.items() if not _has_own_weight(folded.get_submodule(before))}
        pairs = {
            norm: before
            for norm, before in pairs.items()
            if norm not in computed and folded.get_submodule(norm).running_var is not None
        }
        for name, before in pairs.items():
            layer = folded.get_submodule(before)
            weight, bias = fold_weights(layer, folded.get_submodule(name))
            layer.weight, layer.bias = (_parameter(value, layer.weight) for value in (weight, bias))  # type: ignore[arg-type]
            replace_module(folded, name, _with_layers_after(nn.Identity(), folded.get_submodule(name)))
        for name, layer in list(folded.named_modules()):
            if isinstance(layer, LipschitzBatchNorm):
                replace_module(folded, name, _with_layers_after(_plain_norm(layer), layer))
        shifts = _replace_softplus(folded, recording)
    folded.__dict__.pop("conversion_report", None)
    output = record(folded, example).output
    difference = float((output - recording.output).abs().max())
    if not torch.allclose(output, recording.output, rtol=1e-2, atol=1e-3, equal_nan=True):
        hint = "fold its parts one by one, or use it unfolded"
        raise InputError(
            "layers whose results only torch functions use", f"logits that differ by {difference:.2g}", hint
        )
    report = FoldingReport(difference, len(pairs) + len(bounded) + shifts, _reasons(recording, pairs, computed))
    log.info("folded %d layers; logits differ by %.2g at most", report.layers, difference)
    if not report.layers and not any(isinstance(part, LipschitzLayer | CenteredSoftplus) for part in model.modules()):
        why = "; ".join(f"{name}: {reason}" for name, reason in list(report.left.items())[:4])
        warnings.warn(f"nothing was folded: {why or 'the network has no BatchNorm'}", stacklevel=2)
    folded.folding_report = report  # type: ignore[assignment]
    return folded


def _has_own_weight(layer: nn.Module) -> bool:
    """Return False for a layer whose weight is computed before each pass, as by pruning or weight normalization."""
    return layer._parameters.get("weight") is not None


def _reasons(recording: Recording, pairs: Mapping[str, str], computed: Mapping[str, str]) -> dict[str, str]:
    """Say of each normalization that stays why it does."""
    left = {}
    for call in recording.calls:
        if call.kind == NORMALIZATION and call.name not in pairs:
            if call.name in computed:
                why = f"the weight of {computed[call.name]!r} is computed, as by pruning or weight normalization"
            elif isinstance(call.layer, BatchNorm) and call.layer.running_var is not None:
                why = "no convolution or linear layer before it, whose output it alone takes, channel by channel"
            elif call.operation.endswith("batch_norm"):
                why = f"{call.operation} is called by a module that does something else, too"
            else:
                why = f"the statistics of {call.operation} depend on its input"
            left[call.name] = why
    return left


def _with_layers_after(layer: nn.Module, norm: nn.Module) -> nn.Module:
    """Return a layer and then those that the BatchNorm whose place it takes applies, under their names."""
    after = layers_after(norm)
    return nn.Sequential(OrderedDict(normalization=layer) | after) if after else layer


def _plain_weight(layer: nn.Module) -> nn.Module:
    """The plain layer of a bounded one, with the factor in the weights."""
    assert isinstance(layer, LipschitzWeight)
    new = _plain_copy(layer, next(kind for kind in WEIGHTS if isinstance(layer, kind)))
    new.weight = _parameter(layer.linear.weight.double() * layer.factor.double(), layer.linear.weight)
    return new


def _plain_norm(layer: LipschitzBatchNorm) -> nn.Module:
    """Plain BatchNorm with the factor in its weights, where no layer before it can take the factor."""
    new = _plain_copy(layer, next(kind for kind in NORMS if isinstance(layer, kind)))
    ones = torch.ones_like(layer.running_var)
    new.weight = _parameter((ones if layer.weight is None else layer.weight).double() * layer.factor.double(), ones)
    new.bias = nn.Parameter(torch.zeros_like(ones)) if layer.bias is None else layer.bias
    new._modules = {}
    return new


def _plain_copy(layer: nn.Module, kind: type[nn.Module]) -> nn.Module:
    new = kind.__new__(kind)
    new.__dict__.update(
        {key: copy.copy(value) if isinstance(value, dict) else value for key, value in vars(layer).items()}
    )
    for name in ("log_gamma", "sigma", "vector"):
        new._parameters.pop(name, None)
        new._buffers.pop(name, None)
    for name in ("before", "published", "at_least_one", "clips"):
        new.__dict__.pop(name, None)
    return new


def fold_weights(layer: nn.Module, norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Compute the weight and the bias of a layer with BatchNorm folded into it.

    BatchNorm(W x + b) = (a / std) W x + a (b - mean) / std + shift, where a includes the factor of a bounded BatchNorm.

    Args:
        layer: The layer before BatchNorm.
        norm: The BatchNorm, with running statistics.

    Returns:
        The folded weight and bias.

    Example:
        >>> layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)
        >>> _ = layer.weight.data.fill_(2.0), layer.bias.data.fill_(1.0), norm.running_var.fill_(4.0)
        >>> [value.item() for value in fold_weights(layer, norm)]
        [1.0, 0.5]
    """
    assert isinstance(norm, BatchNorm)
    assert norm.running_var is not None
    assert norm.running_mean is not None
    weight: Tensor = layer.weight  # type: ignore[assignment]
    bias: Tensor | None = layer.bias  # type: ignore[assignment]
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale if norm.weight is None else scale * norm.weight.double()
    scale = scale * norm.factor.double() if isinstance(norm, LipschitzBatchNorm) else scale
    shift = scale * ((0.0 if bias is None else bias.double()) - norm.running_mean.double())
    shift = shift if norm.bias is None else shift + norm.bias.double()
    wide = torch.promote_types(weight.dtype, torch.float32)
    return scale_outputs(weight, scale.to(wide)).to(weight.dtype), shift.to(weight.dtype)


def _replace_softplus(folded: nn.Module, recording: Recording) -> int:
    """Replace centered softplus by plain softplus; return how many of the constants went into a bias."""
    count = 0
    for call in recording.calls:
        act = call.layer
        if not isinstance(act, CenteredSoftplus) or call.module is None:
            continue
        if folded.get_submodule(call.module) is act:  # not replaced at an earlier call
            beta = float(act.beta)
            after = None if call.shared or beta < FLAT else _absorbing_layer(folded, recording, call.consumers)
            replace_module(folded, call.module, ShiftedSoftplus(beta) if after is None else nn.Softplus(beta, EXACT))
            if after is not None:
                count += 1
                weight: Tensor = after.weight  # type: ignore[assignment]
                shift = weight.double().flatten(1).sum(1) * (math.log(2) / beta)
                bias: Tensor | None = after.bias  # type: ignore[assignment]
                after.bias = _parameter(-shift if bias is None else bias.double() - shift, weight)
    return count


def _absorbing_layer(folded: nn.Module, recording: Recording, consumers: list[int | None]) -> nn.Module | None:
    """The layer into whose bias a constant can go: it alone uses the result, perhaps after pooling, and pads no zeros."""
    while len(consumers) == 1 and consumers[0] is not None:
        call = recording.calls[consumers[0]]
        if call.kind == POOLING and _keeps_constants(call.layer, call.operation):
            consumers = call.consumers
            continue
        layer = None if call.module is None or call.shared else folded.get_submodule(call.module)
        if type(layer) is nn.Linear:
            return layer
        if type(layer) in WEIGHTS and isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            inside = layer.padding == "valid" or not any(layer._reversed_padding_repeated_twice)
            return layer if inside or layer.padding_mode != "zeros" else None
        return None
    return None


def _keeps_constants(pool: nn.Module | None, operation: str) -> bool:
    """Return True if pooling x + c equals pooling x, plus c."""
    name = operation.rpartition(".")[2].lower()
    if "adaptive" in name or "max" in name:
        return "unpool" not in name
    padding = getattr(pool, "padding", 1)
    return "avg" in name and padding in (0, (0,), (0, 0), (0, 0, 0)) and getattr(pool, "divisor_override", None) is None


def _parameter(value: Tensor, old: Tensor) -> nn.Parameter:
    return nn.Parameter(value.to(old.dtype), requires_grad=old.requires_grad)
