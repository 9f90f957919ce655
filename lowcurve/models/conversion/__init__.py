"""Surgery on any network: what it is made of (`inspect_layers`), one of low curvature from it (`convert`), and plain layers
again for inference (`fold`), or for a while (`norms_folded`)."""

from lowcurve.models.conversion.batchnorm_folding import norms_folded
from lowcurve.models.conversion.converted import Converted, Source, read, written
from lowcurve.models.conversion.converting import Conversion, convert, load_original
from lowcurve.models.conversion.folding import Folding, fold
from lowcurve.models.conversion.inspecting import Inspection, inspect_layers
from lowcurve.models.conversion.recipes import LCNN, Lipschitz, Minimal

__all__ = [
    "LCNN", "Conversion", "Converted", "Folding", "Inspection", "Lipschitz", "Minimal", "Source",
    "convert", "fold", "inspect_layers", "load_original", "norms_folded", "read", "written",
]  # fmt: skip
