"""Experiments: members of the house put together, and what the numbers become."""
