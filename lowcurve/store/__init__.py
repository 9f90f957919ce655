"""Run directories, checkpoints and weights on disk: the only module that writes files.

Every file is written under a temporary name and then moved to its place in one step. A reader therefore sees the old file
or the new one, never a part of one, even after a crash or on a full disk.
"""

from lowcurve.store.checkpoints import DiskCheckpoint
from lowcurve.store.files import replacing, write_bytes, writing
from lowcurve.store.ledgers import DiskLedger
from lowcurve.store.places import RECIPE, new_place
from lowcurve.store.pretrained import list_pretrained, load_pretrained
from lowcurve.store.run import EXAMPLES, LOG, NUMBERS, PAGE, SETTINGS, Run
from lowcurve.store.weight_files import read_state
from lowcurve.store.weights import load_weights, weights_digest

__all__ = [
    "EXAMPLES", "LOG", "NUMBERS", "PAGE", "RECIPE", "SETTINGS", "DiskCheckpoint", "DiskLedger", "Run",
    "list_pretrained", "load_pretrained", "load_weights", "new_place", "read_state", "replacing", "weights_digest",
    "write_bytes", "writing",
]  # fmt: skip
