"""Layers whose input gradients are cheap to differentiate once more."""

from lowcurve.analysis.twice.mode import TwiceDifferentiable
from lowcurve.analysis.twice.normalization import channel_factor

__all__ = ["TwiceDifferentiable", "channel_factor"]
