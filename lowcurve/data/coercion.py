"""Turn images and labels, as users have them, into `Examples`."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from lowcurve.data.examples import CHUNK, DataSet, Examples
from lowcurve.data.labels import Labels, as_labels, own_array
from lowcurve.data.stored import Spool, read_or_store
from lowcurve.data.streams import IMAGE_NAMES, LABEL_NAMES, Own, Stream, names_of
from lowcurve.data.tables import common_shape, decoded, hub_client, rows_of
from lowcurve.errors import InputError

Data: TypeAlias = Examples | Stream | Tensor | np.ndarray | Dataset[Any] | Iterable[Any]
"""Images, or images with their labels: everything that `as_examples` takes."""


def as_source(images: Data, labels: Labels | None = None, classes: Sequence[str] | None = None) -> Examples | Stream:
    """Return images and labels as `Examples` where they are arrays or a table, and as a `Stream` otherwise.

    Evaluations read a stream a part at a time, so that the number of images takes no memory.

    Args:
        images: See `as_examples`.
        labels: See `as_examples`.
        classes: See `as_examples`.

    Raises:
        InputError: If the images or the labels are not of this form, or if floating-point pixels lie outside [0, 1].

    Example:
        >>> as_source([(torch.zeros(1, 8, 8), 3)]).count
        1
    """
    if labels is not None:
        if not isinstance(images, Tensor | np.ndarray | list | tuple):
            expected = "images as a tensor or an array beside the labels"
            raise InputError(expected, type(images).__name__, "leave the labels out")
        return _pair(images, labels, classes)
    if isinstance(images, Examples | Stream):
        return images
    _refuse(images)
    data: Any = images
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        return _pair(data[0], data[1], classes)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return _pair(data.tensors[0], data.tensors[1], classes)
    if hasattr(data, "features") and hasattr(data, "flatten_indices") and data.format["type"] != "custom":
        return _hugging_face(data, classes)
    return Stream(data, classes)


def as_examples(images: Data, labels: Labels | None = None, classes: Sequence[str] | None = None) -> Examples:
    """Return images and labels as `Examples`, in the CPU's memory or, where they are many, on the disk.

    Args:
        images: Images of shape (N, channels, height, width) or inputs of any shape (N, ...), as a torch tensor or a
            numpy array: uint8, or floating point in [0, 1]. Or images with their labels: an (images, labels) pair,
            `Examples`, a torch `Dataset`, `Subset`, `IterableDataset` or `DataLoader` of (image, label), a Hugging Face
            `Dataset`, also a streaming one, with an image and a label column, or any iterable of such items. PIL images
            are turned upright as their EXIF entry says, and put on white.
        labels: Class numbers from 0, shape (N,) or one-hot, as a tensor, an array or a list; see `data.labels.as_labels`.
            None if `images` has them.
        classes: Names of the classes; by default those of the data set, or the numbers.

    Raises:
        InputError: If the images or the labels are not of this form, or if floating-point pixels lie outside [0, 1].
        RunError: If the temporary folder is full.

    A random data set or a shuffling loader gives the same examples each time, and the global random state stays as it is.

    Example:
        >>> pair = as_examples(np.zeros((2, 1, 8, 8), dtype=np.uint8), [3, 1])
        >>> pair.shape, pair.y.tolist(), pair.classes
        ((1, 8, 8), [3, 1], ('0', '1', '2', '3'))
    """
    source = as_source(images, labels, classes)
    if isinstance(source, Examples):
        return source
    spool, labels_read = Spool(), []
    for rows, part in source.parts(Own(), CHUNK):
        spool.write(rows, part.x[:])
        labels_read.append(part.y)
    if not labels_read:
        raise InputError("at least one example", "none", "give a data set that is not empty")
    y = torch.cat(labels_read)
    return Examples(spool.pixels(), y, names_of(y, source.classes))


def are_labels(value: object) -> bool:
    """Return whether a value is meant as labels: a tensor, an array, or a list of numbers.

    Example:
        >>> are_labels([1, 2]), are_labels(np.array([0])), are_labels("linf")
        (True, True, False)
    """
    if isinstance(value, list | tuple | range):
        return not value or isinstance(value[0], int | float | np.generic | Tensor)
    return isinstance(value, Tensor | np.ndarray)


def _refuse(data: Any) -> None:
    """Refuse what is no data, with the sentence for it."""
    if isinstance(data, nn.Module):
        raise InputError("images, or a data set", f"the network {type(data).__name__}", "write (model, images, labels)")
    if isinstance(data, DataSet):
        raise InputError("one part of a data set", f"all of {data.name}", "write data.test")
    if isinstance(data, Tensor | np.ndarray):
        raise InputError("labels for the images", "none", "write (model, images, labels)")
    if isinstance(data, Mapping):
        raise _unreadable(f"a dictionary of {', '.join(map(str, data))}", "choose one split: dataset['test']")
    if isinstance(data, str | Path):
        raise _unreadable(f"the path {data}", "write lc.load(path) or lc.image_folder(path)")
    if not (isinstance(data, Dataset) or hasattr(data, "__iter__")):
        raise _unreadable(type(data).__name__, "give one of these")


def _pair(images: Any, labels: Any, classes: Sequence[str] | None) -> Examples:
    y = as_labels(labels).cpu()
    return Examples(_images(images), y, names_of(y, classes))


def _hugging_face(table: Any, classes: Sequence[str] | None) -> Examples:
    """Return a table's images, which are decoded when they are used."""
    image, label = (next((n for n in names if n in table.column_names), None) for names in (IMAGE_NAMES, LABEL_NAMES))
    hub_client()  # without its progress bars
    table = table.with_format(None)
    if image is not None and label is not None and type(table.features[image]).__name__ != "Image":
        arrays = table.with_format("numpy")
        y = as_labels(np.asarray(arrays[label]))

        def read(numbers: Tensor) -> Tensor:
            return torch.from_numpy(own_array(np.stack(list(arrays[numbers.tolist()][image]))))

        x = read_or_store(read, len(table))
        return Examples(x, y, names_of(y, classes or getattr(table.features[label], "names", None)))
    rows = rows_of(table.flatten_indices(), IMAGE_NAMES, LABEL_NAMES, "the data set")
    names = classes or getattr(table.features[rows.label], "names", None)
    return Examples(decoded(rows, common_shape({"test": rows})), rows.labels(), names_of(rows.labels(), names))


def _unreadable(received: str, hint: str) -> InputError:
    forms = "images with labels: arrays, a pair, a torch Dataset or DataLoader, a Hugging Face Dataset, or Examples"
    return InputError(forms, received, hint)


def _images(images: Any) -> Tensor:
    if isinstance(images, list | tuple):
        return as_examples([(image, 0) for image in images]).x[:] if len(images) else torch.zeros(0, 1)
    if isinstance(images, np.ndarray):
        if images.dtype.kind not in "buif":
            raise InputError("an array of numbers as images", str(images.dtype), "give uint8, or floats in [0, 1]")
        images = torch.from_numpy(own_array(images))
    return images.detach().cpu()  # type: ignore[no-any-return]
