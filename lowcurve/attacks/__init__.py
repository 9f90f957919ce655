"""Adversarial attacks, one file a family: (model, x, y) -> x' in a ball or a family; success is measured in `evaluation`."""

from lowcurve.attacks.apgd import APGD
from lowcurve.attacks.autoattack import AutoAttack
from lowcurve.attacks.base import Attack, BallAttack
from lowcurve.attacks.color.box import ColorBox, ColorRanges, color_change
from lowcurve.attacks.color.changes import ParameterDerivatives, derivatives_along
from lowcurve.attacks.color.hue import HueCircle, HueShift, hue_logits, hue_shift
from lowcurve.attacks.color.hue_measures import HueFloor, PepperTest
from lowcurve.attacks.color.recoloring import Recoloring
from lowcurve.attacks.color.spaces import color_difference, lab
from lowcurve.attacks.corruptions import CORRUPTIONS, corrupt
from lowcurve.attacks.deepfool import DeepFool, RunnerUp
from lowcurve.attacks.foreign_attacks import ForeignAttack, foreign
from lowcurve.attacks.minimal import MinimalNorm
from lowcurve.attacks.minimal_within import MinimalNormWithin
from lowcurve.attacks.noise import Noise
from lowcurve.attacks.one_step import NFGSM, RSFGSM, OneStep
from lowcurve.attacks.pgd import BIM, FGSM, PGD
from lowcurve.attacks.relay import Relay
from lowcurve.attacks.selective import NearlyFooled
from lowcurve.attacks.sora import SORA
from lowcurve.attacks.spsa import SPSA
from lowcurve.attacks.square import Square
from lowcurve.attacks.suites import (
    FULL,
    SUITES,
    Effort,
    Suite,
    minimum_norm,
    moosavi2019cure,
    srinivas2022lcnn,
    strong,
    yu2018,
)
from lowcurve.attacks.within import Within

__all__ = [
    "Attack", "BallAttack", "foreign", "ForeignAttack",
    "AutoAttack", "APGD", "BIM", "DeepFool", "FGSM", "MinimalNorm", "MinimalNormWithin", "NearlyFooled", "NFGSM", "Noise",
    "OneStep", "PGD", "Relay", "RSFGSM",
    "RunnerUp", "SORA", "SPSA", "Square", "Within",
    "Effort", "FULL", "minimum_norm", "moosavi2019cure", "srinivas2022lcnn", "strong", "Suite", "SUITES", "yu2018",
    "color_change", "color_difference", "ColorBox", "ColorRanges", "derivatives_along",
    "hue_logits", "hue_shift", "HueCircle",
    "HueFloor", "HueShift", "lab", "ParameterDerivatives", "PepperTest", "Recoloring",
    "corrupt", "CORRUPTIONS",
]  # fmt: skip
