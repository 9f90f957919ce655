"""Reading weights and states: tensors and plain values, never code."""

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
    """Load safetensors, or a state dict saved by torch, into `model`; never a pickled module.

    A state dict may lie under the key "state_dict", and its names may begin with "module." throughout, as those of
    networks trained in parallel do. Errors: InputError with the first names or shapes that do not fit.
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
    """What torch saved at `path`, tensors and plain values only: code in a pickle is never run."""
    try:
        with warnings.catch_warnings():  # a damaged file may look like one of another protocol
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # what an unpickler meets in a damaged file shares no narrower ancestor
        hint = "save model.state_dict() with torch.save, or use safetensors"
        raise InputError(f"tensors saved by torch in {path}", "a damaged file, or one with code in it", hint) from None


def metadata_of(path: Path) -> dict[str, str]:
    """What a safetensors file says about itself beside its tensors."""
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
