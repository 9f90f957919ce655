"""The bracket's upper half: accuracy under `strong` and under AutoAttack, and smallest radii next to the best known."""

import importlib.util
import logging
import time
import warnings
from collections.abc import Mapping

import numpy as np
import torch
from bracket_cases import Case

from lowcurve import evaluation
from lowcurve.attacks import FULL, Effort, MinimalNorm, foreign, minimum_norm, strong
from lowcurve.types import AttackFunction

Row = dict[str, object]


def attacked(case: Case, *, effort: Effort = FULL, seed: int = 0, reference: bool = True) -> Row:
    """Attack with `strong` and with the standard version of pyautoattack, image by image, in CPU seconds of this process.

    Args:
        case: Network, images and ball.
        effort: Effort of `strong`.
        seed: Seed of both.
        reference: Run AutoAttack too.
    """
    start = time.process_time()
    suite = strong(case.norm, case.radius, effort=effort)
    ours = evaluation.attack(case.model, case.images, suite, seed=seed, progress=False)
    seconds = time.process_time() - start
    names, counts = np.unique(ours.fooled_by[~ours.robust], return_counts=True)
    row: Row = {
        "clean": int(case.correct.sum()),
        "strong": int(ours.robust.sum()),
        "strong seconds": seconds,
        "fooled by": dict(zip(names.tolist(), counts.tolist(), strict=True)),
    }
    if not reference:
        return row
    start = time.process_time()
    theirs = autoattack_robust(case, seed)
    seconds = time.process_time() - start
    return row | {
        "AutoAttack": int(theirs.sum()),
        "AutoAttack seconds": seconds,
        "only strong fools": int((theirs & ~ours.robust).sum()),
        "only AutoAttack fools": int((~theirs & ours.robust).sum()),
        "share of its time": float(row["strong seconds"]) / seconds,  # type: ignore[arg-type]
    }


def autoattack_robust(case: Case, seed: int = 0) -> np.ndarray:
    """Return for each image whether it withstands the standard version of pyautoattack."""
    from pyautoattack import AutoAttack

    logging.getLogger("pyautoattack").setLevel(logging.ERROR)
    norm = {"linf": "Linf", "l2": "L2", "l1": "L1"}[case.norm]
    reference = AutoAttack(case.model, norm=norm, eps=case.radius, version="standard", device="cpu", seed=seed)
    x, y = case.images.pixels(slice(None)), case.images.y
    found = reference.run_standard_evaluation(x, y, batch_size=250)
    found = found[0] if isinstance(found, tuple) else found
    with torch.no_grad():
        fooled = case.model(found.detach()).argmax(1) != y
    return np.asarray(case.correct & ~fooled)


def smallest(case: Case, *, seed: int = 0) -> Row:
    """Compare smallest radii: of `minimum_norm`, of one run of `MinimalNorm`, and of foolbox's FMN if it is installed.

    Args:
        case: Network, images and norm.
        seed: Seed of all.
    """
    attacks: dict[str, AttackFunction] = {"minimum norm": minimum_norm(case.norm), "one run": MinimalNorm(case.norm)}
    if importlib.util.find_spec("foolbox"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import foolbox
        kind = {"linf": "LInfFMNAttack", "l2": "L2FMNAttack", "l1": "L1FMNAttack"}[case.norm]
        attacks["FMN, 500 steps"] = foreign(getattr(foolbox.attacks, kind)(steps=500), case.norm)
    distances, seconds = {}, {}
    for name, attack in attacks.items():
        start = time.process_time()
        distances[name] = evaluation.smallest_radius(case.model, case.images, attack, seed=seed, progress=False).radius
        seconds[name] = time.process_time() - start
    return {name: row | {"seconds": seconds[name]} for name, row in optimality(distances).items()}


def optimality(distances: Mapping[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Return for each attack the share found, the mean distance over the best known, and AttackBench's optimality.

    Args:
        distances: Distance of each image by the attack's name; infinity where none was found. Images of distance 0 were
            misclassified without an attack and do not count. The best known distance is the smallest of all attacks.

    Returns:
        By the attack's name: "found", "mean over best" and "optimality", which is (M - mean min(d, M)) / (M - mean d*), with d*
        the best known distance and M the largest of them. The mean over the best counts a distance not found as M.

    Reference: Cina et al. 2025 (AttackBench), local optimality.
    """
    best = np.minimum.reduce(list(distances.values()))
    counted = (best > 0) & np.isfinite(best)
    rows: dict[str, dict[str, float]] = {}
    best = best[counted]
    for name, found in distances.items():
        own, largest = found[counted], float(best.max())
        clipped = np.minimum(own, largest)
        rows[name] = {
            "found": float(np.isfinite(own).mean()),
            "mean over best": float(np.where(np.isfinite(own), own, largest).mean() / best.mean()),
            "optimality": float((largest - clipped.mean()) / (largest - best.mean())),
        }
    return rows
