"""Bounds of a network's margins that hold in a ball around each image; see `bounds.LocalBounds`."""
