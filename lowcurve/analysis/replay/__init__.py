"""A function's own operations, recorded at a point and replayed on tangents: the fast way to its derivatives."""

from lowcurve.analysis.replay.recording import Recorder
from lowcurve.analysis.replay.tangents import Program, each

__all__ = ["Program", "Recorder", "each"]
