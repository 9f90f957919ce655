"""The result of an attack over a data set."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from lowcurve.errors import InputError
from lowcurve.evaluation.columns import share_of_true
from lowcurve.libraries import require_library
from lowcurve.types import AttackFunction

if TYPE_CHECKING:
    from lowcurve.results.statistics import Proportion

CLEAN = "clean"
"""Entry of `fooled_by` for an image that is misclassified without an attack."""


UNDEFINED = "not finite"
"""Entry of `fooled_by` for an image that no attack fooled, with a point where the network's logits were NaN or infinite."""


@dataclass(frozen=True, eq=False, repr=False)
class AttackResult:
    """The result of an attack, one entry per image.

    Attributes:
        robust: True if the image is classified correctly, clean and under every attack. The mean is the robust
            accuracy. It is an upper bound, since a stronger attack may exist. False also where `undefined` is True.
        distance: Distance of the clean image and `inputs`, in `norm`.
        kept_inputs: The attacked images, as `inputs` returns them. None if they were not kept.
        fooled_by: Attack that fooled the network. It is "clean" if no attack was needed, "" if none succeeded,
            "not finite" where `undefined` is True.
        forward_passes: Number of evaluations before the network was fooled, over all attacks.
        norm: Name of the norm of `distance`.
        members: The attacks that were tried, in order, with their names.
        shard: (number, shards) if the images are those of a shard, which `join` needs.
        margins: Margins z_y - max z_k at the clean image and at the answer of each member, NaN where it did not try the
            image, shape (N, 1 + members). None if they are not known.

    Example:
        >>> import torch
        >>> fooled_by = np.array(["", "PGD", "clean", ""])
        >>> AttackResult(fooled_by == "", np.zeros(4), torch.zeros(4, 2), fooled_by, np.ones(4, dtype=int), "l_inf")
        Attack on 4 images
        clean accuracy   75.0% (95% CI 30.1-95.4%, 3 of 4)
        robust accuracy  50.0% (95% CI 15.0-85.0%, 2 of 4)
        fooled by        PGD: 1
    """

    robust: np.ndarray
    distance: np.ndarray
    kept_inputs: Tensor | None
    fooled_by: np.ndarray
    forward_passes: np.ndarray
    norm: str = ""
    members: tuple[tuple[str, AttackFunction], ...] = ()
    shard: tuple[int, int] | None = None
    margins: np.ndarray | None = None

    def take(self, rows: slice) -> "AttackResult":
        """Return the result on some of the images."""
        names = ("robust", "distance", "kept_inputs", "fooled_by", "forward_passes", "margins")
        columns: dict[str, Any] = {name: getattr(self, name) for name in names}
        taken: dict[str, Any] = {name: None if values is None else values[rows] for name, values in columns.items()}
        return replace(self, **taken)

    @property
    def inputs(self) -> Tensor:
        """The attacked images.

        Raises:
            InputError: If they were not kept.
        """
        return require_inputs(self.kept_inputs, "attack")

    @property
    def clean(self) -> np.ndarray:
        """For each image, whether it is classified correctly without an attack."""
        return self.robust_to()

    @property
    def robust_accuracy(self) -> "Proportion":
        """The share of images that stay correctly classified under every attack, with its 95 % interval."""
        return share_of_true(self.robust)

    @property
    def clean_accuracy(self) -> "Proportion":
        """The share of images that are classified correctly without an attack, with its 95 % interval."""
        return share_of_true(self.clean)

    def robust_to(self, *names: str) -> np.ndarray:
        """Return for each image whether it is correct under these attacks, the first ones that were tried."""
        return ~np.isin(self.fooled_by, (CLEAN, UNDEFINED, *names) if names else (CLEAN,))

    @property
    def fooled(self) -> np.ndarray:
        """For each image, whether the network misclassifies it, without an attack or after one."""
        return np.asarray(~(self.robust | self.undefined))

    @property
    def undefined(self) -> np.ndarray:
        """For each image, whether logits were NaN or infinite at a point that was tried, and no attack fooled the network."""
        return np.asarray(self.fooled_by == UNDEFINED)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but `inputs` and `margins` as plain numbers, strings and lists, ready for JSON."""
        accuracies = {"clean_accuracy": self.clean_accuracy.value, "robust_accuracy": self.robust_accuracy.value}
        return {"norm": self.norm, **accuracies, **{name: values.tolist() for name, values in self._columns().items()}}

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per image: clean, robust, fooled_by, distance, forward_passes."""
        pandas = require_library("pandas", install="pandas")

        return pandas.DataFrame(self._columns())

    def _columns(self) -> dict[str, np.ndarray]:
        names = ("clean", "robust", "fooled_by", "distance", "forward_passes")
        return {name: getattr(self, name) for name in names}

    def __repr__(self) -> str:
        counts = Counter(name for name in self.fooled_by.tolist() if name not in ("", CLEAN, UNDEFINED))
        fooled = ", ".join(f"{name}: {count}" for name, count in counts.items()) or "no attack"
        return (
            f"Attack on {len(self.robust)} images\n"
            f"clean accuracy   {self.clean_accuracy}\n"
            f"robust accuracy  {self.robust_accuracy}\n"
            f"fooled by        {fooled}"
            + (f"\nnot finite       {said_of_undefined(self.undefined)}" if self.undefined.any() else "")
        )


def require_inputs(inputs: Tensor | None, function: str) -> Tensor:
    """Return the images of a result, or refuse if they were not kept."""
    if inputs is None:
        raise InputError("attacked images", f"a result of {function}(..., keep_inputs=False)", "write keep_inputs=True")
    return inputs


def said_of_undefined(undefined: np.ndarray) -> str:
    """Return the sentence on images with points where the network is undefined.

    Args:
        undefined: One truth value per image.

    Example:
        >>> said_of_undefined(np.array([True, False]))
        '1 of 2 images: logits are NaN or infinite at a point that was tried; they count as neither fooled nor robust'
    """
    return (
        f"{int(undefined.sum())} of {len(undefined)} images: logits are NaN or infinite at a point that was tried; they"
        " count as neither fooled nor robust"
    )
