"""Training: objectives, hardware and the training loop."""

from lowcurve.training.fit import Checkpoint, History, Optimization, fit
from lowcurve.training.hardware import Hardware, make_fabric
from lowcurve.training.objective import Objective
from lowcurve.training.own_loops import regularized
from lowcurve.training.schedule import Schedule
from lowcurve.training.terms import Term, TermValue

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
