"""Reproduce Yu et al. 2018, Interpreting Adversarial Robustness: A View from Decision Surface in Input Space."""
