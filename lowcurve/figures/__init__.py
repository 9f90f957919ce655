"""Compute what `lowcurve draw` shows: networks at the same images, as numbers and as pictures."""
