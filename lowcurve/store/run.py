"""Run directories."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
import yaml
from safetensors.torch import save
from torch import nn

from lowcurve.errors import InputError
from lowcurve.models import ConvertedNetwork, Source
from lowcurve.models.conversion import source_from_dict, source_to_dict
from lowcurve.results import Result, dump, load, training_version
from lowcurve.store.checkpoints import DiskCheckpoint
from lowcurve.store.files import write_bytes, writing
from lowcurve.store.ledgers import DiskLedger
from lowcurve.store.weights import load_weights, metadata_of

SETTINGS, NUMBERS, PAGE, LOG = "settings.yaml", "study.json", "report.html", "log.txt"


@dataclass(frozen=True)
class Run:
    """A run directory.

    settings.yaml, study.json (every number of the report), report.html, log.txt; networks/NAME.safetensors with the
    architecture in its metadata; parts/NAME.json, the results of each finished step; logs/NAME, the course of training
    for a spreadsheet and for TensorBoard; adversarial/NAME.safetensors, the inputs that the attacks found; checkpoints/NAME.pt
    and ledgers/NAME.pt while a training or an attack is under way.
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
        """The content as JSON, lists of numbers on one line; numbers that are not finite are refused by the format."""
        text = json.dumps(content, indent=1, allow_nan=False)
        # A string holds no raw line break, so only lists of numbers are folded.
        folded = re.sub(r"\[\n[-\d.,eE+\s]+\]", lambda found: re.sub(r"\s+", "", found[0]), text)
        return self.write(name, folded + "\n")

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
            path, hint = self.folder / f"parts/{name}.json", "delete it and run the step again"
            raise InputError(f"results of a step in {path}", f"others ({type(error).__name__})", hint) from None

    def save_network(self, name: str, source: Source | ConvertedNetwork, model: nn.Module, key: str = "") -> None:
        """Weights as safetensors, with what is needed to build the network again."""
        tensors = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()
        }
        metadata = {name: json.dumps(content) for name, content in source_to_dict(source).items()} | {"made by": key}
        write_bytes(self.folder / "networks" / f"{name}.safetensors", save(tensors, metadata))

    def networks(self) -> tuple[str, ...]:
        """The names of the networks of this run."""
        return tuple(sorted(path.stem for path in (self.folder / "networks").glob("*.safetensors")))

    def made_by(self, name: str) -> str | None:
        """The key under which the network of that name was saved; None where there is none."""
        path = self.folder / "networks" / f"{name}.safetensors"
        return metadata_of(path).get("made by", "") if path.is_file() else None

    def load_network(self, name: str) -> nn.Module:
        """The network of that name in eval mode."""
        path = self.folder / "networks" / f"{name}.safetensors"
        metadata = metadata_of(path)
        source = source_from_dict(
            {name: json.loads(content) for name, content in metadata.items() if name != "made by"}
        )
        if source is None:
            raise InputError(
                f"a network of lowcurve in {path}", "safetensors of another kind", "delete it and train it again"
            )
        model = source.build(seed=0)
        load_weights(model, path)
        return model.eval()

    def checkpoint(self, name: str, key: str) -> "DiskCheckpoint":
        """Where a training described by `key` keeps its state while it is under way."""
        return DiskCheckpoint(self.folder / "checkpoints" / f"{name}.pt", key)

    def ledger(self, name: str, key: str) -> "DiskLedger":
        """Where the attacks on a network, described by `key`, keep what they have finished while they are under way."""
        return DiskLedger(self.folder / "ledgers" / f"{name}.pt", key)

    def save_inputs(self, name: str, columns: Mapping[str, torch.Tensor]) -> None:
        """The inputs that attacks on a network found, with their labels: adversarial/NAME.safetensors."""
        tensors = {key: values.contiguous() for key, values in columns.items()}
        write_bytes(self.folder / "adversarial" / f"{name}.safetensors", save(tensors))

    def loggers(self, name: str) -> list[Any]:
        """CSV and TensorBoard loggers for a training; one that is resumed gets files of its own."""
        from lightning_fabric.loggers import CSVLogger, TensorBoardLogger  # as slow to import as torch

        root = self.folder / "logs"
        part = f"part-{len(list((root / name).glob('part-*'))) + 1}"
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            return [
                CSVLogger(root, name=name, version=part, flush_logs_every_n_steps=1),
                TensorBoardLogger(root, name=name, version=part),
            ]

    def within(self, name: str, settings: Any) -> "Run":
        """A run of its own inside this one, runs/CODE/NAME, with these settings and of this version of the training code."""
        run = Run(self.folder / "runs" / training_version() / name)
        run.write_settings(settings)
        return run

    def log(self) -> TextIO:
        """The log, open at its end."""
        with writing(self.folder / LOG):
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / LOG).open("a", buffering=1)


def new_place(folder: str | Path | None, name: str) -> Path:
    """Where a new run can be made: `folder`, or runs/NAME-DATE-TIME. Nothing is made yet."""
    place = Path(folder) if folder else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with writing(place):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            hint = f"choose another --out, or go on with it by --resume {place}"
            raise InputError("a new or empty directory for the run", str(place), hint)
    return place


def _yaml(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _yaml(v) for k, v in value.items()}
    return [_yaml(v) for v in value] if isinstance(value, tuple | list) else value
