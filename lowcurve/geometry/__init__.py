"""The geometry of a field at a point: its curvature, what follows from it nearby, and the decision boundary."""

from lowcurve.geometry.boundary import (
    Boundary,
    NormalCurvatures,
    PrincipalCurvatures,
    boundary_between,
    boundary_distances,
    mean_hessian,
    normal_curvature,
    pairwise,
    tangents,
)
from lowcurve.geometry.bounds import (
    DecisionChange,
    DistanceBounds,
    RobustnessIndicator,
    decision_change_bound,
    distance_bounds,
)
from lowcurve.geometry.certificates import CertifiedRadius
from lowcurve.geometry.curvature import (
    Curvature,
    CurvatureParts,
    FrobeniusNorm,
    PowerIteration,
    Profile,
    SecantCurvature,
    SpectralDensity,
    gradient_norm,
)
from lowcurve.geometry.endpoints import (
    NOWHERE,
    Endpoints,
    Points,
    adversarial_adversarial,
    natural_adversarial,
    natural_natural,
    natural_noise,
    paired,
    partners,
)
from lowcurve.geometry.fragments import class_pieces, class_shares
from lowcurve.geometry.meshes import LoopFilling, Meshes
from lowcurve.geometry.parameters import filter_normalized, parameter_surface
from lowcurve.geometry.path_measures import Components, path_measures, principal_components, resampled, straight_line
from lowcurve.geometry.path_statistics import Interval, PairedTest, bootstrap_interval, paired_test
from lowcurve.geometry.paths import Paths, PathSearch
from lowcurve.geometry.persistence import Persistence, fragmentation, persistence
from lowcurve.geometry.regions import IntoRegion, inner_margin
from lowcurve.geometry.sections import CrossSection, cross_section, crossing_distance, heights
from lowcurve.geometry.slices import (
    Plane,
    Projection,
    box_excess,
    gradient_direction,
    random_directions,
    span,
    surface,
)
from lowcurve.geometry.stability import (
    GradientStability,
    LinearityError,
    discrepancy,
    gradient_change_bounds,
    linearity_error,
    linearity_error_bounds,
    value_change_bounds,
)

__all__ = [
    "Boundary", "boundary_between", "boundary_distances", "mean_hessian", "normal_curvature", "NormalCurvatures", "pairwise",
    "PrincipalCurvatures", "tangents",
    "CertifiedRadius",
    "decision_change_bound", "DecisionChange", "distance_bounds", "DistanceBounds", "RobustnessIndicator",
    "Curvature", "CurvatureParts", "FrobeniusNorm", "gradient_norm", "PowerIteration", "Profile", "SecantCurvature",
    "SpectralDensity",
    "discrepancy", "gradient_change_bounds", "GradientStability", "linearity_error", "linearity_error_bounds",
    "LinearityError", "value_change_bounds",
    "box_excess", "class_pieces", "class_shares", "cross_section", "crossing_distance", "CrossSection", "gradient_direction",
    "heights", "Plane", "Projection", "random_directions", "span", "surface",
    "filter_normalized", "parameter_surface",
    "adversarial_adversarial", "Endpoints", "natural_adversarial", "natural_natural", "natural_noise", "NOWHERE", "paired",
    "partners", "Points",
    "inner_margin", "IntoRegion", "Paths", "PathSearch",
    "Components", "path_measures", "principal_components", "resampled", "straight_line",
    "bootstrap_interval", "Interval", "paired_test", "PairedTest",
    "LoopFilling", "Meshes",
    "fragmentation", "Persistence", "persistence",
]  # fmt: skip
