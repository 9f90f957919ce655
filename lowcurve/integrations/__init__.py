"""Parts for other programs: training loops, metrics, trackers, model hubs and other libraries' attacks.

Each module fits one library and imports it on first use, so the package needs none of them.
"""
