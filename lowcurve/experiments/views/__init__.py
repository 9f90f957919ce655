"""Networks side by side at the same images: slices of input space, gradients, paths, colors, as numbers and as pictures."""
