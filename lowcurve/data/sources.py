"""Where examples come from: toys, the Hugging Face hub, parquet files and image folders.

Laws: only this file and `tables` read data. With a folder given, nothing touches the network. The test part never
depends on the seed. Only the images that were asked for are decoded.
"""

import difflib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from lowcurve.data.batches import DataSet, Examples
from lowcurve.data.tables import (
    Rows,
    Shape,
    classes_of,
    common_shape,
    decoded,
    first_line,
    folder_tables,
    hub_client,
    parquet_table,
    parquet_tables,
    rows_of,
)
from lowcurve.data.toys import colored_digits, digits, two_moons
from lowcurve.errors import InputError
from lowcurve.randomness import permutation, stream

VARIABLE = "LOWCURVE_DATA"


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
TOYS: Mapping[str, Callable[[int], DataSet]] = {
    "digits": digits,
    "colored-digits": colored_digits,
    "two-moons": two_moons,
}
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
    hint = f"write {close[0]!r}" if close else "check the spelling of the name or path"
    raise InputError(f"one of {', '.join(NAMES)}, or an existing folder or .parquet file", repr(name), hint)


def _named(name: str, folder: str | Path | None, limits: Limits, seed: int) -> DataSet:
    source = SOURCES[name]
    tables = _hub_tables(source) if folder is None else _local_tables(name, source, Path(folder).expanduser())
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
    return _decoded(name, note, _limited(parts, limits, seed), classes, source.shape)


def _from_path(path: Path, limits: Limits, seed: int) -> DataSet:
    files = [path] if path.is_file() else sorted(path.rglob("*.parquet"))
    tables = parquet_tables(path, files) if files else folder_tables(path)
    if "train" not in tables:
        raise InputError("training examples", f"only {', '.join(tables) or 'nothing'} in {path}", "add a train split")
    rows = {k: rows_of(t, ("image", "img"), ("label", "labels", "fine_label"), path.name) for k, t in tables.items()}
    classes, told = classes_of(rows["train"], rows.get("test", rows["train"])), []
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
    return _decoded(path.stem if path.is_file() else path.name, note, rows, classes, common_shape(rows))


def _decoded(name: str, note: str, rows: Mapping[str, Rows], classes: Sequence[str], shape: Shape) -> DataSet:
    parts = {part: Examples(decoded(rows[part], shape), rows[part].labels(), tuple(classes)) for part in rows}
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
        tables = hub_client().load_dataset(source.hub, source.config)
        return [tables[split] for split in source.splits]
    except Exception as error:  # the hub's client, its transport and its cache share no narrower ancestor
        hint = f"pass --data-dir DIR or set {VARIABLE} to a folder with parquet files"
        raise InputError(f"the Hugging Face hub to deliver {source.hub}", first_line(error), hint) from error


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
        tables.append(parquet_table(files))
    return tables
