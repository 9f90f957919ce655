"""Penalties: functions of a field and its derivatives at the training inputs, one number per example, never reduced."""

from lowcurve.penalties.base import Penalty
from lowcurve.penalties.cure import CURE
from lowcurve.penalties.distillation import Distillation
from lowcurve.penalties.input_gradient import InputGradientNorm
from lowcurve.penalties.lcnn import LCNNPenalty
from lowcurve.penalties.local_linearity import ELLE, LLR, AdaptiveWeight, GradAlign
from lowcurve.penalties.trades import TRADES

__all__ = [
    "CURE",
    "ELLE",
    "LLR",
    "TRADES",
    "AdaptiveWeight",
    "Distillation",
    "GradAlign",
    "InputGradientNorm",
    "LCNNPenalty",
    "Penalty",
]
