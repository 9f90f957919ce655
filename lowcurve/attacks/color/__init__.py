"""Attack by changes of color: hue, saturation, brightness, contrast, gamma, and smooth recoloring."""
