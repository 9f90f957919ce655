"""Longer gradient attacks (tests 8, 9 and 14) try the nearest images first, and all others once one of these falls."""

from collections.abc import Callable

import numpy as np

from lowcurve.evaluation.audit.state import AuditState

FIRST = 20
"""Robust images that are tried first, those of highest loss under PGD. Where a tenth of them would fall to a longer attack, one
does with 88 percent probability."""


def nearest_first(state: AuditState, search: Callable[[str, np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Try an attack on the nearest robust images, and on the others if it fools one of these. A thorough audit tries all.

    Args:
        state: The state of the audit.
        search: Attacks images. It takes an ending for the attack's name and the images' indices, and returns which of all
            correct images it fooled.

    Returns:
        Which correct images were fooled, and the indices of those that were tried.
    """
    rows = state.still_robust()
    nearest = np.sort(rows[np.argsort(-state.best_value[rows], kind="stable")][:FIRST])
    if state.budget.everything or len(rows) <= FIRST:
        return search("", rows), rows
    fooled = search("", nearest)
    if not fooled.any():
        return fooled, nearest
    return fooled | search(", others", np.setdiff1d(rows, nearest)), rows


def told(state: AuditState, rows: np.ndarray) -> str:
    """Return in words how many images gradient attacks leave robust, and how many of these were tried.

    Args:
        state: The state of the audit.
        rows: Indices of the images that were tried.
    """
    robust = len(np.union1d(state.still_robust(), rows))
    left = f"gradient attacks leave {robust} of {len(state.queried)} images robust"
    return left if len(rows) == robust else f"{left}; of these the {len(rows)} of highest loss under PGD are tried"
