# The public names, in the order in which one learns them. This list is the only one: `__init__.py` reads it.
# ruff: noqa: I001

# Data
from .data import Examples as Examples, image_folder as image_folder, load as load

# Networks, and what can be done to yours
from .models import (
    Network as Network,
    Normalize as Normalize,
    convert as convert,
    fold as fold,
    inspect_layers as inspect_layers,
    transform_of as transform_of,
    wrap as wrap,
)

from .store import load_pretrained as load_pretrained

# Evaluation: numbers per image, accuracy, robust accuracy, and whether to believe it
from .evaluation import (
    accuracy as accuracy,
    attack as attack,
    certify as certify,
    measure as measure,
    smallest_radius as smallest_radius,
)
from .evaluation.audit import audit as audit

# What to measure, and what to attack with
from .analysis.norms import Ball as Ball
from .attacks import PGD as PGD, strong as strong
from .geometry import Curvature as Curvature

# Networks of RobustBench's leaderboard
from .integrations.leaderboard import robustbench as robustbench

# Training
from .penalties import CURE as CURE, InputGradientNorm as InputGradientNorm
from .training import (
    Objective as Objective,
    Optimization as Optimization,
    Term as Term,
    fit as fit,
    regularized as regularized,
)

# The loss as a function of the input, and its derivatives
from .losses import loss_field as loss_field
from .analysis.hessians import hessian as hessian

# Statistics of the results
from .results import proportion as proportion, summarize as summarize

# The error of every wrong argument
from .errors import InputError as InputError

# Everything else, as lc.attacks.X and so on
from . import (
    analysis as analysis,
    attacks as attacks,
    data as data,
    evaluation as evaluation,
    geometry as geometry,
    integrations as integrations,
    losses as losses,
    models as models,
    penalties as penalties,
    results as results,
    training as training,
)
