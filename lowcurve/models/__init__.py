"""Networks: architectures by name, and the layers they are made of."""

from lowcurve.models.architectures import ARCHITECTURES, Network
from lowcurve.models.factories import Factory
from lowcurve.models.layers import NONLINEARITIES, Standardize, nonlinearity

__all__ = ["ARCHITECTURES", "Factory", "NONLINEARITIES", "Network", "Standardize", "nonlinearity"]
