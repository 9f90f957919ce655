"""Named architectures, their layers, conversion to low curvature, and operator norms of layers."""

from lowcurve.models.architectures import ARCHITECTURES, Network
from lowcurve.models.conversion import (
    ConvertedNetwork,
    LCNNConversion,
    LipschitzConversion,
    SmoothConversion,
    Source,
    convert,
    fold,
    inspect_layers,
    load_original,
)
from lowcurve.models.factories import Factory
from lowcurve.models.gram import norm_bound
from lowcurve.models.layers import NONLINEARITIES, CenteredSoftplus, Normalize, nonlinearity
from lowcurve.models.lipschitz import prepare_norms, update_norms
from lowcurve.models.spectral import Interval, norm_interval
from lowcurve.models.summary import summary
from lowcurve.models.wrapping import WrappedNetwork, transform_of, wrap

__all__ = [
    "ARCHITECTURES",
    "CenteredSoftplus",
    "ConvertedNetwork",
    "Factory",
    "Interval",
    "LCNNConversion",
    "LipschitzConversion",
    "SmoothConversion",
    "NONLINEARITIES",
    "Network",
    "Source",
    "Normalize",
    "WrappedNetwork",
    "convert",
    "fold",
    "inspect_layers",
    "load_original",
    "nonlinearity",
    "norm_bound",
    "norm_interval",
    "prepare_norms",
    "summary",
    "transform_of",
    "update_norms",
    "wrap",
]
