"""What is proved about a network's robustness: verified accuracy, and the bracket of certificates and attacks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import nn

from lowcurve.analysis.norms import L2, LINF, Norm, pixels
from lowcurve.data import Examples
from lowcurve.evaluation import Certified, SmallestRadius, certify
from lowcurve.results import Cell, Column, Curves, Line, Result, Table, proportion
from lowcurve.results.cells import NETWORK, spread
from lowcurve.study.measured_network import launch_fabric
from lowcurve.study.optional import reason_of
from lowcurve.study.settings import Study
from lowcurve.types import Progress

LITERATURE = {L2: (36, 72, 108), LINF: (2, 8)}
"""Radii in 255ths of the pixel range at which certified accuracies are published."""
WORK, STEPS = 3e11, 2
"""Largest number of multiplications for the local bounds of a network, about a minute's, and of radii besides the wanted."""


def global_radii(model: nn.Module, examples: Examples, norm: Norm, **words: Any) -> np.ndarray | None:
    """Compute each image's certified radius from bounds that hold everywhere, or None for a network without them.

    Args:
        model: The network.
        examples: Images.
        norm: Norm of the radius.
        **words: Keyword arguments of `evaluation.measure`.
    """
    try:
        return certify(model, examples, norm, bounds="global", **words).radius
    except Exception as error:  # a network of the user's own may raise anything
        reason_of(error)  # raises an error of the whole run
        return None


def certify_attacked(
    study: Study, name: str, model: nn.Module, examples: Examples, progress: Progress[int]
) -> Certified:
    """Certify the first attacked examples of a study at its radius, and in l_2 at those of the literature.

    Args:
        study: Settings.
        name: Name of the network.
        model: The network.
        examples: The attacked examples.
        progress: Progress display.
    """
    few, norm = examples.take(slice(study.evaluation.certified)), study.ball().norm
    radii = tuple(dict.fromkeys((study.ball().radius, *map(pixels, LITERATURE[L2] if norm == L2 else ()))))
    shared: dict[str, Any] = {
        "progress": progress,
        "heading": f"certifying {name}",
        "fabric": launch_fabric(study.hardware),
    }
    return certify(model, few, norm=norm, radius=radii, steps=STEPS, work=WORK, **shared)


def verified_cell(study: Study, certified: Certified | None) -> Cell:
    """Return the verified accuracy at the study's radius with its interval, None without certificates.

    Args:
        study: Settings.
        certified: The certified radii.
    """
    if certified is None:
        return None
    share = proportion(int(certified.verified(study.ball().radius).sum()), len(certified.radius))
    return share.value, share.low, share.high


def bracket_results(
    study: Study, name: str, certified: Certified, found: SmallestRadius, conditions: Mapping[str, str]
) -> dict[str, Result]:
    """Show both ends of the robust accuracy, of the images that were certified.

    Args:
        study: Settings.
        name: Name of the network.
        certified: The certified radii.
        found: The smallest radii that attacks found, of these images and more.
        conditions: Conditions of the attacks.

    Returns:
        "bracket": accuracy against radius, certified and attacked. "verified": both at the study's radius and at those of the
        literature, and how the certified radii compare with those found.
    """
    count, norm = len(certified.radius), study.norm
    attacked = np.where(np.isnan(found.radius), 0.0, found.radius)[:count]
    radii = sorted({study.ball(multiple).radius for multiple in study.evaluation.radii})
    below = tuple(float(certified.verified(radius).mean()) for radius in radii)
    above = tuple(float((attacked > radius).mean()) for radius in radii)
    said = {**conditions, "certificates": certified.proof, "images of the bracket": f"the first {count}"}
    curves = Curves(
        "Accuracy from both sides: attacked and certified",
        f"radius ({norm}, pixel units)",
        "share of images",
        tuple(radii),
        {name: Line(above), f"{name}, certified": Line(below)},
        caption="The true accuracy at each radius lies between two lines: at most the solid one, since attacks fooled the "
        "network on the other images, and at least the dotted one, which is proved.",
        conditions=said,
    )
    ball = study.ball().radius
    marks = {f"at {study.radius}": ball, **{f"at {k}/255": pixels(k) for k in LITERATURE.get(certified.norm, ())}}
    cells: list[Cell] = []
    headings = [NETWORK]
    for text, radius in marks.items():
        shares = (certified.verified(radius), attacked > radius)
        for word, meaning, right in zip(("verified", "attacked"), ("proved robust", "not fooled"), shares, strict=True):
            headings.append(
                Column(f"{word} {text}", f"Share of these images that are {meaning} at this radius.", ".1%")
            )
            share = proportion(int(right.sum()), count)
            cells.append((share.value, share.low, share.high))
    headings += [
        Column("certified radius", "Median and, in brackets, the 10 and 90 % quantiles over correct images."),
        Column("attacked radius", "The same of the smallest radius found, of images that were fooled."),
        Column("certified / attacked", "The same of their ratio; 1 would leave no gap.", ".1%"),
    ]
    right, fooled = attacked > 0, np.isfinite(attacked) & (attacked > 0)
    ratio = certified.radius[fooled] / attacked[fooled]
    for values in (certified.radius[right], attacked[fooled], ratio):
        cells.append(spread(values) if len(values) else None)
    table = Table("Verified accuracy", tuple(headings), ((name, *cells),), conditions=said)
    return {"bracket": curves, "verified": table}
