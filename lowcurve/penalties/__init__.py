"""Penalties on a field at a point: (jet) -> one number per example, never reduced, attached to the parameters; or one number
for all where no example is looked at."""

from lowcurve.penalties.cure import CURE
from lowcurve.penalties.distillation import Distillation
from lowcurve.penalties.input_gradient import InputGradientNorm
from lowcurve.penalties.lcnn import LCNN
from lowcurve.penalties.local_linearity import ELLE, LLR, AdaptiveWeight, GradAlign
from lowcurve.penalties.trades import TRADES

__all__ = ["CURE", "ELLE", "Distillation", "GradAlign", "InputGradientNorm", "LCNN", "LLR", "AdaptiveWeight", "TRADES"]
