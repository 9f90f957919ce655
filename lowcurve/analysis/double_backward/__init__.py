"""Layers whose input gradients are cheap to differentiate a second time."""

from lowcurve.analysis.double_backward.convolutions import ConvolutionGeometry, autocast_of, input_gradient
from lowcurve.analysis.double_backward.mode import TwiceDifferentiable
from lowcurve.analysis.double_backward.running_statistics import channel_factor

__all__ = ["ConvolutionGeometry", "TwiceDifferentiable", "autocast_of", "channel_factor", "input_gradient"]
