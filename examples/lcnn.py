"""Convert a network to an LCNN, train it, read its bounds, and fold it back to plain layers."""
