"""Inspect the layers of any network, convert it to low curvature, and fold it into plain layers for inference."""

from lowcurve.models.conversion.batchnorm_folding import fold_batchnorm
from lowcurve.models.conversion.conversions import Conversion, LCNNConversion, LipschitzConversion, SmoothConversion
from lowcurve.models.conversion.converting import ConversionReport, convert, load_original
from lowcurve.models.conversion.folding import FoldingReport, fold
from lowcurve.models.conversion.inspecting import Inspection, inspect_layers
from lowcurve.models.conversion.sources import ConvertedNetwork, Source, source_from_dict, source_to_dict

__all__ = [
    "Conversion", "ConversionReport", "ConvertedNetwork", "FoldingReport", "Inspection", "LCNNConversion",
    "LipschitzConversion", "SmoothConversion", "Source",
    "convert", "fold", "fold_batchnorm", "inspect_layers", "load_original", "source_from_dict", "source_to_dict",
]  # fmt: skip
