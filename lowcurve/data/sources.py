"""Where examples come from: toys, the Hugging Face hub, parquet files and image folders. Only this file reads data.

Laws: with a folder given, nothing touches the network. The test part never depends on the seed. Only the images that
were asked for are decoded.
"""

import difflib
import glob
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lowcurve.data.batches import DataSet, Examples
from lowcurve.data.toys import digits, two_moons
from lowcurve.errors import InputError
from lowcurve.randomness import permutation, stream

Shape = tuple[int, int, int]
VARIABLE = "LOWCURVE_DATA"
CHUNK = 256
GREY_MODES = ("1", "L", "LA")
WIDE_MODES = ("I", "F")  # more than 8 bits a pixel: Pillow would clip instead of scale
SPLIT_WORDS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("valid", "validation", "val", "dev"), "validation"
)


@dataclass(frozen=True)
class Limits:
    """At most so many examples of each part; None for all of them."""

    train: int | None = None
    validation: int | None = None
    test: int | None = None

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test"):
            limit = getattr(self, part)
            if limit is not None and limit < 1:
                raise InputError(f"a limit of at least 1 for {part}", limit, "write None for all examples")


@dataclass(frozen=True)
class Source:
    """A data set of the Hugging Face hub: its columns, its splits, one image's shape, the training rows held out."""

    hub: str
    config: str | None
    image: str
    label: str
    splits: tuple[str, str]
    shape: Shape
    classes: int
    held_out: Callable[[int], Tensor]


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table whose images are not decoded yet; `where` is how errors call the table."""

    table: Any
    indices: Tensor
    image: str
    label: str
    where: str

    def __len__(self) -> int:
        return len(self.indices)

    def take(self, rows: Tensor) -> "Rows":
        """These of the rows, in this order."""
        return Rows(self.table, self.indices[rows], self.image, self.label, self.where)

    def labels(self) -> Tensor:
        """The labels of the rows."""
        return torch.from_numpy(self.table.data.column(self.label).to_numpy().astype(np.int64))[self.indices]

    def pictures(self) -> Iterator[tuple[str, Image.Image]]:
        """Each row's image, opened but not yet decoded, with its name."""
        chosen = self.table.select_columns([self.image]).select(self.indices.tolist())
        cells = (cell for chunk in chosen.iter(batch_size=CHUNK) for cell in chunk[self.image])
        for index, cell in zip(self.indices.tolist(), cells, strict=True):
            content, path = (cell or {}).get("bytes"), str((cell or {}).get("path") or "")
            name = f"row {index} of {self.where}" if content or not path else path
            with _readable(name):
                if not content and not path:
                    raise ValueError("neither bytes nor a path")
                picture = Image.open(io.BytesIO(content or Path(path).read_bytes()))
            yield name, picture


def last_rows(count: int) -> Tensor:
    """Which of `count` rows are held out: the last 5,000, or the last tenth where that is fewer.

    Example:
        >>> last_rows(50_000).nonzero().min().item(), last_rows(40).sum().item()
        (45000, 4)
    """
    return torch.arange(count) >= count - min(5_000, count // 10)


def every_tenth(count: int) -> Tensor:
    """Which of `count` rows are held out: numbers 9, 19, 29 and so on, a fair share of rows sorted by class.

    Example:
        >>> every_tenth(25).nonzero().flatten().tolist()
        [9, 19]
    """
    return torch.arange(count) % 10 == 9


_TINY, _USUAL = "zh-plus/tiny-imagenet", ("train", "test")
SOURCES: Mapping[str, Source] = {
    "mnist": Source("ylecun/mnist", "mnist", "image", "label", _USUAL, (1, 28, 28), 10, last_rows),
    "cifar10": Source("uoft-cs/cifar10", "plain_text", "img", "label", _USUAL, (3, 32, 32), 10, last_rows),
    "cifar100": Source("uoft-cs/cifar100", "cifar100", "img", "fine_label", _USUAL, (3, 32, 32), 100, last_rows),
    "svhn": Source("ufldl-stanford/svhn", "cropped_digits", "image", "label", _USUAL, (3, 32, 32), 10, last_rows),
    "tiny-imagenet": Source(_TINY, None, "image", "label", ("train", "valid"), (3, 64, 64), 200, every_tenth),
}
TOYS: Mapping[str, Callable[[int], DataSet]] = {"digits": digits, "two-moons": two_moons}
NAMES = (*TOYS, *SOURCES)
Part = TypeVar("Part", Examples, Rows)


def load(
    name: str | Path, *, data_dir: str | Path | None = None, limits: Limits | None = None, seed: int = 0
) -> DataSet:
    """The data set of this name, or the one in this folder of images or parquet files.

    A named set is read from parquet files `<split>-*.parquet` below data_dir/<name> or in data_dir itself (by default
    the folder in the environment variable LOWCURVE_DATA), and from the Hugging Face hub only if no folder is given.
    Images stay uint8. The seed draws which training examples a limit keeps, which examples of an unnamed set are held
    out for validation, and the points of two-moons; it never moves an image into or out of the test part.

    Errors: `InputError` for an unknown name, a folder without the files, files that cannot be read or hold something
    else, images of several sizes.

    Example:
        >>> data = load("digits", limits=Limits(train=100))
        >>> len(data.train), len(data.test), data.shape
        (100, 360, (1, 8, 8))
    """
    name, limits = str(name), limits or Limits()
    if name in TOYS:
        toy = TOYS[name](seed)
        parts = _limited({"train": toy.train, "validation": toy.validation, "test": toy.test}, limits, seed)
        return DataSet(name, **parts, note=toy.note)
    if name in SOURCES:
        return _named(name, data_dir or os.environ.get(VARIABLE) or None, limits, seed)
    path = Path(name).expanduser().absolute()
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        return _from_path(path, limits, seed)
    close = difflib.get_close_matches(name.lower(), NAMES, n=1)
    mend = f"write {close[0]!r}" if close else "check the spelling of the name or path"
    raise InputError(f"one of {', '.join(NAMES)}, or an existing folder or .parquet file", repr(name), mend)


def _named(name: str, folder: str | Path | None, limits: Limits, seed: int) -> DataSet:
    source = SOURCES[name]
    tables = _hub_tables(source) if folder is None else _local_tables(name, source, Path(folder).expanduser())
    whole, test = (_rows(table, (source.image,), (source.label,), name) for table in tables)
    classes = _classes(whole, test, source.classes)
    if len(classes) != source.classes:
        raise InputError(f"the {source.classes} classes of {name}", len(classes), "check that these are its files")
    held_out = source.held_out(len(whole))
    parts = {"train": whole.take(~held_out), "validation": whole.take(held_out), "test": test}
    rule = "every tenth" if source.held_out is every_tenth else "the last"
    note = (
        f"{name} ({source.hub}) from {'the hub' if folder is None else 'local parquet files'}: of {len(whole):,} "
        f"training rows {rule} ({int(held_out.sum()):,} in all) are held out for validation, and split "
        f"{source.splits[1]} with {len(test):,} rows is the test set."
    )
    return _decoded(name, note, _limited(parts, limits, seed), classes, source.shape)


def _from_path(path: Path, limits: Limits, seed: int) -> DataSet:
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    tables = _parquet_tables(path, files) if files else _folder_tables(path)
    if "train" not in tables:
        raise InputError("training examples", f"only {', '.join(tables) or 'nothing'} in {path}", "add a train split")
    rows = {k: _rows(t, ("image", "img"), ("label", "labels", "fine_label"), path.name) for k, t in tables.items()}
    classes, told = _classes(rows["train"], rows.get("test", rows["train"])), []
    # The test rows first and from a fixed stream, so that no seed can move them.
    for part, share, chance in (("test", 5, stream(0, "test")), ("validation", 10, stream(seed, "validation"))):
        if part in rows:
            told.append(f"{part} as given")
            continue
        count = len(rows["train"])
        chosen = permutation(count, generator=chance) < max(1 if part == "test" else 0, count // share)
        rows[part], rows["train"] = rows["train"].take(chosen), rows["train"].take(~chosen)
        told.append(f"{part} a random {100 // share} % held out from the training rows")
    note = f"{path.name}, {'parquet files' if files else 'an image folder'}: {', '.join(told)}."
    rows = _limited(rows, limits, seed)
    return _decoded(path.stem if path.is_file() else path.name, note, rows, classes, _common_shape(rows))


def _decoded(name: str, note: str, rows: Mapping[str, Rows], classes: Sequence[str], shape: Shape) -> DataSet:
    parts = {part: Examples(_pixels(rows[part], shape), rows[part].labels(), tuple(classes)) for part in rows}
    return DataSet(name, **parts, note=note)


def _limited(parts: Mapping[str, Part], limits: Limits, seed: int) -> dict[str, Part]:
    """Random training examples by seed; of the others always the same, so that results of several seeds compare."""
    kept = {}
    for part, whole in parts.items():
        limit = getattr(limits, part)
        draw = stream(seed if part == "train" else 0, "limit", part)
        short = limit is not None and limit < len(whole)
        kept[part] = whole.take(permutation(len(whole), generator=draw)[:limit]) if short else whole
    return kept


def _hub_tables(source: Source) -> list[Any]:
    try:
        tables = _datasets().load_dataset(source.hub, source.config)
        return [tables[split] for split in source.splits]
    except Exception as error:  # the hub's client, its transport and its cache share no narrower ancestor
        mend = f"pass --data-dir DIR or set {VARIABLE} to a folder with parquet files"
        raise InputError(f"the Hugging Face hub to deliver {source.hub}", _short(error), mend) from error


def _local_tables(name: str, source: Source, folder: Path) -> list[Any]:
    tables = []
    for split in source.splits:
        pattern = f"{split}-*.parquet"
        files = sorted((folder / name).rglob(pattern)) or sorted(folder.glob(pattern))
        # A copy of the hub's whole repository holds its other configurations beside the one that is meant.
        files = [f for f in files if source.config in f.relative_to(folder).parts[1:-1]] or files
        if not files:
            layout = f"{pattern} below {folder / name} or in {folder}"
            raise InputError(layout, "no such file", f"put the parquet files of {source.hub} there")
        tables.append(_parquet_table(files))
    return tables


def _parquet_tables(path: Path, files: Sequence[Path]) -> dict[str, Any]:
    """The tables by split, which the beginning of a file's or a folder's name tells (train-00000-of-00001.parquet)."""
    splits: dict[str, list[Path]] = {}
    for file in files:
        words = [] if file == path else [part.split("-")[0].split(".")[0] for part in file.relative_to(path).parts]
        known = [SPLIT_WORDS[word.lower()] for word in words if word.lower() in SPLIT_WORDS]
        splits.setdefault(known[-1] if known else "train", []).append(file)
    return {split: _parquet_table(files) for split, files in splits.items()}


def _parquet_table(files: Sequence[Path]) -> Any:
    from pyarrow import parquet

    for file in files:
        with _readable(str(file), "a parquet file"):
            parquet.read_schema(file)
    with _readable(", ".join(map(str, files)), "parquet files with the same columns"):
        # Not load_dataset, which reports even local files to a download counter; names are escaped since both take
        # them for patterns.
        return _datasets().Dataset.from_parquet([glob.escape(str(file.resolve())) for file in files])


def _folder_tables(path: Path) -> dict[str, Any]:
    """Class folders by split: below train, test and validation folders, or all of them to train on if there is no train."""
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
        mend = "give a folder with one folder of images a class, or with parquet files"
        raise InputError("images in class folders, or parquet files", f"none in {path}", mend)
    return {split: _image_table(files, splits[split], names) for split, files in found.items()}


def _image_table(files: Sequence[Path], folder: Path, names: Sequence[str]) -> Any:
    datasets = _datasets()
    labels = [file.relative_to(folder).parts[0] for file in files]
    strangers = sorted(set(labels) - set(names))
    if strangers:
        raise InputError(f"the class folders of train in {folder}", strangers[0], "use the same classes in every split")
    columns = {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=list(names))}
    cells = [{"bytes": None, "path": str(file)} for file in files]
    return datasets.Dataset.from_dict({"image": cells, "label": labels}, features=datasets.Features(columns))


def _datasets() -> Any:
    import datasets  # here, because it costs two seconds that `import lowcurve` should not

    datasets.disable_progress_bars()
    return datasets


def _short(error: Exception) -> str:
    lines = str(error.__cause__ or error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@contextmanager
def _readable(name: str, kind: str = "a readable image") -> Iterator[None]:
    try:
        yield
    except Exception as error:  # decoders of images and parquet share no narrower ancestor
        raise InputError(kind, f"{name} ({_short(error)})", "replace the file or leave it out") from error


def _rows(table: Any, images: Sequence[str], labels: Sequence[str], where: str) -> Rows:
    pair = [next((column for column in names if column in table.column_names), None) for names in (images, labels)]
    image, label = pair
    if image is None or label is None:
        expected = f"an image column {'/'.join(images)} and a label column {'/'.join(labels)} in {where}"
        raise InputError(expected, ", ".join(table.column_names), "rename the columns, or check the files")
    numbers = table.data.column(label)
    if not str(numbers.type).lstrip("u").startswith("int") or numbers.null_count or not len(numbers):
        received = f"{len(numbers)} of type {numbers.type}, {numbers.null_count} missing"
        raise InputError(f"whole numbers as {label} of {where}", received, "number the classes from 0")
    with _readable(f"column {image} of {where}", "a column of encoded images"):
        table = table.cast_column(image, _datasets().Image(decode=False))
    return Rows(table, torch.arange(len(table)), image, label, where)


def _classes(train: Rows, test: Rows, count: int | None = None) -> tuple[str, ...]:
    names, others = (getattr(rows.table.features[rows.label], "names", None) for rows in (train, test))
    if names and others and names != others:
        raise InputError("the same classes in train and test", f"{names} and {others}", "number them alike")
    return tuple(names or map(str, range(count or int(train.labels().max()) + 1)))


def _common_shape(rows: Mapping[str, Rows]) -> Shape:
    """One channel if every image is grey, otherwise three; the size is that of a training image."""
    grey, size = True, (0, 0)
    for part in ("test", "validation", "train"):
        for _, picture in rows[part].pictures():
            grey, size = grey and picture.mode in GREY_MODES, picture.size
    return (1 if grey else 3), size[1], size[0]


def _pixels(rows: Rows, shape: Shape) -> Tensor:
    """The images of the rows, decoded, as uint8 [N, channels, height, width]."""
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
        with _readable(name):
            x[k] = np.asarray(picture if picture.mode == mode else picture.convert(mode)).reshape(x.shape[1:])
    return torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
