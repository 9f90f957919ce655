"""Layers whose input gradients are cheap to differentiate once more."""

from lowcurve.analysis.twice.convolutions import Geometry, input_gradient
from lowcurve.analysis.twice.mode import TwiceDifferentiable
from lowcurve.analysis.twice.normalization import channel_factor

__all__ = ["Geometry", "TwiceDifferentiable", "channel_factor", "input_gradient"]
