"""CIFAR-10-C from the .npy files of its archive."""

from pathlib import Path

import numpy as np
import torch

from lowcurve.data.examples import Examples
from lowcurve.errors import InputError

SEVERITIES = 5
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
"""The classes of CIFAR-10, in the order of its labels."""


def load_corrupted(
    folder: str | Path, kind: str, severity: int, *, classes: tuple[str, ...] = CLASSES, labels: str = "labels.npy"
) -> Examples:
    """Return test images under one corruption at one severity, from <folder>/<kind>.npy and <folder>/labels.npy.

    The official files hold 50,000 images of 32 x 32 x 3 bytes and as many labels, a fifth for each severity. Files of other
    sizes are read in the same way. Only the requested severity is loaded; no network access, no pickle.

    Args:
        folder: Folder of the unpacked archive.
        kind: Name of the file, as "gaussian_noise" or "gaussian noise".
        severity: From 1 to 5.
        classes: Names of the classes. CIFAR-100-C needs its own.
        labels: Name of the file of labels.

    Raises:
        InputError: If the severity is out of range, or a file is missing or of another form.

    Example:
        >>> load_corrupted("CIFAR-10-C", "fog", 6)
        Traceback (most recent call last):
            ...
        lowcurve.errors.InputError: Expected a severity from 1 to 5, got 6. Write severity=3.

    Reference: Hendrycks and Dietterich 2019, section 3 (CIFAR-10-C).
    """
    if severity not in range(1, SEVERITIES + 1):
        raise InputError("a severity from 1 to 5", severity, "write severity=3")
    folder = Path(folder).expanduser()
    x, y = _array(folder, f"{kind.strip().replace(' ', '_')}.npy"), _array(folder, labels)
    if x.dtype != np.uint8 or x.ndim != 4 or x.shape[3] != 3 or not len(x) or len(x) % SEVERITIES:
        found = f"{x.dtype} of shape {x.shape} in {kind}"
        raise InputError("bytes of shape (5 n, height, width, 3)", found, "take the file from the archive as it is")
    if y.shape != (len(x),) or y.dtype.kind not in "iu":
        found = f"{y.dtype} of shape {y.shape}"
        raise InputError(f"{len(x)} whole numbers as labels", found, "take labels.npy from the same archive")
    count = len(x) // SEVERITIES
    rows = slice((severity - 1) * count, severity * count)
    images = torch.from_numpy(np.ascontiguousarray(x[rows].transpose(0, 3, 1, 2)))
    return Examples(images, torch.from_numpy(y[rows].astype(np.int64)), classes)


def _array(folder: Path, name: str) -> np.ndarray:
    path = folder / name
    if not path.is_file():
        there = ", ".join(sorted(file.stem for file in folder.glob("*.npy"))) or "no .npy file"
        raise InputError(f"a file {name} in {folder}", there, "unpack the archive of CIFAR-10-C there")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
    except (OSError, ValueError, EOFError) as error:
        raise InputError(
            f"an array of numpy in {name}", str(error).split(chr(10))[0], "unpack the archive again"
        ) from error
