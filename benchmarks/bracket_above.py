"""The bracket's upper half: accuracy under `strong` and under AutoAttack, and smallest radii next to the best known."""

import importlib.util
import logging
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from bracket_cases import Case

from lowcurve import evaluation
from lowcurve.analysis.norms import as_norm
from lowcurve.attacks import FULL, Effort, MinimalNorm, foreign, minimum_norm, strong
from lowcurve.results import Column, Table
from lowcurve.types import AttackFunction

Row = dict[str, object]
PIECE = 50
"""Images that each of the two attacks tries before the other's turn, so that both meet the same load of the machine."""


def attacked(case: Case, *, effort: Effort = FULL, seed: int = 0) -> Row:
    """Attack with `strong` and with the standard version of pyautoattack in turn, fifty images at a time, in one process.

    Args:
        case: Network, images and ball.
        effort: Effort of `strong`.
        seed: Seed of both.

    Returns:
        Images that are left of those tried, CPU seconds, forward passes (a gradient counts as three), how many images each
        member of `strong` fooled, and the numbers of the images in the test set that fell to one of the two only.
    """
    suite, seconds, passes = strong(case.norm, case.radius, effort=effort), [0.0, 0.0], [0, 0]
    counting = case.model.register_forward_pre_hook(lambda _, inputs: add(inputs[0]))
    turn = 0

    def add(x: torch.Tensor) -> None:
        passes[turn] += len(x) * (3 if x.requires_grad and torch.is_grad_enabled() else 1)

    ours, theirs, members = [], [], [""]
    for first in range(0, len(case.images), PIECE):
        piece = replace(case, images=case.images.take(slice(first, first + PIECE)))
        turn, start = 0, time.process_time()
        found = evaluation.attack(case.model, piece.images, suite, seed=seed, progress=False)
        turn, middle = 1, time.process_time()
        theirs.append(autoattack_robust(piece, seed))
        seconds = [seconds[0] + middle - start, seconds[1] + time.process_time() - middle]
        ours.append(found.robust)
        members += found.fooled_by.tolist()
    counting.remove()
    left, reference = np.concatenate(ours), np.concatenate(theirs)
    return {
        "clean": int(case.correct.sum()),
        "strong": int(left.sum()),
        "AutoAttack": int(reference.sum()),
        "strong seconds": seconds[0],
        "AutoAttack seconds": seconds[1],
        "share of its time": seconds[0] / seconds[1],
        "strong passes": passes[0],
        "AutoAttack passes": passes[1],
        "share of its passes": passes[0] / passes[1],
        "fell to AutoAttack only": np.flatnonzero(left & ~reference).tolist(),
        "fell to strong only": np.flatnonzero(reference & ~left).tolist(),
        "fooled by": {name: members.count(name) for name, _ in suite.members},
    }


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return the comparison with AutoAttack as a table."""
    names = ("images", "clean", "strong", "AutoAttack", "fell to strong only", "fell to AutoAttack only")
    cells = []
    for row in rows:
        counts = [len(row[name]) if isinstance(row[name], list) else row[name] for name in names]
        exact = f"{row['radius']:g}"
        written = exact if float(exact) == row["radius"] else f"{row['radius'] * 255:g}/255"
        ball = f"{as_norm(row['norm']).name}, {written}"
        cells.append((row["network"], ball, *counts, row["share of its time"], row.get("share of its passes")))
    heads = ("images", "correct", "left by strong", "left by AutoAttack", "only strong fools", "only AutoAttack fools")
    columns = (
        Column("network"), Column("ball"), *(Column(head, form="d") for head in heads),
        Column("share of CPU time", form=".0%"), Column("share of passes", form=".0%"),
    )  # fmt: skip
    return Table("strong next to AutoAttack", columns, tuple(cells))


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
