"""Labeled examples: where they come from and the order in which they are seen."""

from lowcurve.data.batches import (
    Augmentation,
    DataSet,
    Examples,
    augment,
    in_order,
    shuffled,
    steps_per_epoch,
)
from lowcurve.data.coercion import as_examples
from lowcurve.data.corrupted import corrupted
from lowcurve.data.sources import NAMES, Limits, load
from lowcurve.data.toys import colored_digits, digits, two_moons

__all__ = [
    "load",
    "as_examples",
    "corrupted",
    "Limits",
    "NAMES",
    "DataSet",
    "Examples",
    "colored_digits",
    "digits",
    "two_moons",
    "in_order",
    "shuffled",
    "steps_per_epoch",
    "Augmentation",
    "augment",
]
