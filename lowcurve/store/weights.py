"""Read weights and states: tensors and plain values, never code."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from lowcurve.errors import InputError


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load safetensors, or a state dict saved by torch, into a model.

    The state dict may be the entry "state_dict" of a dictionary. The prefix "module." of networks trained in parallel is
    removed. Pickled modules are refused, because loading them runs code.

    Args:
        model: Network that receives the weights.
        path: Path of a .safetensors, .pt or .pth file.

    Raises:
        InputError: If the file is missing, damaged or no state dict, or if names or shapes do not match the model.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("a file of weights", str(path), "give the path of a .safetensors, .pt or .pth file")
    weights = _safetensors(path) if path.suffix == ".safetensors" else read_state(path)
    if isinstance(weights, Mapping) and isinstance(weights.get("state_dict"), Mapping):
        weights = weights["state_dict"]
    if not isinstance(weights, Mapping) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in weights.items()
    ):
        raise InputError(f"a state dict in {path}", type(weights).__name__, "save model.state_dict()")
    if weights and all(name.startswith("module.") for name in weights):
        weights = {name.removeprefix("module."): value for name, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        first = " ".join(str(error).split("\n\t")[1:2]) or str(error)
        raise InputError(
            f"weights of {type(model).__name__} in {path}", first, "give the factory that made them"
        ) from None


def read_state(path: Path) -> Any:
    """Read tensors and plain values saved by torch; code in a pickle is never run.

    Raises:
        InputError: If the file is damaged or contains code.
    """
    try:
        with warnings.catch_warnings():  # a damaged file may look like one of another pickle protocol
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # unpickling a damaged file raises errors without a narrower common class
        hint = "save model.state_dict() with torch.save, or use safetensors"
        raise InputError(f"tensors saved by torch in {path}", "a damaged file, or one with code in it", hint) from None


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


def _safetensors(path: Path) -> dict[str, Tensor]:
    try:
        weights: dict[str, Tensor] = load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"safetensors in {path}", str(error), "download or save the file again") from None
    return weights
