"""Read tables of encoded images from parquet files and folders, and decode their images."""

import glob
import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowcurve.errors import InputError

Shape = tuple[int, int, int]
CHUNK = 256
GREY_MODES = ("1", "L", "LA")
WIDE_MODES = ("I", "F")  # more than 8 bits a pixel: Pillow would clip instead of scale
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("valid", "validation", "val", "dev"), "validation"
)


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
        return torch.from_numpy(self.table.data.column(self.label).to_numpy().astype(np.int64))[self.indices]

    def pictures(self) -> Iterator[tuple[str, Image.Image]]:
        """Yield the name of each row's image, and the image, opened but not yet decoded."""
        chosen = self.table.select_columns([self.image]).select(self.indices.tolist())
        cells = (cell for chunk in chosen.iter(batch_size=CHUNK) for cell in chunk[self.image])
        for index, cell in zip(self.indices.tolist(), cells, strict=True):
            content, path = (cell or {}).get("bytes"), str((cell or {}).get("path") or "")
            name = f"row {index} of {self.where}" if content or not path else path
            with _as_input_error(name):
                if not content and not path:
                    raise ValueError("neither bytes nor a path")
                picture = Image.open(io.BytesIO(content or Path(path).read_bytes()))
            yield name, picture


def parquet_tables(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """Return the tables by split, read from the beginning of file and folder names (train-00000-of-00001.parquet)."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = [] if file == path else [part.split("-")[0].split(".")[0] for part in file.relative_to(path).parts]
        known = [SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS]
        splits.setdefault(known[-1] if known else "train", []).append(file)
    return {split: parquet_table(files) for split, files in splits.items()}


def parquet_table(files: Sequence[Path]) -> Any:
    """Return the rows of these files, one file after another."""
    from pyarrow import parquet

    for file in files:
        with _as_input_error(str(file), "a parquet file"):
            parquet.read_schema(file)
    with _as_input_error(", ".join(map(str, files)), "parquet files with the same columns"):
        # Not load_dataset, which reports even local files to a download counter; names are escaped since both take
        # them for patterns.
        return hub_client().Dataset.from_parquet([glob.escape(str(file.resolve())) for file in files])


def folder_tables(path: Path) -> dict[str, Any]:
    """Return tables of the class folders in the folders train, test and validation, or of all of them as training data."""
    subfolders = sorted(folder for folder in path.iterdir() if folder.is_dir() and not folder.name.startswith("."))
    splits = {SPLIT_WORDS[f.name.lower()]: f for f in subfolders if f.name.lower() in SPLIT_WORDS}
    if "train" not in splits or not any(child.is_dir() for child in splits["train"].iterdir()):
        splits = {"train": path}
    known = Image.registered_extensions()
    found = {
        split: [f for f in sorted(folder.glob("*/**/*")) if f.is_file() and f.suffix.lower() in known]
        for split, folder in splits.items()
    }
    names = sorted({f.relative_to(splits["train"]).parts[0] for f in found["train"]})
    if not names:
        hint = "give a folder with one folder of images a class, or with parquet files"
        raise InputError("images in class folders, or parquet files", f"none in {path}", hint)
    return {split: _image_table(files, splits[split], names) for split, files in found.items()}


def _image_table(files: Sequence[Path], folder: Path, names: Sequence[str]) -> Any:
    datasets = hub_client()
    labels = [file.relative_to(folder).parts[0] for file in files]
    strangers = sorted(set(labels) - set(names))
    if strangers:
        raise InputError(f"the class folders of train in {folder}", strangers[0], "use the same classes in every split")
    columns = {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(names))}
    cells = [{"bytes": None, "path": str(file)} for file in files]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=datasets.Features(columns))


def hub_client() -> Any:
    """Return the `datasets` library of Hugging Face, with its progress bars off."""
    import datasets  # here, because it costs two seconds that `import lowcurve` should not

    datasets.disable_progress_bars()
    return datasets


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or of its cause's."""
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


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
    if not str(numbers.type).lstrip("u").startswith("int") or numbers.null_count or not len(numbers):
        received = f"{len(numbers)} of type {numbers.type}, {numbers.null_count} missing"
        raise InputError(f"whole numbers as {label} of {where}", received, "number the classes from 0")
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
        for _, picture in rows[part].pictures():
            grey, size = grey and picture.mode in GREY_MODES, picture.size
    return (1 if grey else 3), size[1], size[0]


def decode_images(rows: Rows, shape: Shape) -> Tensor:
    """Return the images of the rows, decoded, as uint8 of shape (N, channels, height, width)."""
    channels, height, width = shape
    mode = "L" if channels == 1 else "RGB"
    x = np.empty((len(rows), height, width, channels), dtype=np.uint8)
    for k, (name, picture) in enumerate(rows.pictures()):
        if picture.size != (width, height):
            received = "{1} x {0}".format(*picture.size) + f" in {name}"
            raise InputError(f"images of one size, here {height} x {width}", received, "crop or resize them")
        if picture.mode.split(";")[0] in WIDE_MODES or (channels == 1 and picture.mode not in GREY_MODES):
            kind = "8-bit grey" if channels == 1 else "8-bit"
            raise InputError(f"{kind} images", f"mode {picture.mode} in {name}", f"save it as an {kind} image")
        with _as_input_error(name):
            x[k] = np.asarray(picture if picture.mode == mode else picture.convert(mode)).reshape(x.shape[1:])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
