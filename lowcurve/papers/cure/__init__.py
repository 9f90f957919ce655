"""Reproduce Moosavi-Dezfooli et al. 2019, Robustness via curvature regularization, and vice versa (CURE)."""
