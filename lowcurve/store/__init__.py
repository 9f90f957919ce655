"""The only room that writes, and the one that reads weights.

Every file is written beside its place and then moved there in one step, so a reader, a kill or a full disk finds the
old file or the new one, never half of one.
"""

from lowcurve.store.checkpoints import DiskCheckpoint
from lowcurve.store.files import replacing, write_bytes, writing
from lowcurve.store.run import LOG, NUMBERS, PAGE, SETTINGS, Run, new_place
from lowcurve.store.weights import load_weights, read_state

__all__ = [
    "LOG", "NUMBERS", "PAGE", "SETTINGS", "DiskCheckpoint", "Run",
    "load_weights", "new_place", "read_state", "replacing", "write_bytes", "writing",
]  # fmt: skip
