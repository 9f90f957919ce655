"""Parts that all training loops share: batches as pixels, and numbers as logs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.data.streams import pair_of
from lowcurve.errors import InputError
from lowcurve.models.layers import Normalize
from lowcurve.models.wrapping import WrappedNetwork
from lowcurve.results.statistics import proportion, summarize
from lowcurve.types import Labels

STATISTICS = ("mean", "median", "low", "high")
"""Names of the statistics of a column; low and high are its 10 % and 90 % quantiles."""
ROUNDING = 1e-4
"""Distance by which rounding may move a pixel out of [0, 1] while its normalization is undone."""


@dataclass(frozen=True)
class Batches:
    """Reads the batches of a loop as pixels in [0, 1] with labels.

    Args:
        mean: Means that the data's normalization subtracts, one per channel. None for data that are pixels in [0, 1].
        std: Standard deviations that belong to `mean`.
        read: Function from a batch to images and labels. By default a batch is (images, labels), or a mapping with
            "image" or "pixel_values", and "label" or "labels".

    Raises:
        InputError: If only one of mean and std is given, or a batch has no pixels and labels.

    Example:
        >>> pixels, labels = Batches((0.5,), (0.25,))((torch.tensor([[[[-2.0]]]]), torch.tensor([1])))
        >>> pixels.item(), labels.tolist()
        (0.0, [1])
    """

    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    read: Callable[[Any], tuple[Tensor, Labels]] | None = None

    def __post_init__(self) -> None:
        if (self.mean is None) != (self.std is None):
            raise InputError("mean and std together", "only one of them", "give both, or neither")

    @property
    def normalization(self) -> nn.Module:
        """The layer that turns pixels into the inputs of the network."""
        return nn.Identity() if self.mean is None or self.std is None else Normalize(self.mean, self.std)

    def __call__(self, batch: Any) -> tuple[Tensor, Labels]:
        """Return pixels, shape (batch, ...), and labels, shape (batch,)."""
        x, y = self.read(batch) if self.read is not None else pair_of(batch)
        return self.pixels(x), y

    def pixels(self, x: Tensor) -> Tensor:
        """Undo the normalization of images."""
        if self.mean is not None and self.std is not None:
            shape = (-1, *[1] * (x.ndim - 2))
            x = x * x.new_tensor(self.std).reshape(shape) + x.new_tensor(self.mean).reshape(shape)
            x = torch.where((x < 0) & (x > -ROUNDING), 0.0, torch.where((x > 1) & (x < 1 + ROUNDING), 1.0, x))
        if x.is_floating_point() and len(x) and not (float(x.min()) >= 0 and float(x.max()) <= 1):
            hint = "give mean= and std=, the normalization of your data"
            raise InputError("pixels in [0, 1]", f"values from {float(x.min()):.3g} to {float(x.max()):.3g}", hint)
        return x

    def wrap_network(self, network: nn.Module) -> nn.Module:
        """Return the network behind its normalization, with one tensor of logits as output."""
        return WrappedNetwork(network, self.normalization, None)


@contextmanager
def without_autocast(device: torch.device) -> Iterator[None]:
    """Compute in the precision of the weights: half precision loses curvature, and weakens attacks."""
    with torch.autocast(device.type, enabled=False):
        yield


def summarize_columns(columns: Mapping[str, np.ndarray], statistics: Sequence[str] = STATISTICS) -> dict[str, float]:
    """Return statistics of one number per image as numbers to log. NaN is left out, and counted as "missing".

    Args:
        columns: Numbers by name, shape (images,).
        statistics: Among "mean", "median", "low" and "high".

    Example:
        >>> summarize_columns({"gradient norm": np.array([1.0, 2.0, 6.0])}, ["median"])
        {'gradient_norm/median': 2.0}
    """
    found: dict[str, float] = {}
    for name, values in columns.items():
        summary, key = summarize(values), name.replace(" ", "_")
        found |= {f"{key}/{statistic}": float(getattr(summary, statistic)) for statistic in statistics}
        if summary.missing:
            found[f"{key}/missing"] = float(summary.missing)
    return found


def require_statistics(statistics: Sequence[str]) -> None:
    """Refuse the name of a statistic that there is not."""
    for name in statistics:
        if name not in STATISTICS:
            raise InputError(f"statistics among {', '.join(STATISTICS)}", repr(name), 'write statistics=("median",)')


def summarize_robustness(clean: int, robust: int, undefined: int, count: int) -> dict[str, float]:
    """Return clean and robust accuracy as numbers to log; of the latter with its 95 % interval.

    Args:
        clean: Number of images that are classified correctly without an attack.
        robust: Number of images that stay so under the attack.
        undefined: Number of images with a point where the logits are not finite.
        count: Number of images.

    Example:
        >>> summarize_robustness(9, 5, 0, 10)["robust_accuracy"]
        0.5
    """
    share = proportion(robust, count)
    found = {"clean_accuracy": clean / count, "robust_accuracy": share.value}
    found |= {"robust_accuracy/low": share.low, "robust_accuracy/high": share.high}
    return found | ({"undefined": float(undefined)} if undefined else {})
