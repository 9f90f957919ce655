"""Find out on a few images whether an image's logits depend on that image alone: not on chance, not on its batch."""

import logging
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from lowcurve.analysis.calculus import gradient
from lowcurve.errors import InputError
from lowcurve.models.modes import frozen
from lowcurve.network_calls import NetworkError, call, rounding_of
from lowcurve.randomness import temporary_seed
from lowcurve.types import Inputs

log = logging.getLogger("lowcurve")
FEW = 4
"""Images on which it is tried."""
ROUNDING = 64
"""Two passes may differ by this many units of rounding, which accelerators need."""
COMPANY = 1e-4
"""Difference, relative to the largest logit, that a batch of another size may make by rounding."""
KINKS = 0.25
"""Difference, relative to the largest derivative, that rounding may make by moving an image across kinks of the network."""


class Dependence(NamedTuple):
    """A cause, other than the image, that changes its logits.

    Attributes:
        finding: What was seen, as a part of a sentence.
        advice: What to do before a measurement.
        consequence: What it means for an accuracy.
    """

    finding: str
    advice: str
    consequence: str


def find_dependence(model: nn.Module, x: Inputs) -> Dependence | None:
    """Return what else an image's logits depend on in eval mode, None if nothing was seen.

    Two passes over the first images are compared, and an image alone with the same image beside others: logits and gradient.

    Args:
        model: The network.
        x: Images on the model's device; the first ones are used. Of a single one, only the two passes are compared.

    Cost: three forward passes over at most 4 images, and two gradients once a network and shape.
    The global random state does not change.
    """
    x = x[:FEW]
    with frozen(model), torch.no_grad(), temporary_seed(0, "independence"):
        try:
            first, second = call(model, x), call(model, x)
        except InputError:
            return None  # the evaluation that follows meets the same error
        if first.shape[:1] != x.shape[:1] or first.shape != second.shape or not bool(torch.isfinite(first).all()):
            return None
        size, eps = float(first.abs().max()), rounding_of(model, first)
        change = float((first - second).abs().max())
        if change > min(ROUNDING * eps, 1e-2) * size:
            return Dependence(
                f"random logits: two passes over {len(x)} images differ by {_share(change, size)} of the largest logit",
                "remove the random layer, or let it draw the same numbers in every pass",
                "An accuracy holds for its draws alone. Attack the mean over many draws, and report several seeds.",
            )
        if len(x) < 2:
            return None
        try:
            change = float((call(model, x[-1:]) - first[-1:]).abs().max())
        except NetworkError:  # such as BatchNorm over one value
            change = size
        if change > max(COMPANY, 8 * eps) * size:
            return Dependence(
                f"mixed images: an image's logits alone and beside {len(x) - 1} others differ by"
                f" {_share(change, size)} of the largest logit",
                "replace the operation over the batch, such as BatchNorm without running statistics or dynamic quantization",
                "An accuracy holds for its batches alone: other images, another order or batch_size change it.",
            )
        if x.shape[1:] in _SAME_ALONE.get(model, ()):
            return None
        beside, alone = _slopes(model, x), _slopes(model, x[-1:])
        if beside is None or alone is None:
            return None
        size, change = float(beside[-1:].abs().max()), float((alone - beside[-1:]).abs().max())
        if change > KINKS * size:
            return Dependence(
                f"another gradient for one image alone: it differs by {_share(change, size)} of the largest derivative",
                "write .contiguous() behind each transpose or permute that follows a normalization",
                "Gradients of one image at a time are wrong. Torch computes them so on a CPU where a transpose follows a"
                " normalization (BatchNorm, InstanceNorm).",
            )
        _SAME_ALONE.setdefault(model, set()).add(x.shape[1:])
    return None


def _slopes(model: nn.Module, x: Inputs) -> Tensor | None:
    """Return the input gradients of the sums of squared logits, None where the network has none."""
    with torch.enable_grad():
        try:
            found = gradient(lambda z: call(model, z).square().reshape(len(z), -1).sum(1), x)
        except (InputError, RuntimeError):  # the evaluation that follows meets the same error
            return None
    return found if bool(torch.isfinite(found).all()) else None


def require_independent(model: nn.Module, x: Inputs) -> None:
    """Refuse a network whose derivatives in one image would not be those of that image's loss.

    Raises:
        InputError: If logits are random, or depend on the other images of the batch.
    """
    found = find_dependence(model, x)
    if found is not None:
        expected = "a network whose logits of an image depend on that image alone"
        raise InputError(expected, found.finding, found.advice)


def warn_of_dependence(model: nn.Module, x: Inputs) -> None:
    """Say in one warning for each network what else an image's logits depend on."""
    same = next(model.parameters(), model)  # wrappers of one network share its parameters
    if _WARNED.get(id(same)) is same:
        return
    found = find_dependence(model, x)
    if found is not None:
        _WARNED[id(same)] = same
        log.warning("The network has %s. %s", found.finding, found.consequence)


_WARNED: "WeakValueDictionary[int, object]" = WeakValueDictionary()
_SAME_ALONE: "WeakKeyDictionary[nn.Module, set[torch.Size]]" = WeakKeyDictionary()
"""Shapes of images at which a network's gradient of one image alone was that of the same image beside others."""


def _share(change: float, size: float) -> str:
    return f"{change / size:.2g}" if size else f"{change:.2g}"
