"""Record a function's own operations at a point and replay them on tangents: the fast way to its derivatives."""

from lowcurve.analysis.replay.recording import ProgramRecorder
from lowcurve.analysis.replay.stacking import unstack
from lowcurve.analysis.replay.tangents import Program, push_tangents

__all__ = ["Program", "ProgramRecorder", "push_tangents", "unstack"]
