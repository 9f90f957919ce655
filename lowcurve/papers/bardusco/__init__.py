"""Reproduce Bardusco's report, Robustness and Curvature in Deep Learning."""
