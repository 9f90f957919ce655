"""Reproduce Srinivas et al. 2022, Efficient Training of Low-Curvature Neural Networks (LCNN)."""
