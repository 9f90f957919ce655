"""Certified radii and verified accuracy: what is proved about a network at each image."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import nn

from lowcurve.analysis.norms import L2, LINF, Ball, Norm, as_norm
from lowcurve.data.coercion import Data, are_labels, as_examples
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.errors import InputError, NotAvailable, nearest
from lowcurve.evaluation.columns import Columns
from lowcurve.evaluation.measuring import measure
from lowcurve.models.local.bounds import LocalBounds
from lowcurve.models.smoothness import smoothness
from lowcurve.network_calls import gradients_enabled, input_like, require_module

FEWEST = 10
"""The fewest images for which costly local bounds are computed."""


Radii = float | Sequence[float]


@dataclass(frozen=True, eq=False, repr=False)
class Certified:
    """The result of `certify`: certified radii of the first images.

    Attributes:
        radius: The radius of each, in pixel units. It is 0 for a misclassified image.
        norm: Norm of the radius.
        proof: Sentence on how the radii were proved.

    Example:
        >>> found = Certified(np.array([0.0, 0.1, 0.3]), LINF, "by hand")
        >>> found
        Certified radii in l_inf of 3 images: median 0.1, 2 above 0 (by hand)
        >>> found.verified(0.1).tolist()
        [False, True, True]
    """

    radius: np.ndarray
    norm: Norm
    proof: str

    def verified(self, radius: float) -> np.ndarray:
        """Return for each image whether it is proved that no point within a radius is classified otherwise.

        Args:
            radius: The radius in pixel units, up to rounding to single precision.
        """
        proved: np.ndarray = (self.radius > 0) & (self.radius >= radius * (1 - 1e-6))
        return proved

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame with a row per image: radius."""
        return Columns({"radius": self.radius}).to_pandas()

    def __repr__(self) -> str:
        median = float(np.median(self.radius)) if len(self.radius) else math.nan
        counts = f"{len(self.radius)} images: median {median:.3g}, {int((self.radius > 0).sum())} above 0"
        return f"Certified radii in {self.norm.name} of {counts} ({self.proof})"


@gradients_enabled()
def certify(
    model: nn.Module,
    images: Data,
    labels: Labels | Norm | str | Ball | None = None,
    norm: Norm | str | Ball | Radii | None = None,
    radius: Radii | None = None,
    *,
    bounds: Literal["best", "local", "global"] = "best",
    steps: int = 5,
    work: float = math.inf,
    **words: Any,
) -> Certified:
    """Prove a radius for each image, within which no point of the pixel box is classified otherwise.

    Called as certify(model, images, labels, "l2", 36 / 255), or without labels for data that has them, or without a radius.
    Local bounds hold in the ball around the image (`LocalCertificate`), global ones everywhere (`CertifiedRadius`).

    Args:
        model: Network of plain layers. It maps pixels in [0, 1] to logits, and is used in eval mode.
        images: Images, with or without labels. See `lc.attack`.
        labels: True labels, unless `images` has them.
        norm: "l1", "l2" or "linf", or a `Ball`.
        radius: Radii in pixel units that are decided one by one; other radii are decided by the largest that was proved.
        bounds: "best" is the larger radius of both in l_2, and the local one in l_1 and l_inf, where global bounds say little.
        steps: Number of radii that are tried for each image; more where one of these may be proved.
        work: Largest number of multiplications for local bounds. Of a network that needs more, fewer images are certified; none
            if fewer than ten would be.
        **words: Keyword arguments of `measure`, such as progress or fabric.

    Returns:
        `Certified`: the radii, and `verified(radius)` for each image. The share of verified images is a lower bound of the
        robust accuracy.

    Raises:
        NotAvailable: If the network has neither local nor global bounds, with the reasons and the layer.

    Cost: that of `LocalBounds.work_in(norm)` multiplications for each image and radius.

    Example:
        >>> import lowcurve as lc
        >>> model, digits = lc.load_pretrained("cure-small-convnet-digits"), lc.load("digits").test.take(slice(10))
        >>> found = lc.certify(model, digits, "linf", 2 / 255, progress=False)
        >>> found.verified(2 / 255).mean() >= 0.8
        np.True_
    """
    require_module(model)
    if not are_labels(labels) and labels is not None:  # called without labels: the other arguments move up
        labels, norm, radius = None, labels, norm if radius is None else radius
    if isinstance(norm, Ball):
        chosen, radius = norm.norm, norm.radius if radius is None else radius
    else:
        chosen = as_norm(L2 if norm is None else norm)  # type: ignore[arg-type]
    radii = () if radius is None else (radius,) if isinstance(radius, int | float) else tuple(radius)
    if bounds not in ("best", "local", "global"):
        hint = nearest(bounds, ("best", "local", "global"), 'write bounds="best"')
        raise InputError('bounds "best", "local" or "global"', repr(bounds), hint)
    examples = as_examples(images, labels)  # type: ignore[arg-type]
    ways: dict[str, Callable[[], tuple[np.ndarray, str]]] = {
        "local": lambda: _local(model, examples, chosen, radii, steps, work, words),
        "global": lambda: _global(model, examples, chosen, words),
    }
    tried = (bounds,) if bounds != "best" else ("local", "global") if chosen == L2 else ("local",)
    found, proofs = [], []
    reasons: dict[str, tuple[str, NotAvailable]] = {}
    for way in tried:
        try:
            values, proof = ways[way]()
        except NotAvailable as error:
            reasons.setdefault(str(error), (way, error))
        else:
            found.append(values)
            proofs.append(proof)
    if not found:
        if len(reasons) == 1:
            raise next(iter(reasons.values()))[1]
        received = "; ".join(f"no {kind} bounds: {reason.removesuffix('.')}" for reason, (kind, _) in reasons.items())
        raise NotAvailable("a network that can be certified", received, "use a small one of plain layers")
    count = min(map(len, found))
    best = np.max([values[:count] for values in found], axis=0)
    return Certified(best, chosen, f"{'; '.join(proofs)}; {count} images")


def _local(
    model: nn.Module,
    examples: Examples,
    norm: Norm,
    radii: tuple[float, ...],
    steps: int,
    work: float,
    words: dict[str, Any],
) -> tuple[np.ndarray, str]:
    from lowcurve.geometry import LocalCertificate  # a training imports this file, but not what is measured

    bounds = LocalBounds(model, examples.pixels(slice(0, 1)).to(input_like(model)))
    each = max(1, bounds.work_in(norm))
    most = min(len(examples), work / ((steps + len(radii)) * each))
    if most < min(FEWEST, len(examples)):
        layer, units = bounds.costliest
        wide = f"{bounds.width:,} units before nonlinearities, {units:,} of them from {layer}, and " if units else ""
        received = f"{wide}{each:.2g} multiplications for an image and radius"
        raise NotAvailable("a network with cheap local bounds", received, "give lc.certify a larger work")
    # In l_inf the second order was not the better one on the smooth network that was measured.
    orders = ("zero", "second") if bounds.is_smooth and norm != LINF else ("zero",)
    certificate = LocalCertificate(bounds, norm, radii, steps, orders)
    columns = measure(model, examples.take(slice(int(most))), {"certified": certificate}, **words)
    kinds = "CROWN" if len(orders) == 1 else "CROWN and curvature"
    return columns["certified radius"], f"{kinds} in the ball around each image"


def _global(model: nn.Module, examples: Examples, norm: Norm, words: dict[str, Any]) -> tuple[np.ndarray, str]:
    from lowcurve.geometry import CertifiedRadius

    bounds = smoothness(model, examples.pixels(slice(0, 1)))
    columns = measure(model, examples, {"certified": CertifiedRadius(bounds)}, **words)
    # A ball in l_1 lies in the l_2 ball of its radius, one in l_inf in that of sqrt(d) times it.
    longest = math.sqrt(math.prod(examples.shape)) if norm == LINF else 1.0
    bent = "and curvature bounds" if bool(bounds.curvature.isfinite().all()) else "bounds (it has kinks)"
    return columns["certified radius"] / longest, f"Lipschitz {bent} that hold everywhere"
