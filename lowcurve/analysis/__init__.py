"""Functions on input space: norms and balls, derivatives, spectra, ascent. Knows no model, no label and no paper."""
