"""Compare training methods on one data set: settings, presets, methods, the steps, and what a report shows of them."""
