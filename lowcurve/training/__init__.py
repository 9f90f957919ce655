"""Training: objectives, hardware and the training loop."""

from lowcurve.training.fit import Checkpoint, History, Optimization, fit
from lowcurve.training.hardware import Hardware, make_fabric
from lowcurve.training.objective import Objective, Term, TermValue
from lowcurve.training.own_loops import regularized
from lowcurve.training.schedule import Schedule

__all__ = [
    "Checkpoint",
    "Hardware",
    "History",
    "Objective",
    "Optimization",
    "Schedule",
    "Term",
    "TermValue",
    "fit",
    "make_fabric",
    "regularized",
]
