"""Data sets by name or path: toys, the Hugging Face hub, parquet files and image folders.

Given a folder, nothing uses the network. The test part never depends on the seed. Only requested images are decoded.
"""

import difflib
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lowcurve.data.examples import DataSet, Examples, Origin, count_repeated
from lowcurve.data.splits import SPLIT_WORDS, is_hidden, split_files
from lowcurve.data.stored import HELD
from lowcurve.data.tables import (
    Rows,
    Shape,
    Transform,
    classes_of,
    common_shape,
    decoded,
    digest_files,
    first_line,
    folder_tables,
    hub_client,
    parquet_table,
    rows_of,
)
from lowcurve.data.toys import colored_digits, digits, two_moons
from lowcurve.errors import InputError
from lowcurve.randomness import permutation, stream

VARIABLE = "LOWCURVE_DATA"


@dataclass(frozen=True)
class Limits:
    """The largest number of examples of each part.

    Args:
        train: Of the training part; None for all.
        validation: Of the validation part; None for all.
        test: Of the test part; None for all.
    """

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
    """A data set of the Hugging Face hub.

    Attributes:
        hub: Name on the hub.
        config: Configuration. None means the default.
        image: Name of the column of images.
        label: Name of the column of labels.
        splits: Names of the training and test split.
        shape: Shape of an image.
        classes: Number of classes.
        held_out: Function that selects the validation rows. Its argument is the number of training rows.
    """

    hub: str
    config: str | None
    image: str
    label: str
    splits: tuple[str, str]
    shape: Shape
    classes: int
    held_out: Callable[[int], Tensor]


def last_rows(count: int) -> Tensor:
    """Select the last 5,000 of `count` rows for validation, or the last tenth if that is fewer.

    Example:
        >>> last_rows(50_000).nonzero().min().item(), last_rows(40).sum().item()
        (45000, 4)
    """
    return torch.arange(count) >= count - min(5_000, count // 10)


def every_tenth(count: int) -> Tensor:
    """Select rows 9, 19, 29 and so on for validation: an equal share of each class where rows are sorted by class.

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
TOYS: Mapping[str, Callable[[int], DataSet]] = {
    "digits": digits,
    "colored-digits": colored_digits,
    "two-moons": two_moons,
}
NAMES = (*TOYS, *SOURCES)


def load(
    name: str | Path,
    *,
    data_dir: str | Path | None = None,
    limits: Limits | None = None,
    seed: int = 0,
    first: bool = False,
    transform: Transform | None = None,
) -> DataSet:
    """Load a data set by name, or from a folder of images or parquet files.

    A named data set is read from files `<split>-*.parquet` in data_dir/<name> or data_dir. Without a folder it comes from
    the Hugging Face hub. Images stay uint8. They are turned upright as their EXIF entry says, and transparent pixels show a
    white background. Up to 512 MB of a part are held in memory, and every named data set; images of a larger part are
    decoded when they are used.

    In a folder, the names of files and folders tell the splits, as in the Hugging Face `datasets` library: train/cat/1.png,
    my-test.parquet, eval/dog/2.png. Names that contain train, test or val but no such word are refused. Hidden files are
    skipped.

    Args:
        name: One of `NAMES`, or the path of an image folder, of a folder of parquet files or of one such file.
        data_dir: Folder of the parquet files. By default it is the environment variable LOWCURVE_DATA.
        limits: Largest number of examples of each part. Those that are kept are drawn at random.
        first: Keep the first test examples, instead of random ones, where a limit is set.
        seed: Seed of the training examples that a limit keeps and of the points of two-moons. It also chooses the
            validation examples of an unnamed data set. It never changes which images are in the test part.
        transform: Function from a Pillow image in red, green and blue to pixels in [0, 1] or uint8, for images in files,
            such as `transform_of(model)`. It makes images of one size. What it draws at random depends on the image alone.

    Raises:
        InputError: If the name is unknown, if files are missing or cannot be read, or if images differ in size.
            Also if the split of a file is unclear, or there is no training split.

    Example:
        >>> data = load("digits", limits=Limits(train=100))
        >>> len(data.train), len(data.test), data.shape
        (100, 360, (1, 8, 8))
    """
    name, limits = str(name), limits or Limits()
    if name in TOYS:
        if transform is not None:
            raise InputError("images in files to transform", f"the data set {name!r}", "leave the transform out")
        toy = TOYS[name](seed)
        whole = {"train": toy.train, "validation": toy.validation, "test": toy.test}
        origins = _limit({part: len(examples) for part, examples in whole.items()}, limits, seed, first)
        parts = {part: replace(whole[part].take(origin.rows), origin=origin) for part, origin in origins.items()}
        return DataSet(name, **parts, note=toy.note)
    if name in SOURCES:
        return _load_named(name, data_dir or os.environ.get(VARIABLE) or None, limits, seed, first, transform)
    path = Path(name).expanduser().absolute()
    if path.is_dir() or (path.is_file() and path.suffix == ".parquet"):
        return _load_path(path, limits, seed, first, transform)
    close = difflib.get_close_matches(name.lower(), NAMES, n=1)
    hint = f"write {close[0]!r}" if close else "check the spelling of the name or path"
    raise InputError(f"one of {', '.join(NAMES)}, or an existing folder or .parquet file", repr(name), hint)


def image_folder(root: str | Path, *, split: str | None = None, transform: Transform | None = None) -> Examples:
    """Return all images of class folders, root/cat/1.png, or of one split, root/val/cat/1.png.

    Images of several sizes need a transform. Up to 512 MB are held in memory; more are decoded when they are used.

    Args:
        root: The folder. It may have the splits' folders in it; see `load`.
        split: "train", "validation" or "test". It can be left out where there is one split only.
        transform: Function from a Pillow image in red, green and blue to pixels in [0, 1] or uint8, such as
            `transform_of(model)`.

    Raises:
        InputError: If there are no class folders, no such split or several, or if images differ in size.

    Example:
        >>> examples = image_folder("imagenet", split="val", transform=lc.transform_of(model))  # doctest: +SKIP
    """
    path = Path(root).expanduser().absolute()
    if not path.is_dir():
        raise InputError("a folder of images", str(root), "check the spelling of the path")
    tables, _ = folder_tables(path)
    wanted = SPLIT_WORDS.get(str(split).lower(), str(split)) if split else next(iter(tables))
    if wanted not in tables or (split is None and len(tables) > 1):
        known = ", ".join(tables)
        raise InputError(f"one of the splits {known} of {root}", split or "none", f'write split="{next(iter(tables))}"')
    rows = rows_of(tables[wanted], ("image",), ("label",), path.name)
    shape = common_shape({"test": rows}) if transform is None else None
    return Examples(decoded(rows, shape, transform), rows.labels(), classes_of(rows, rows))


def _load_named(
    name: str, folder: str | Path | None, limits: Limits, seed: int, first: bool, transform: Transform | None
) -> DataSet:
    source = SOURCES[name]
    if folder is None:
        tables = _hub_tables(source)
    else:
        tables = [parquet_table(files) for files in _local_files(name, source, Path(folder).expanduser())]
    whole, test = (rows_of(table, (source.image,), (source.label,), name) for table in tables)
    classes = classes_of(whole, test, source.classes)
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
    origins = _limit({part: len(rows) for part, rows in parts.items()}, limits, seed, first)
    return _decode_parts(name, note, parts, origins, classes, source.shape, transform)


def _load_path(path: Path, limits: Limits, seed: int, first: bool, transform: Transform | None) -> DataSet:
    files = [path] if path.is_file() else _visible(path, path.rglob("*.parquet"))
    if files:
        found = split_files(path, files)
        tables, left_out = {split: parquet_table(parts) for split, parts in found.files.items()}, found.note
    else:
        tables, left_out = folder_tables(path)
    if "train" not in tables:
        hint = "add a train split, or give the path of the split itself, which is then divided; lc.image_folder reads all of it"
        raise InputError("training examples", f"only {', '.join(tables) or 'nothing'} in {path}", hint)
    rows = {k: rows_of(t, ("image", "img"), ("label", "labels", "fine_label"), path.name) for k, t in tables.items()}
    classes, told = classes_of(rows["train"], rows.get("test", rows["train"])), []
    # Test rows are drawn first and from a fixed stream, so that they do not depend on the seed.
    for part, share, chance in (("test", 5, stream(0, "test")), ("validation", 10, stream(seed, "validation"))):
        if part in rows:
            told.append(f"{part} as given")
            continue
        count = len(rows["train"])
        chosen = permutation(count, generator=chance) < max(1 if part == "test" else 0, count // share)
        rows[part], rows["train"] = rows["train"].take(chosen), rows["train"].take(~chosen)
        told.append(f"{part} a random {100 // share} % held out from the training rows")
    note = f"{path.name}, {'parquet files' if files else 'an image folder'}: {', '.join(told)}{left_out}."
    origins = _limit({part: len(found) for part, found in rows.items()}, limits, seed, first)
    shape = None
    if transform is None:
        shape = common_shape({part: rows[part].take(origin.rows) for part, origin in origins.items()})
    data = _decode_parts(path.stem if path.is_file() else path.name, note, rows, origins, classes, shape, transform)
    held = isinstance(data.train.x, Tensor) and isinstance(data.test.x, Tensor)
    if held and (repeated := count_repeated(data.train, data.test)):
        note = f"{note} {repeated} of the {len(data.test):,} test images are among the training images too."
    return replace(data, note=note)


def _visible(folder: Path, files: Iterable[Path]) -> list[Path]:
    return sorted(file for file in files if not any(map(is_hidden, file.relative_to(folder).parts)))


def _decode_parts(
    name: str,
    note: str,
    rows: Mapping[str, Rows],
    origins: Mapping[str, Origin],
    classes: Sequence[str],
    shape: Shape | None,
    transform: Transform | None = None,
) -> DataSet:
    parts: dict[str, Examples] = {}
    for part, origin in origins.items():
        chosen = rows[part].take(origin.rows)
        limit = HELD if transform is not None or name not in SOURCES else math.inf
        x = decoded(chosen, shape, transform, limit=limit) if len(chosen) or shape else parts["train"].x[:0]
        parts[part] = Examples(x, chosen.labels(), tuple(classes), origin)
    return DataSet(name, **parts, note=note)


def _limit(sizes: Mapping[str, int], limits: Limits, seed: int, first: bool) -> dict[str, Origin]:
    """Choose random training examples by seed, and the same test and validation examples for every seed."""
    chosen = {}
    for part, size in sizes.items():
        limit, own = getattr(limits, part), seed if part == "train" else 0
        at_random = limit is not None and limit < size and not (first and part == "test")
        rows = permutation(size, generator=stream(own, "limit", part)) if at_random else torch.arange(size)
        chosen[part] = Origin(rows[:limit], size, own)
    return chosen


def files_digest(name: str, data_dir: str | Path | None = None) -> str:
    """Return digits that change with the files of a named data set in a folder, or "" where it comes without files.

    Args:
        name: Name of the data set.
        data_dir: Folder of the parquet files, as in `load`.
    """
    folder = data_dir or os.environ.get(VARIABLE)
    if name not in SOURCES or not folder:
        return ""
    found = _local_files(name, SOURCES[name], Path(folder).expanduser())
    return digest_files([file for files in found for file in files])


def _hub_tables(source: Source) -> list[Any]:
    try:
        tables = hub_client().load_dataset(source.hub, source.config)
        return [tables[split] for split in source.splits]
    except Exception as error:  # the hub's client, its transport and its cache share no narrower ancestor
        hint = f"pass --data-dir DIR or set {VARIABLE} to a folder with parquet files"
        raise InputError(f"the Hugging Face hub to deliver {source.hub}", first_line(error), hint) from error


def _local_files(name: str, source: Source, folder: Path) -> list[list[Path]]:
    found = []
    for split in source.splits:
        pattern = f"{split}-*.parquet"
        files = _visible(folder, (folder / name).rglob(pattern)) or _visible(folder, folder.glob(pattern))
        # A copy of the hub's whole repository also contains the other configurations.
        files = [f for f in files if source.config in f.relative_to(folder).parts[1:-1]] or files
        if not files:
            layout = f"{pattern} below {folder / name} or in {folder}"
            raise InputError(layout, "no such file", f"put the parquet files of {source.hub} there")
        found.append(files)
    return found
