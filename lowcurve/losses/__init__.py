"""Losses with one number per example, and `loss_field`, which turns a network into a function of its input."""

from lowcurve.losses.fields import LossField, loss_field, require_eval, require_loss_field
from lowcurve.losses.functions import (
    TemperatureCrossEntropy,
    cross_entropy,
    least_likely,
    log_odds,
    margin,
    margin_loss,
    require_class_numbers,
    require_temperature,
    true_logit,
)
from lowcurve.losses.reduction import evaluate_loss

__all__ = [
    "LossField",
    "TemperatureCrossEntropy",
    "cross_entropy",
    "evaluate_loss",
    "least_likely",
    "log_odds",
    "loss_field",
    "margin",
    "margin_loss",
    "require_class_numbers",
    "require_eval",
    "require_loss_field",
    "require_temperature",
    "true_logit",
]
