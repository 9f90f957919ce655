"""The bracket's lower half: verified accuracy, certified over attacked radius by order, local and global, and their cost."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from bracket_cases import Case

import lowcurve as lc
from lowcurve import evaluation
from lowcurve.analysis.norms import L1, L2, LINF
from lowcurve.data import Examples
from lowcurve.errors import NotAvailable
from lowcurve.geometry import LocalCertificate
from lowcurve.models.local.bounds import LocalBounds
from lowcurve.study.certified_results import global_radii

Row = dict[str, object]
NORMS = {"linf": LINF, "l2": L2, "l1": L1}
SMALL = {"linf": 2 / 255, "l2": 36 / 255, "l1": 1.0}
"""A small radius of each norm, at which certified accuracies are told beside the one at the row's radius."""
WORK, STEPS, FEWEST = 2e11, 5, 5
"""Multiplications for each search of a row, the number of its steps, and the fewest images that are certified."""


def certified(case: Case) -> Row:
    """Certify the first images, and compare the radii with the smallest that a minimum-norm attack finds.

    Each order searches alone. Costs are CPU seconds of an image and its whole search, over those of a forward pass of an image
    in a batch.

    Args:
        case: Network, images and ball.
    """
    norm, radii = NORMS[case.norm], (case.radius, SMALL[case.norm])
    try:
        bounds = LocalBounds(case.model, case.images.pixels(slice(0, 1)))
    except NotAvailable as error:
        return {"verified": None, "not certified": str(error)}
    count = int(min(len(case.images), WORK / (bounds.work_in(norm) * (STEPS + 1))))
    row: Row = {"multiplications": bounds.work}
    everywhere = _timed(lambda: global_radii(case.model, case.images, norm, progress=False))
    if count < FEWEST:
        row |= {"verified": None, "not certified": "its local bounds cost too much"}
    images = case.images.take(slice(count if count >= FEWEST else len(case.images)))
    correct = case.correct[: len(images)].numpy()
    pass_seconds = _timed(lambda: evaluation.correct(case.model, case.images))[1] / len(case.images)
    attacked = np.where(correct, _smallest(case, images), 0.0)
    row |= {"certified images": len(images)}
    if everywhere[0] is not None:
        row |= _of_radius(
            "global", everywhere[0][: len(images)], attacked, everywhere[1] / len(case.images), pass_seconds
        )
    if count < FEWEST:
        return row
    best = np.zeros(len(images)) if everywhere[0] is None else everywhere[0][: len(images)]
    orders = ("zero", "first", "second") if bounds.is_smooth else ("zero", "first")
    for order in orders:
        measure = LocalCertificate(bounds, norm, radii, STEPS, (order,))
        found, seconds = _timed(lambda m=measure: lc.measure(case.model, images, m, progress=False)["certified radius"])
        row |= _of_radius(f"{order} order", found, attacked, seconds / len(images), pass_seconds)
        best = np.maximum(best, found)
    row |= {
        "verified": float((best >= case.radius * (1 - 1e-6)).mean()),
        "verified, small radius": float(((best > 0) & (best >= SMALL[case.norm] * (1 - 1e-6))).mean()),
        "not fooled": float((attacked > case.radius).mean()),
        "violations": int((best > attacked + 1e-6).sum()),
    }
    return row | _of_radius("best", best, attacked, None, pass_seconds)


def _smallest(case: Case, images: Examples) -> np.ndarray:
    """Return the smallest radius found for each image, infinite where nothing fools the network."""
    return lc.smallest_radius(case.model, images, case.norm, seed=0, progress=False).radius


def _of_radius(name: str, found: np.ndarray, attacked: np.ndarray, seconds: float | None, pass_seconds: float) -> Row:
    both = (attacked > 0) & np.isfinite(attacked)
    shares = found[both] / attacked[both]
    row: Row = {
        f"{name}, median radius": float(np.median(found[attacked > 0])) if (attacked > 0).any() else None,
        f"{name}, median share of attacked": float(np.median(shares)) if both.any() else None,
    }
    return row if seconds is None else row | {f"{name}, forward passes": seconds / pass_seconds}


def _timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return function(), time.process_time() - start
