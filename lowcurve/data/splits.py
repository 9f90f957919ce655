"""Assign files to the splits train, validation and test by the names of files and folders.

The words and separators are those by which the Hugging Face `datasets` library finds splits; letter case does not matter
here. A name that contains such a word and cannot be assigned raises an error: test images must never become training images.
"""

import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from lowcurve.errors import InputError

SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "dev", "val"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
SEPARATORS = "-._ 0-9"
_WORD = re.compile(rf"(?:^|(?<=[{SEPARATORS}]))({'|'.join(SPLIT_WORDS)})(?=$|[{SEPARATORS}])", re.IGNORECASE)
_PART_OF_WORD = re.compile("train|test|val", re.IGNORECASE)
_COMPOUND = re.compile(
    r"(train|test|val)\w*(set|data|split|images|imgs)|(set|data|images|imgs)\w*(train|test|val)", re.I
)
"""Split names written as one word. A class may be called "valley", so a part of a word does not suffice there."""
HINT = "rename it with one of the words train, validation and test set apart, as in test_images"


@dataclass(frozen=True)
class Splits:
    """Files by split.

    Attributes:
        files: For each split, its files in order.
        classes: For each split, the class of each file. Empty where folders name no classes.
        note: What was left out, as the end of a sentence. Empty if there is nothing to say.
        empty: Names of class folders without any file. They count as classes, or the numbers of later ones would change.
    """

    files: dict[str, list[Path]]
    classes: dict[str, list[str]]
    note: str
    empty: tuple[str, ...] = ()


def split_files(root: Path, files: Sequence[Path]) -> Splits:
    """Assign files to splits by their own names and those of their folders below `root`.

    Args:
        root: Folder of the files, or the only file itself, whose name then says nothing.
        files: The files. Where no name says a split, all are training files.

    Raises:
        InputError: If a name says two splits, or contains train, test or val without being the name of a split.
    """
    if len(files) == 1 and (files[0] == root or not _kinds(files[0].relative_to(root).parts)):
        return Splits({"train": list(files)}, {}, "")
    found: dict[str, list[Path]] = {}
    left = []
    for file in files:
        parts = file.relative_to(root).parts
        kinds = _kinds(parts)
        if len(kinds) == 1:
            found.setdefault(kinds.pop(), []).append(file)
        elif kinds or any(_PART_OF_WORD.search(part) for part in parts):
            raise _unclear(file.relative_to(root).as_posix())
        else:
            left.append(file)
    if not found:
        return Splits({"train": left}, {}, "")
    return Splits(found, {}, _left_out(file.relative_to(root).as_posix() for file in left))


def split_images(root: Path) -> Splits:
    """Assign the images of a folder to splits and classes.

    The folders of the splits hold a folder of images a class, or the folder of a class holds folders named as splits.
    Folders that contain everything are descended into. Hidden files and folders are skipped.

    Args:
        root: The folder.

    Raises:
        InputError: If there are no class folders, or the name of a split is unclear.
    """
    images = [(file.relative_to(root).parts, file) for file in _images_below(root, ())]
    while images and _is_wrapper(images):
        images = [(parts[1:], file) for parts, file in images]
    images = _without_repeated_splits(images)
    loose = [file.name for parts, file in images if len(parts) == 1]
    images = [(parts, file) for parts, file in images if len(parts) > 1]
    if not images:
        hint = "give a folder with one folder of images a class, or with parquet files"
        raise InputError("images in class folders, or parquet files", f"none in {root}", hint)
    with_folders = {parts[0] for parts, _ in images if len(parts) > 2}
    named = {name for name in with_folders if len(_kinds((name,))) == 1}
    left = [] if not named else sorted({parts[0] for parts, _ in images} - named)
    if flat := [name for name in left if len(_kinds((name,))) == 1]:
        raise _no_classes(root, flat)
    for name in left or sorted(with_folders):
        if name not in named and _PART_OF_WORD.search(name) and (left or _holds_folders_only(name, images)):
            raise _unclear(f"{name}/ in {root}")
    files: dict[str, list[Path]] = {}
    classes: dict[str, list[str]] = {}
    holders: set[Path] = set()
    by_class = not named and _splits_below_classes(root, images)
    by_file = not named and not by_class and _splits_in_file_names(root, images)
    if not named:
        _check_class_names(root, {parts[0] for parts, _ in images})
    for parts, file in images:
        if named and (parts[0] not in named or len(parts) == 2):
            loose += [] if parts[0] not in named else ["/".join(parts)]
            continue
        told = parts[0] if named else parts[1] if by_class else parts[-1] if by_file else "train"
        split = _kinds((told,)).pop()
        if _kinds(parts[2:-1]) - {split}:
            raise _unclear(file.relative_to(root).as_posix())
        files.setdefault(split, []).append(file)
        classes.setdefault(split, []).append(_class_name(parts[1] if named else parts[0]))
        holders.add(file.parents[len(parts) - (2 if named else 1)])
    empty = {_class_name(folder.name) for holder in holders for folder in holder.iterdir() if _is_empty(folder)}
    return Splits(files, classes, _left_out([*(f"{name}/" for name in left), *loose]), tuple(sorted(empty)))


def _class_name(folder: str) -> str:
    return unicodedata.normalize("NFC", folder)


def _is_empty(folder: Path) -> bool:
    """Return True for a visible folder without any visible file in it."""
    if is_hidden(folder.name) or not folder.is_dir():
        return False
    return all(path.is_dir() or is_hidden(path.name) for path in folder.rglob("*"))


def is_hidden(name: str) -> bool:
    """Return True for files and folders that programs make for themselves, such as .DS_Store and __MACOSX."""
    return name.startswith((".", "__"))


def _kinds(parts: Sequence[str]) -> set[str]:
    """Return the splits that these names say. A name with two splits says none if another name has just one."""
    found = [{SPLIT_WORDS[word.lower()] for word in _WORD.findall(part)} for part in parts]
    return set().union(*([kinds for kinds in found if len(kinds) == 1] or found))


def _images_below(folder: Path, above: tuple[Path, ...]) -> Iterator[Path]:
    """Yield the visible images below a folder in order, also through links, but not through a link to a folder above."""
    here = folder.resolve()
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if is_hidden(entry.name):
            continue
        if entry.is_dir():
            if here not in above:
                yield from _images_below(folder / entry.name, (*above, here))
        elif Path(entry.name).suffix.lower() in _extensions():
            yield folder / entry.name


@cache
def _extensions() -> set[str]:
    """Return the endings of files that Pillow can read; it can only write some others, such as .pdf."""
    return {end for end, kind in Image.registered_extensions().items() if kind in Image.OPEN}


Found = Sequence[tuple[tuple[str, ...], Path]]


def _is_wrapper(images: Found) -> bool:
    """Return whether one folder holds everything in further folders and does not name a split."""
    first = {parts[0] for parts, _ in images}
    return len(first) == 1 and min(len(parts) for parts, _ in images) > 2 and not _kinds(tuple(first))


def _without_repeated_splits(images: Found) -> list[tuple[tuple[str, ...], Path]]:
    """Leave out the outer folder where a split holds nothing but a folder of its own name: train/train/class."""
    inner: dict[str, set[str]] = {}
    for parts, _ in images:
        inner.setdefault(parts[0], set()).add(parts[1] if len(parts) > 3 else "")
    repeated = {
        name for name, below in inner.items() if len(below) == 1 and _kinds((name,)) == _kinds(tuple(below)) != set()
    }
    return [(parts[1:] if parts[0] in repeated else parts, file) for parts, file in images]


def _holds_folders_only(name: str, images: Found) -> bool:
    return all(len(parts) > 2 for parts, _ in images if parts[0] == name)


def _check_class_names(root: Path, names: set[str]) -> None:
    """Refuse class folders that are splits without class folders. One class may be called train, or test."""
    said = {name: _kinds((name,)) for name in names}
    kinds = set().union(*said.values())
    if len(kinds) > 1 or (kinds and all(said.values())) or any(map(_COMPOUND.search, names)):
        raise _no_classes(root, sorted(name for name in names if said[name] or _COMPOUND.search(name)))


def _splits_below_classes(root: Path, images: Found) -> bool:
    """Return whether each class folder holds folders named as splits."""
    second = [parts[1] if len(parts) > 2 else "" for parts, _ in images]
    named = [bool(_kinds((name,))) for name in second]
    if any(named) and not all(named):
        raise _unclear("/".join(images[named.index(False)][0]))
    if wrong := next((name for name in second if not _kinds((name,)) and _COMPOUND.search(name)), None):
        raise _unclear(f"{wrong}/ in {root}")
    return any(named)


def _splits_in_file_names(root: Path, images: Found) -> bool:
    """Return whether the file names say several splits, train among them."""
    said = [_kinds((parts[-1],)) for parts, _ in images]
    kinds = set().union(*said)
    if len(kinds) < 2 or "train" not in kinds:
        return False
    if wrong := [file for (_, file), one in zip(images, said, strict=True) if len(one) != 1]:
        raise _unclear(wrong[0].relative_to(root).as_posix())
    return True


def _no_classes(root: Path, names: Sequence[str]) -> InputError:
    hint = "put one folder of images a class into each split, or rename the classes"
    return InputError(f"class folders in {root}", f"folders named as splits: {', '.join(names)}", hint)


def _unclear(name: str) -> InputError:
    return InputError("names that say to which split files belong", name, HINT)


def _left_out(names: Sequence[str] | Iterator[str]) -> str:
    names = list(names)
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"; left out, as no split: {', '.join(names[:3])}{more}" if names else ""
