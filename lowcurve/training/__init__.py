"""Training: objectives (what is minimized), hardware (where) and the loop (how)."""

from lowcurve.training.fit import Checkpoint, History, Optimization, fit
from lowcurve.training.hardware import Hardware, fabric
from lowcurve.training.objective import Objective, Part, Term
from lowcurve.training.schedule import Schedule

__all__ = [
    "Checkpoint",
    "Hardware",
    "History",
    "Objective",
    "Optimization",
    "Part",
    "Schedule",
    "Term",
    "fabric",
    "fit",
]
