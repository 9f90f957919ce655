"""A function's own operations, recorded at a point and replayed on tangents: the fast way to its derivatives."""

from lowcurve.analysis.replay.recording import Recorder
from lowcurve.analysis.replay.rows import each
from lowcurve.analysis.replay.strips import strip
from lowcurve.analysis.replay.tangents import Line, Program, along

__all__ = ["Line", "Program", "Recorder", "along", "each", "strip"]
