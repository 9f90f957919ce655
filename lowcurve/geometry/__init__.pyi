# The public names. This list is the only one: `__init__.py` reads it.
# ruff: noqa: I001

# Curvature of a field at a point
from .curvature import (
    Curvature as Curvature,
    CurvatureParts as CurvatureParts,
    CurvatureProfile as CurvatureProfile,
    FrobeniusNorm as FrobeniusNorm,
    PowerIteration as PowerIteration,
    SecantCurvature as SecantCurvature,
    SpectralDensity as SpectralDensity,
    gradient_norm as gradient_norm,
    hessian_matrices as hessian_matrices,
)
from .alignment import (
    contrast_alignment as contrast_alignment,
    local_contrast as local_contrast,
)

# Bounds near a point, and certificates
from .bounds import (
    DecisionChange as DecisionChange,
    DistanceBounds as DistanceBounds,
    RobustnessIndicator as RobustnessIndicator,
    decision_change_bound as decision_change_bound,
    distance_bounds as distance_bounds,
)
from .stability import (
    GradientStability as GradientStability,
    LinearityError as LinearityError,
    discrepancy as discrepancy,
    gradient_change_bounds as gradient_change_bounds,
    linearity_error as linearity_error,
    linearity_error_bounds as linearity_error_bounds,
    value_change_bounds as value_change_bounds,
)
from .certificates import (
    CertifiedRadius as CertifiedRadius,
)
from .local_certificates import (
    LocalCertificate as LocalCertificate,
)
from .quadratics import (
    quadratic_distance as quadratic_distance,
)

# The decision boundary
from .boundary import (
    BoundaryPoint as BoundaryPoint,
    LogitDifference as LogitDifference,
    boundary_distances as boundary_distances,
    find_boundary_point as find_boundary_point,
    logit_difference as logit_difference,
)
from .level_sets import (
    NormalCurvatures as NormalCurvatures,
    PrincipalCurvatures as PrincipalCurvatures,
    TangentSpace as TangentSpace,
    mean_hessian as mean_hessian,
    normal_curvature as normal_curvature,
    tangent_space as tangent_space,
)
from .sections import (
    CrossSection as CrossSection,
    boundary_heights as boundary_heights,
    cross_section as cross_section,
    crossing_distance as crossing_distance,
)

# Planes through input space and through parameter space
from .planes import (
    Plane as Plane,
    PlaneProjection as PlaneProjection,
    span as span,
)
from .slices import (
    box_excess as box_excess,
    gradient_direction as gradient_direction,
    random_directions as random_directions,
    surface as surface,
)
from .parameters import (
    filter_normalized_direction as filter_normalized_direction,
    parameter_surface as parameter_surface,
)
from .fragments import (
    class_components as class_components,
    class_shares as class_shares,
)
from .persistence import (
    Persistence as Persistence,
    cubical_persistence as cubical_persistence,
    fragmentation as fragmentation,
)

# Paths and loops within the region of a class
from .regions import (
    RegionProjection as RegionProjection,
    inner_margin as inner_margin,
)
from .endpoints import (
    NO_SOURCE as NO_SOURCE,
    Endpoints as Endpoints,
    LabeledPoints as LabeledPoints,
    adversarial_pairs as adversarial_pairs,
    match_endpoints as match_endpoints,
    natural_adversarial_pairs as natural_adversarial_pairs,
    natural_noise_pairs as natural_noise_pairs,
    natural_pairs as natural_pairs,
    pair_points as pair_points,
)
from .paths import (
    Paths as Paths,
    PathSearch as PathSearch,
)
from .path_measures import (
    PrincipalComponents as PrincipalComponents,
    path_measures as path_measures,
    principal_components as principal_components,
    resample as resample,
    straight_line_measures as straight_line_measures,
)
from .path_statistics import (
    Interval as Interval,
    PairedTest as PairedTest,
    bootstrap_interval as bootstrap_interval,
    paired_test as paired_test,
)
from .meshes import (
    LoopFilling as LoopFilling,
    Meshes as Meshes,
)
