"""Turn images and labels, as users have them, into `Examples`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lowcurve.data.examples import DataSet, Examples
from lowcurve.data.labels import Labels, as_labels, own_array, require_classes
from lowcurve.data.pictures import is_grey, picture_bytes, require_bytes
from lowcurve.data.tables import common_shape, decode_images, rows_of
from lowcurve.errors import InputError
from lowcurve.randomness import temporary_seed

Data: TypeAlias = Examples | Tensor | np.ndarray | Dataset[Any] | Iterable[Any]
"""Images, or images with their labels: everything that `as_examples` takes."""

IMAGE_NAMES = ("image", "img", "images", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "target")


def as_examples(images: Data, labels: Labels | None = None, classes: Sequence[str] | None = None) -> Examples:
    """Return images and labels as `Examples` in the CPU's memory.

    Args:
        images: Images of shape (N, channels, height, width) or inputs of any shape (N, ...), as a torch tensor or a
            numpy array: uint8, or floating point in [0, 1]. Or images with their labels: an (images, labels) pair,
            `Examples`, a torch `Dataset`, `Subset` or `DataLoader` of (image, label), or a Hugging Face `Dataset` with an
            image and a label column. PIL images are turned upright as their EXIF entry says, and put on white.
        labels: Class numbers from 0, shape (N,) or one-hot, as a tensor, an array or a list; see `data.labels.as_labels`.
            None if `images` has them.
        classes: Names of the classes; by default those of the data set, or the numbers.

    Raises:
        InputError: If the images or the labels are not of this form, or if floating-point pixels lie outside [0, 1].

    A random data set or a shuffling loader gives the same examples each time, and the global random state stays as it is.

    Example:
        >>> pair = as_examples(np.zeros((2, 1, 8, 8), dtype=np.uint8), [3, 1])
        >>> pair.shape, pair.y.tolist(), pair.classes
        ((1, 8, 8), [3, 1], ('0', '1', '2', '3'))
    """
    if labels is None:
        if isinstance(images, Examples):
            return images
        images, labels, named = _split(images)
        classes = classes or named
    elif not isinstance(images, Tensor | np.ndarray | list | tuple):
        raise InputError(
            "images as a tensor or an array beside the labels", type(images).__name__, "leave the labels out"
        )
    y = as_labels(labels).cpu()
    if classes is None:
        require_classes(y)
    count = max(len(classes or ()), int(y.max()) + 1 if len(y) else 1)
    names = tuple(classes) if classes is not None and len(classes) == count else tuple(map(str, range(count)))
    return Examples(_images(images), y, names)


def are_labels(value: object) -> bool:
    """Return whether a value is meant as labels: a tensor, an array, or a list of numbers.

    Example:
        >>> are_labels([1, 2]), are_labels(np.array([0])), are_labels("linf")
        (True, True, False)
    """
    if isinstance(value, list | tuple | range):
        return not value or isinstance(value[0], int | float | np.generic | Tensor)
    return isinstance(value, Tensor | np.ndarray)


def _split(data: Any) -> tuple[Any, Any, Sequence[str] | None]:
    """Images, labels and, where the data set has them, the names of the classes."""
    if isinstance(data, nn.Module):
        raise InputError("images, or a data set", f"the network {type(data).__name__}", "write (model, images, labels)")
    if isinstance(data, DataSet):
        raise InputError("one part of a data set", f"all of {data.name}", "write data.test")
    if isinstance(data, Tensor | np.ndarray):
        raise InputError("labels for the images", "none", "write (model, images, labels)")
    if isinstance(data, tuple | list) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        return data[0], data[1], None
    if isinstance(data, Mapping):
        raise _unreadable(f"a dictionary of {', '.join(map(str, data))}", "choose one split: dataset['test']")
    if hasattr(data, "features") and hasattr(data, "flatten_indices"):
        return _hugging_face(data)
    if isinstance(data, TensorDataset) and len(data.tensors) == 2:
        return data.tensors[0], data.tensors[1], None
    if isinstance(data, Dataset) or (hasattr(data, "__iter__") and not isinstance(data, str)):
        return _collect(data)
    raise _unreadable(type(data).__name__, "give one of these")


def _collect(data: Any) -> tuple[Any, Any, Sequence[str] | None]:
    """All items of a torch data set, or all batches of a loader."""
    batched = isinstance(data, DataLoader) and data.batch_size is not None
    parts: list[tuple[Any, Any]] = []
    pictures = not batched
    with temporary_seed(0, "data"):
        for item in _items(data):
            x, y = _pair(item)
            pictures = pictures and isinstance(x, Image.Image)
            parts.append((_image(x), y))
    if pictures and len({x.shape[0] for x, _ in parts}) > 1:  # grey pictures among colored ones
        parts = [(x.expand(3, -1, -1), y) for x, y in parts]
    if not parts:
        raise InputError("at least one example", "none", "give a data set that is not empty")
    shapes = {tuple(x.shape[batched:]) for x, _ in parts}
    if len(shapes) > 1:
        some = " and ".join(map(str, sorted(shapes, key=str)[:2]))
        raise InputError("images of one shape", some, "crop or resize them in the data set")
    join = torch.cat if batched else torch.stack
    labels = torch.cat([as_labels(y).cpu() for _, y in parts]) if batched else as_labels([y for _, y in parts])
    return join([x for x, _ in parts]), labels, _class_names(data)


def _items(data: Any) -> Iterator[Any]:
    if isinstance(data, Dataset) and not isinstance(data, IterableDataset):
        return (data[k] for k in range(len(data)))  # type: ignore[arg-type]
    return iter(data)


def _pair(item: Any) -> tuple[Any, Any]:
    if isinstance(item, Mapping):
        found = [next((item[name] for name in names if name in item), None) for names in (IMAGE_NAMES, LABEL_NAMES)]
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    elif isinstance(item, tuple | list) and len(item) == 2:
        return item[0], item[1]
    received = f"a dictionary of {', '.join(map(str, item))}" if isinstance(item, Mapping) else type(item).__name__
    raise InputError("(image, label) from the data set", received, "give images and labels as two arrays instead")


def _image(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        require_bytes(image, "a PIL image")
        array = picture_bytes(image, grey=is_grey(image))
        return torch.from_numpy(array[None].copy() if array.ndim == 2 else array.transpose(2, 0, 1).copy())
    return torch.from_numpy(own_array(image)) if isinstance(image, np.ndarray) else torch.as_tensor(image)


def _hugging_face(table: Any) -> tuple[Any, Any, Sequence[str] | None]:
    if table.format["type"] == "custom":  # a transform of the user's, which makes the images
        return _collect([table[k] for k in range(len(table))])
    image = next((name for name in IMAGE_NAMES if name in table.column_names), None)
    label = next((name for name in LABEL_NAMES if name in table.column_names), None)
    table = table.with_format(None)
    if image is not None and label is not None and type(table.features[image]).__name__ != "Image":
        arrays = table.with_format("numpy")
        return np.stack(list(arrays[image])), np.asarray(arrays[label]), getattr(table.features[label], "names", None)
    rows = rows_of(table.flatten_indices(), IMAGE_NAMES, LABEL_NAMES, "the data set")
    shape = common_shape({"test": rows})
    return decode_images(rows, shape), rows.labels(), getattr(table.features[rows.label], "names", None)


def _unreadable(received: str, hint: str) -> InputError:
    forms = "images with labels: arrays, a pair, a torch Dataset or DataLoader, a Hugging Face Dataset, or Examples"
    return InputError(forms, received, hint)


def _class_names(data: Any) -> Sequence[str] | None:
    while hasattr(data, "dataset"):  # of a DataLoader, and of a Subset in it
        data = data.dataset
    names = getattr(data, "classes", None)
    return names if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names) else None


def _images(images: Any) -> Tensor:
    if isinstance(images, list | tuple):
        return _collect([(image, 0) for image in images])[0] if len(images) else torch.zeros(0, 1)
    if isinstance(images, np.ndarray):
        if images.ndim == 4 and images.shape[3] in (1, 3) and images.shape[1] > 4:
            hint = "write images.transpose(0, 3, 1, 2)"
            raise InputError("images with the channels first", f"an array of shape {images.shape}", hint)
        if images.dtype.kind not in "buif":
            raise InputError("an array of numbers as images", str(images.dtype), "give uint8, or floats in [0, 1]")
        images = torch.from_numpy(own_array(images))
    return images.detach().cpu()  # type: ignore[no-any-return]
