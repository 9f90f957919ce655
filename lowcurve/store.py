"""Run directories: the only module that writes, and the one that reads weights.

Every file is written beside its place and then moved there in one step, so a reader, a kill or a full disk finds the
old file or the new one, never half of one.
"""

import io
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from lightning_fabric.loggers import CSVLogger, TensorBoardLogger
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.models import Factory, Network
from lowcurve.results import Result, dump, load

SETTINGS, NUMBERS, PAGE, LOG = "settings.yaml", "study.json", "report.html", "log.txt"


@dataclass(frozen=True)
class Run:
    """A run directory.

    settings.yaml, study.json (every number of the report), report.html, log.txt; networks/NAME.safetensors with the
    architecture in its metadata; parts/NAME.json, the results of each finished step; logs/NAME, the course of training
    for a spreadsheet and for TensorBoard; checkpoints/NAME.pt while a training is under way.
    """

    folder: Path

    @classmethod
    def create(cls, place: Path) -> "Run":
        """A new run at `place`; an existing run is never written into."""
        new_place(place, "")
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        return cls(place)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """The run that was begun at `folder`."""
        if not (Path(folder) / SETTINGS).is_file():
            raise InputError(f"a run directory (with {SETTINGS})", str(folder), "give the --out of an earlier command")
        return cls(Path(folder))

    def write(self, name: str, text: str) -> Path:
        """The text in a file of the run, whole or not at all."""
        return write_bytes(self.folder / name, text.encode())

    def write_json(self, name: str, content: Any) -> Path:
        """The content as JSON with sorted layout; numbers that are not finite are refused by the format."""
        return self.write(name, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """What `write_json` wrote, or None where it wrote nothing."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"JSON in {path}", f"{type(error).__name__}", "delete it and run the step again") from None

    def write_settings(self, settings: Any) -> None:
        """The resolved settings of the run, to be read back by `read_settings`."""
        self.write(SETTINGS, yaml.safe_dump(_yaml(asdict(settings)), sort_keys=False))

    def read_settings(self) -> dict[str, Any]:
        """What `write_settings` wrote, as plain values."""
        try:
            content = yaml.safe_load((self.folder / SETTINGS).read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise InputError(
                f"settings in {self.folder / SETTINGS}", type(error).__name__, "restore the file"
            ) from None
        if not isinstance(content, dict):
            raise InputError(f"settings in {self.folder / SETTINGS}", type(content).__name__, "restore the file")
        return content

    def save_part(self, name: str, key: str, results: Mapping[str, Result]) -> None:
        """A finished step's results, with the exact description of what it did."""
        self.write_json(f"parts/{name}.json", {"key": key, "results": {k: dump(v) for k, v in results.items()}})

    def load_part(self, name: str, key: str) -> dict[str, Result] | None:
        """The results of a finished step, if it did exactly what `key` describes."""
        part = self._part(name)
        return part[1] if part is not None and part[0] == key else None

    def parts(self) -> dict[str, dict[str, Result]]:
        """The results of every finished step, by its name."""
        names = sorted(path.stem for path in (self.folder / "parts").glob("*.json"))
        return {name: part[1] for name in names if (part := self._part(name)) is not None}

    def _part(self, name: str) -> tuple[str, dict[str, Result]] | None:
        content = self.read_json(f"parts/{name}.json")
        if content is None:
            return None
        try:
            return content["key"], {k: load(v) for k, v in content["results"].items()}
        except (KeyError, TypeError, AttributeError, InputError) as error:
            path, mend = self.folder / f"parts/{name}.json", "delete it and run the step again"
            raise InputError(f"results of a step in {path}", f"others ({type(error).__name__})", mend) from None

    def save_network(self, name: str, source: Network | Factory, model: nn.Module, key: str = "") -> None:
        """Weights as safetensors, with what is needed to build the network again."""
        tensors = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()
        }
        metadata = {type(source).__name__: json.dumps(asdict(source)), "made by": key}
        write_bytes(self.folder / "networks" / f"{name}.safetensors", save(tensors, metadata))

    def networks(self) -> tuple[str, ...]:
        """The names of the networks of this run."""
        return tuple(sorted(path.stem for path in (self.folder / "networks").glob("*.safetensors")))

    def made_by(self, name: str) -> str | None:
        """The key under which the network of that name was saved; None where there is none."""
        path = self.folder / "networks" / f"{name}.safetensors"
        return _metadata(path).get("made by", "") if path.is_file() else None

    def load_network(self, name: str) -> nn.Module:
        """The network of that name in eval mode."""
        path = self.folder / "networks" / f"{name}.safetensors"
        metadata = _metadata(path)
        if "Factory" in metadata:
            model = Factory(**json.loads(metadata["Factory"])).build(seed=0)
        elif "Network" in metadata:
            content: dict[str, Any] = json.loads(metadata["Network"])
            content |= {k: tuple(v) for k, v in content.items() if isinstance(v, list)}
            model = Network(**content).build(seed=0)
        else:
            raise InputError(
                f"a network of lowcurve in {path}", "safetensors of another kind", "delete it and train it again"
            )
        load_weights(model, path)
        return model.eval()

    def checkpoint(self, name: str, key: str) -> "DiskCheckpoint":
        """Where a training described by `key` keeps its state while it is under way."""
        return DiskCheckpoint(self.folder / "checkpoints" / f"{name}.pt", key)

    def loggers(self, name: str) -> list[Any]:
        """CSV and TensorBoard loggers for a training; one that is resumed gets files of its own."""
        root = self.folder / "logs"
        part = f"part-{len(list((root / name).glob('part-*'))) + 1}"
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            return [
                CSVLogger(root, name=name, version=part, flush_logs_every_n_steps=1),
                TensorBoardLogger(root, name=name, version=part),
            ]

    def log(self) -> TextIO:
        """The log, open at its end."""
        with writing(self.folder / LOG):
            return (self.folder / LOG).open("a", buffering=1)


def new_place(folder: str | Path | None, name: str) -> Path:
    """Where a new run can be made: `folder`, or runs/NAME-DATE-TIME. Nothing is made yet."""
    place = Path(folder) if folder else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with writing(place):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            mend = f"choose another --out, or go on with it by --resume {place}"
            raise InputError("a new or empty directory for the run", str(place), mend)
    return place


@dataclass(frozen=True)
class DiskCheckpoint:
    """The state of a training on disk; gone once the training is done."""

    path: Path
    key: str

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state on disk."""
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
        # Through memory, since torch's own writer has no words for a full disk.
        content = io.BytesIO()
        torch.save({"lowcurve checkpoint": 1, "key": self.key, "state": dict(state)}, content)
        write_bytes(self.path, content.getvalue())

    def load(self) -> dict[str, Any] | None:
        """The state, or None where there is none; a file that is not this training's is refused."""
        if not self.path.is_file():
            return None
        content = read_state(self.path)
        mend = f"delete {self.path} to begin this training anew"
        if not isinstance(content, dict) or "lowcurve checkpoint" not in content:
            raise InputError("a checkpoint of lowcurve", f"another file at {self.path}", mend)
        if content["key"] != self.key:
            raise InputError("a checkpoint of this very training", "one with other settings", mend)
        state: dict[str, Any] = content["state"]
        return state

    def remove(self) -> None:
        """Forget the state."""
        with suppress(FileNotFoundError):
            self.path.unlink()


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
        mend = "save model.state_dict() with torch.save, or use safetensors"
        raise InputError(f"tensors saved by torch in {path}", "a damaged file, or one with code in it", mend) from None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a refusal of the disk into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        mend = "free some room or choose another --out; what was written before is whole"
        raise InputError(f"to be able to write {path}", reason.lower(), mend) from None


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, moved over it at the end; on any error `path` stays as it was."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield beside
            with beside.open("rb") as file:
                os.fsync(file.fileno())
            beside.replace(path)
        finally:
            with suppress(OSError):
                beside.unlink()


def write_bytes(path: Path, content: bytes) -> Path:
    """The content at `path`, whole or not at all."""
    with replacing(path) as beside:
        beside.write_bytes(content)
    return path


def _metadata(path: Path) -> dict[str, str]:
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


def _yaml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _yaml(v) for k, v in value.items()}
    return [_yaml(v) for v in value] if isinstance(value, tuple | list) else value
