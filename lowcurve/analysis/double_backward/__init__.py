"""Layers whose input gradients are cheap to differentiate once more."""

from lowcurve.analysis.double_backward.convolutions import Geometry, input_gradient
from lowcurve.analysis.double_backward.mode import TwiceDifferentiable
from lowcurve.analysis.double_backward.normalization import channel_factor

__all__ = ["Geometry", "TwiceDifferentiable", "channel_factor", "input_gradient"]
