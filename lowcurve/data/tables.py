"""Read tables of encoded images from parquet files and folders, and decode their images."""

import glob
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, is_dataclass
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from lowcurve.data.labels import as_labels, require_classes
from lowcurve.data.pictures import image_tensor, is_grey, picture_bytes, require_bytes, upright_size
from lowcurve.data.splits import split_images
from lowcurve.data.stored import HELD, StoredPixels, read_or_store
from lowcurve.errors import InputError
from lowcurve.libraries import require_library
from lowcurve.randomness import SeparateDraws

Shape = tuple[int, int, int]
Transform = Callable[[Image.Image], Any]
CHUNK = 256


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table whose images are not decoded yet.

    Attributes:
        table: The Hugging Face `Dataset`.
        indices: Rows to use.
        image: Name of the column of images.
        label: Name of the column of labels.
        where: Name of the table in error messages.
    """

    table: Any
    indices: Tensor
    image: str
    label: str
    where: str

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor) -> "Rows":
        """Return these of the rows, in this order."""
        return Rows(self.table, self.indices[rows], self.image, self.label, self.where)

    def labels(self) -> Tensor:
        """Return the labels of the rows."""
        return as_labels(self.table.data.column(self.label).to_numpy())[self.indices]

    def cells(self) -> Iterator[dict[str, Any]]:
        """Yield the bytes or the path of each row's image."""
        chosen = self.table.select_columns([self.image]).select(self.indices.tolist())
        return (cell or {} for chunk in chosen.iter(batch_size=CHUNK) for cell in chunk[self.image])

    def pictures(self) -> Iterator[tuple[str, Image.Image]]:
        """Yield the name of each row's image, and the image, opened but not yet decoded."""
        for index, cell in zip(self.indices.tolist(), self.cells(), strict=True):
            content, path = cell.get("bytes"), str(cell.get("path") or "")
            name = f"row {index} of {self.where}" if content or not path else path
            with _as_input_error(name):
                if not content and not path:
                    raise ValueError("neither bytes nor a path")
                picture = _opened(content or Path(path).read_bytes())
            yield name, picture


def parquet_table(files: Sequence[Path]) -> Any:
    """Return the rows of these files, one file after another."""
    datasets = hub_client()
    from pyarrow import parquet  # comes with `datasets`

    for file in files:
        with _as_input_error(str(file), "a parquet file"):
            parquet.read_schema(file)
    # The library knows files by name and time of change. Their content decides here.
    cache = Path(datasets.config.HF_DATASETS_CACHE) / f"lowcurve-{digest_files(files)}"
    with _as_input_error(", ".join(map(str, files)), "parquet files with the same columns"):
        # Not load_dataset, which reports even local files to a download counter; names are escaped since both take
        # them for patterns.
        return datasets.Dataset.from_parquet([glob.escape(str(file.resolve())) for file in files], cache_dir=str(cache))


def digest_files(files: Sequence[Path]) -> str:
    """Return 16 hexadecimal digits of the files' contents."""
    digests = []
    for path in files:
        with path.open("rb") as file:
            digests.append(file_digest(file, "sha256").hexdigest())
    return sha256(" ".join(digests).encode()).hexdigest()[:16]


def folder_tables(path: Path) -> tuple[dict[str, Any], str]:
    """Return tables of the images in class folders by split, and a note on what was left out."""
    found = split_images(path)
    names = {*found.classes["train"], *found.empty} if "train" in found.files else set()
    known = {split: sorted(names or {*labels, *found.empty}) for split, labels in found.classes.items()}
    tables = {split: _image_table(files, found.classes[split], known[split]) for split, files in found.files.items()}
    return tables, found.note


def _image_table(files: Sequence[Path], labels: Sequence[str], names: Sequence[str]) -> Any:
    datasets = hub_client()
    if strangers := [(label, file) for label, file in zip(labels, files, strict=True) if label not in names]:
        received = f"{strangers[0][0]} of {strangers[0][1]}"
        raise InputError("the class folders of train in every split", received, "use the same classes in every split")
    columns = {
        "image": datasets.Image(decode=False),
        "label": datasets.ClassLabel(names=list(names)),
    }
    cells = [{"bytes": None, "path": str(file)} for file in files]
    return datasets.Dataset.from_dict({"image": cells, "label": list(labels)}, features=datasets.Features(columns))


def hub_client() -> Any:
    """Return the `datasets` library of Hugging Face, with its progress bars off.

    Raises:
        InputError: If it is missing.
    """
    purpose = "for named data sets, image folders and parquet files"
    datasets = require_library("datasets", install="'lowcurve[hf]'", purpose=purpose)
    datasets.disable_progress_bars()
    return datasets


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or of its cause's."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _opened(content: bytes) -> Image.Image:
    """Return the image, or say in words that these bytes are none: Pillow names the buffer's place in memory."""
    if not content:
        raise ValueError("an empty file")
    try:
        return Image.open(io.BytesIO(content))
    except UnidentifiedImageError:
        raise ValueError("no format that Pillow knows") from None


@contextmanager
def _as_input_error(name: str, kind: str = "a readable image") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders of images and parquet share no narrower ancestor
        raise InputError(kind, f"{name} ({first_line(error)})", "replace the file or leave it out") from error


def rows_of(table: Any, images: Sequence[str], labels: Sequence[str], where: str) -> Rows:
    """Return all rows of a table, with the image and the label column found among these names and checked."""
    pair = [next((column for column in names if column in table.column_names), None) for names in (images, labels)]
    image, label = pair
    if image is None or label is None:
        expected = f"an image column {'/'.join(images)} and a label column {'/'.join(labels)} in {where}"
        raise InputError(expected, ", ".join(table.column_names), "rename the columns, or check the files")
    numbers = table.data.column(label)
    known = str(numbers.type).lstrip("u").startswith(("int", "bool", "float", "halffloat", "double"))
    if not known or numbers.null_count or not len(numbers):
        received = f"{len(numbers)} of type {numbers.type}, {numbers.null_count} missing"
        raise InputError(f"whole numbers as {label} of {where}", received, "number the classes from 0")
    require_classes(as_labels(numbers.to_numpy()), f"{label} of {where}")
    with _as_input_error(f"column {image} of {where}", "a column of encoded images"):
        table = table.cast_column(image, hub_client().Image(decode=False))
    return Rows(table, torch.arange(len(table)), image, label, where)


def classes_of(train: Rows, test: Rows, count: int | None = None) -> tuple[str, ...]:
    """Return the names of the classes, or their numbers if they have no names."""
    names, others = (getattr(rows.table.features[rows.label], "names", None) for rows in (train, test))
    if names and others and names != others:
        raise InputError("the same classes in train and test", f"{names} and {others}", "number them alike")
    return tuple(names or map(str, range(count or int(train.labels().max()) + 1)))


def common_shape(rows: Mapping[str, Rows]) -> Shape:
    """Return the shape of the images: one channel if all are grey, otherwise three, and the size of the last one."""
    grey, size = True, (0, 0)
    for part in (part for part in ("test", "validation", "train") if part in rows):
        picture = None
        for _, picture in rows[part].pictures():
            grey = grey and is_grey(picture)
        size = upright_size(picture) if picture is not None else size
    return (1 if grey else 3), size[1], size[0]


def decode_images(rows: Rows, shape: Shape) -> Tensor:
    """Return the images of the rows, decoded, as uint8 of shape (N, channels, height, width)."""
    channels, height, width = shape
    x = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    for k, (name, picture) in enumerate(rows.pictures()):
        require_bytes(picture, name, grey=channels == 1)
        with _as_input_error(name):
            pixels = picture_bytes(picture, grey=channels == 1)
        if pixels.shape[:2] != (height, width):
            received = "{} x {}".format(*pixels.shape) + f" in {name}"
            hint = "write --resize 224, or give load a transform"
            raise InputError(f"images of one size, here {height} x {width}", received, hint)
        x[k] = pixels.reshape(x.shape[1:])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()


def transform_images(rows: Rows, transform: Transform) -> Tensor:
    """Return the transformed images of the rows. The transform gets Pillow images in red, green and blue.

    What it draws at random depends on the row alone.
    """
    found: list[Tensor] = []
    draws = SeparateDraws(0, "data")
    for row, (name, picture) in zip(rows.indices.tolist(), rows.pictures(), strict=True):
        require_bytes(picture, name)
        with _as_input_error(name):
            colored = Image.fromarray(picture_bytes(picture, grey=False))
        with draws.resume():
            draws.restart(row)
            found.append(image_tensor(transform(colored)))
        if found[-1].shape != found[0].shape:
            shapes = f"{tuple(found[0].shape)} and {tuple(found[-1].shape)} of {name}"
            raise InputError("images of one shape from the transform", shapes, "resize and crop in the transform")
    return torch.stack(found) if found else torch.zeros(0, 1)


def decoded(
    rows: Rows, shape: Shape | None = None, transform: Transform | None = None, *, limit: float = HELD
) -> Tensor | StoredPixels:
    """Return the images of the rows: decoded where they are few, otherwise to be decoded when they are used.

    Args:
        rows: The rows.
        shape: Shape of an image. Without it, images are transformed.
        transform: Function from a Pillow image to pixels.
        limit: Bytes up to which they are few.
    """

    def read(numbers: Tensor) -> Tensor:
        few = rows.take(numbers)
        if transform is not None:
            return transform_images(few, transform)
        assert shape is not None
        return decode_images(few, shape)

    def identity(numbers: Tensor) -> bytes:
        found = sha256(repr(transform if is_dataclass(transform) else getattr(transform, "__qualname__", "")).encode())
        found.update(read(numbers[:1]).numpy().tobytes())  # transforms may share a name
        for cell in rows.take(numbers).cells():
            content, path = cell.get("bytes"), str(cell.get("path") or "")
            stat = None if content else Path(path).stat()
            found.update(content or f"{path} {stat.st_size} {stat.st_mtime_ns}".encode())  # type: ignore[union-attr]
        return found.digest()

    return read_or_store(read, len(rows), identity, limit)
