"""Read files of weights: tensors and plain values, never code. Every other object becomes an empty one of a class of ours."""

import json
import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor
from torch.serialization import safe_globals

from lowcurve.errors import InputError

ENDINGS = (".safetensors", ".bin", ".pt", ".pth", ".th", ".ckpt")
INDEX = ".index.json"
"""Ending of a file that says which shard has which weight."""
PLAIN = ("list", "dict", "tuple", "frozenset", "int", "float", "bool", "str", "bytes", "object", "range", "slice")
"""Types of Python that settings name, such as the default of a dictionary."""
SYSTEM = ("sys", "os", "posix", "nt", "subprocess")
"""Packages whose functions only a hostile file names."""
OBJECTS = 64
"""A file may hold objects of so many classes."""


class Unread:
    """Stand for an object of a checkpoint that is not read, such as settings and paths beside the weights.

    The object's own class is not imported, so none of its code runs, and what the file says of it is ignored.
    """

    def __init__(self, *ignored: object) -> None:
        pass

    def __setstate__(self, ignored: object) -> None:
        pass


def read_weights(path: Path) -> Any:
    """Read a file of weights, a folder with one, or one in several files with an index.

    Args:
        path: A file of safetensors or of torch, the index of several, or a folder.

    Returns:
        The content: a state dict, or a dictionary with one among its entries. Objects that are neither tensors nor plain
        values, such as a namespace of settings, are `Unread`.

    Raises:
        InputError: If there is no file, or a folder holds several, or a file is damaged or contains code.
    """
    if path.is_dir():
        path = _file_in(path)
    if not path.is_file():
        raise InputError("a file of weights", str(path), f"give the path of a file that ends with {', '.join(ENDINGS)}")
    if path.name.endswith(INDEX):
        return _shards(path)
    return _safetensors(path) if path.suffix == ".safetensors" else read_state(path, objects=True)


def read_state(path: Path, *, objects: bool = False) -> Any:
    """Read tensors and plain values saved by torch; code in a pickle is never run.

    Args:
        path: The file.
        objects: Accept other objects, and return `Unread` in their place.

    Raises:
        InputError: If the file is damaged or contains code.
    """
    known: dict[str, Any] = {}
    while True:
        try:
            with warnings.catch_warnings(), safe_globals([(kind, name) for name, kind in known.items()]):
                warnings.simplefilter("ignore")  # a damaged file may look like one of another pickle protocol
                content = torch.load(path, map_location="cpu", weights_only=True)
            if not isinstance(content, Unread):
                return content
            raise _refusal(path, next(iter(known)))
        except InputError:
            raise
        except Exception as error:  # unpickling a damaged file raises errors without a narrower common class
            unknown = re.search(r"GLOBAL ([\w.]+)", str(error))
            name = unknown[1] if unknown else None
            name = f"builtins.{name}" if name in PLAIN else name
            if not objects or name is None or name in known or not _is_value(name) or len(known) >= OBJECTS:
                raise _refusal(path, name, script="TorchScript" in str(error)) from None
            known[name] = _kind_for(name)


def _is_value(name: str) -> bool:
    """Return False for functions of Python itself and of the system, which no settings hold."""
    package, _, kind = name.partition(".")
    return kind in PLAIN if package == "builtins" else package not in SYSTEM and bool(kind)


def _kind_for(name: str) -> Any:
    """Return what stands for a class: a dictionary for dictionaries, whose entries are read, else `Unread`."""
    if name == "collections.defaultdict":
        return _dictionary
    if name.lower().endswith("dict"):
        return OrderedDict
    return type(name.rpartition(".")[2], (Unread,), {"__module__": name.rpartition(".")[0]})


def _dictionary(*_: object) -> OrderedDict[Any, Any]:
    return OrderedDict()


def _refusal(path: Path, kind: str | None, *, script: bool = False) -> InputError:
    received = f"an object of {kind}" if kind else "a damaged file"
    received = "a TorchScript program" if script else received
    hint = "save model.state_dict() with torch.save, or use safetensors"
    return InputError(f"tensors saved by torch in {path}", f"{received}, or one with code in it", hint)


def _file_in(folder: Path) -> Path:
    """Return the only file of weights in a folder; shards that an index names count as one."""
    files = sorted(file for file in folder.iterdir() if file.is_file())
    indices = [file for file in files if file.name.endswith(INDEX)]
    shards = {name for index in indices for name in _index(index).values()}
    found = indices + [file for file in files if file.suffix in ENDINGS and file.name not in shards]
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    hint = "give the path of the one that you mean" if found else f"give a folder with one of {', '.join(ENDINGS)}"
    raise InputError(f"one file of weights in {folder}", names, hint)


def _shards(index: Path) -> dict[str, Tensor]:
    """Read the shards that an index names, each once."""
    places, weights = _index(index), dict[str, Tensor]()
    for name in sorted(set(places.values())):
        shard = index.parent / name
        if not shard.is_file():
            raise InputError(f"the shards that {index} names", f"no {name}", "put all of them into one folder")
        content = _safetensors(shard) if shard.suffix == ".safetensors" else read_state(shard)
        weights |= {key: content[key] for key in places if places[key] == name and key in content}
    missing = sorted(places.keys() - weights.keys())
    if missing:
        raise InputError(f"the weights that {index} names", f"no {missing[0]}", "download the shards again")
    return weights


def _index(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError):
        found = None
    plain = isinstance(found, Mapping) and all(isinstance(v, str) and Path(v).name == v for v in found.values())
    if not plain:
        raise InputError(f"an index of shards in {path}", "a file without weight_map", "download it again")
    return dict(found)


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"safetensors in {path}", str(error), "download or save the file again") from None
    return weights


def metadata_of(path: Path) -> dict[str, str]:
    """Return the metadata of a safetensors file of lowcurve.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"a network of lowcurve in {path}", str(error), "delete it and train it again") from None
