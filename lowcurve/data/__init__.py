"""Labeled examples: sources, conversion of a user's data, and batches."""

from lowcurve.data.batches import Augmentation, augment, ordered_batches, shuffled_batches, steps_per_epoch
from lowcurve.data.coercion import as_examples, as_source
from lowcurve.data.corrupted import load_corrupted
from lowcurve.data.examples import DataSet, Examples, Origin
from lowcurve.data.pictures import Resized
from lowcurve.data.sources import NAMES, Limits, files_digest, image_folder, load
from lowcurve.data.streams import Stream
from lowcurve.data.toys import colored_digits, digits, two_moons

__all__ = [
    "load",
    "as_examples",
    "as_source",
    "image_folder",
    "load_corrupted",
    "files_digest",
    "Limits",
    "NAMES",
    "DataSet",
    "Examples",
    "Origin",
    "Resized",
    "Stream",
    "colored_digits",
    "digits",
    "two_moons",
    "ordered_batches",
    "shuffled_batches",
    "steps_per_epoch",
    "Augmentation",
    "augment",
]
