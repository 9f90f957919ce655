"""The geometry of a field: what its curvature is at a point."""

from lowcurve.geometry.curvature import Curvature, FrobeniusNorm, Profile, SecantCurvature, gradient_norm

__all__ = ["Curvature", "FrobeniusNorm", "Profile", "SecantCurvature", "gradient_norm"]
