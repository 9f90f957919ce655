"""lowcurve: image classifiers of low curvature in input space, measured, trained, verified and shown.

The public names, in the order in which one learns them. Each is imported on first use, so that `import lowcurve` and the
command line's help come at once.

Example:
    >>> import lowcurve as lc
    >>> data = lc.load("digits")
    >>> model = lc.Network("small-convnet", data.shape, 10, *data.statistics(), width=4).build(seed=0).eval()
    >>> columns = lc.measure(model, data.test.take(slice(8)), {"curvature": lc.Curvature()})
    >>> columns["normalized curvature"].shape
    (8,)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowcurve.analysis.hessians import hessian, ways_taken
    from lowcurve.analysis.norms import L1, L2, LINF, Ball, Norm, pixels
    from lowcurve.analysis.secants import secant_hessian
    from lowcurve.analysis.spectra import lanczos
    from lowcurve.attacks import APGD, BIM, FGSM, NFGSM, PGD, RSFGSM, Square, Suite, strong
    from lowcurve.data import Augmentation, DataSet, Examples, Limits, load
    from lowcurve.errors import InputError
    from lowcurve.evaluation import adversarial_loss, attack, correct, measure, smallest_radius, transfer
    from lowcurve.evaluation.audit import audit
    from lowcurve.geometry import (
        Curvature,
        CurvatureParts,
        DistanceBounds,
        FrobeniusNorm,
        GradientStability,
        LinearityError,
        NormalCurvatures,
        Profile,
        RobustnessIndicator,
        SecantCurvature,
        SpectralDensity,
        gradient_norm,
    )
    from lowcurve.losses import TemperatureCrossEntropy, cross_entropy, loss_field, margin, margin_loss, true_logit
    from lowcurve.memory import keep_freed_memory
    from lowcurve.models import (
        LCNN,
        Lipschitz,
        Minimal,
        Network,
        Standardize,
        convert,
        fold,
        inspect_layers,
        load_original,
    )
    from lowcurve.penalties import CURE, ELLE, LLR, TRADES, AdaptiveWeight, Distillation, GradAlign, InputGradientNorm
    from lowcurve.results import describe, proportion, summarize
    from lowcurve.training.fit import Optimization, fit
    from lowcurve.training.hardware import Hardware, fabric
    from lowcurve.training.objective import Objective, Term
    from lowcurve.training.schedule import Schedule

HOMES = {
    "data": ("load", "Limits", "DataSet", "Examples", "Augmentation"),
    "models": (
        "Network",
        "Standardize",
        "inspect_layers",
        "convert",
        "load_original",
        "fold",
        "Minimal",
        "LCNN",
        "Lipschitz",
    ),
    "losses": ("loss_field", "cross_entropy", "margin", "margin_loss", "true_logit", "TemperatureCrossEntropy"),
    "geometry": (
        "gradient_norm",
        "Curvature",
        "CurvatureParts",
        "SecantCurvature",
        "FrobeniusNorm",
        "Profile",
        "SpectralDensity",
        "DistanceBounds",
        "RobustnessIndicator",
        "GradientStability",
        "LinearityError",
        "NormalCurvatures",
    ),
    "analysis.hessians": ("hessian", "ways_taken"),
    "analysis.secants": ("secant_hessian",),
    "analysis.spectra": ("lanczos",),
    "analysis.norms": ("Ball", "Norm", "L1", "L2", "LINF", "pixels"),
    "attacks": ("strong", "Suite", "PGD", "FGSM", "BIM", "APGD", "Square", "RSFGSM", "NFGSM"),
    "evaluation": ("measure", "correct", "attack", "smallest_radius", "transfer", "adversarial_loss"),
    "evaluation.audit": ("audit",),
    "penalties": ("CURE", "InputGradientNorm", "LLR", "GradAlign", "ELLE", "AdaptiveWeight", "TRADES", "Distillation"),
    "training": ("Objective", "Term", "Schedule", "Optimization", "fit", "Hardware", "fabric"),
    "results": ("summarize", "proportion", "describe"),
    "memory": ("keep_freed_memory",),
    "errors": ("InputError",),
}

__all__ = [
    "load", "Limits", "DataSet", "Examples", "Augmentation",
    "Network", "Standardize", "inspect_layers", "convert", "load_original", "fold", "Minimal", "LCNN", "Lipschitz",
    "loss_field", "cross_entropy", "margin", "margin_loss", "true_logit", "TemperatureCrossEntropy",
    "gradient_norm", "Curvature", "CurvatureParts", "SecantCurvature", "FrobeniusNorm", "Profile", "SpectralDensity",
    "DistanceBounds", "RobustnessIndicator", "GradientStability", "LinearityError", "NormalCurvatures",
    "hessian", "ways_taken", "secant_hessian", "lanczos",
    "Ball", "Norm", "L1", "L2", "LINF", "pixels",
    "strong", "Suite", "PGD", "FGSM", "BIM", "APGD", "Square", "RSFGSM", "NFGSM",
    "measure", "correct", "attack", "smallest_radius", "transfer", "adversarial_loss", "audit",
    "CURE", "InputGradientNorm", "LLR", "GradAlign", "ELLE", "AdaptiveWeight", "TRADES", "Distillation",
    "Objective", "Term", "Schedule", "Optimization", "fit", "Hardware", "fabric",
    "summarize", "proportion", "describe",
    "keep_freed_memory", "InputError",
]  # fmt: skip


def __getattr__(name: str) -> object:
    for home, names in HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"lowcurve.{home}"), name)
    raise AttributeError(f"module 'lowcurve' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
