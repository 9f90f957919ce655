"""Run directories."""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self, TextIO

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

SETTINGS, NUMBERS, PAGE, LOG, EXAMPLES = "settings.yaml", "study.json", "report.html", "log.txt", "examples.txt"


@dataclass(frozen=True)
class Run:
    """A run directory.

    Contents:

    * settings.yaml, study.json (all numbers of the report), report.html and log.txt.
    * examples.txt: digest of the examples on which the networks were last evaluated.
    * networks/NAME.safetensors: weights, with the architecture in the metadata.
    * parts/NAME.json: results of each finished step.
    * logs/NAME: training curves as CSV and for TensorBoard.
    * adversarial/NAME.safetensors: inputs that the attacks found.
    * checkpoints/NAME.pt and ledgers/NAME.pt: only while a training or an attack is unfinished.

    Args:
        folder: Path of the directory.
        writes: If False, every method that writes does nothing; see `read_only`.
    """

    folder: Path
    writes: bool = True

    @classmethod
    def create(cls, place: Path) -> "Run":
        """Create a run in a new or empty directory.

        Raises:
            InputError: If the directory is not empty or cannot be written.
        """
        new_place(place, "")
        with writing(place):
            place.mkdir(parents=True, exist_ok=True)
        return cls(place)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open an existing run.

        Raises:
            InputError: If the directory has no settings file.
        """
        if not (Path(folder) / SETTINGS).is_file():
            raise InputError(f"a run directory (with {SETTINGS})", str(folder), "give the --out of an earlier command")
        return cls(Path(folder))

    def read_only(self) -> Self:
        """Return the same run for a process that must not write: it reads as usual, and its save methods do nothing.

        Several processes that share the work of one run use it in all processes but the first.
        """
        return replace(self, writes=False)

    def within(self, name: str, settings: Any) -> "Run":
        """Create or open the run runs/CODE/NAME inside this one, where CODE is the version of the training code.

        Args:
            name: Name of the inner run.
            settings: Dataclass that is written as its settings.
        """
        run = Run(self.folder / "runs" / training_version() / name, self.writes)
        run.write_settings(settings)
        return run

    def write(self, name: str, text: str) -> Path:
        """Write a text file of the run and return its path."""
        return self._write(name, text.encode())

    def write_json(self, name: str, content: Any) -> Path:
        """Write a JSON file with each list of numbers on one line.

        Raises:
            ValueError: If a number is not finite.
        """
        text = json.dumps(content, indent=1, allow_nan=False)
        # A JSON string contains no raw line break, so the pattern matches lists of numbers only.
        folded = re.sub(r"\[\n[-\d.,eE+\s]+\]", lambda found: re.sub(r"\s+", "", found[0]), text)
        return self.write(name, folded + "\n")

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file of the run, or None if there is no such file."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return json.loads(path.read_text())
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"JSON in {path}", f"{type(error).__name__}", "delete it and run the step again") from None

    def write_settings(self, settings: Any) -> None:
        """Write the settings of the run, a dataclass, as YAML."""
        self.write(SETTINGS, yaml.safe_dump(_plain(asdict(settings)), sort_keys=False))

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of the run as plain values.

        Raises:
            InputError: If the file is missing or damaged.
        """
        try:
            content = yaml.safe_load((self.folder / SETTINGS).read_text())
        except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
            raise InputError(
                f"settings in {self.folder / SETTINGS}", type(error).__name__, "restore the file"
            ) from None
        if not isinstance(content, dict):
            raise InputError(f"settings in {self.folder / SETTINGS}", type(content).__name__, "restore the file")
        return content

    def save_part(self, name: str, key: str, results: Mapping[str, Result], scope: str = "") -> None:
        """Save the results of a finished step.

        Args:
            name: Name of the step.
            key: Description of everything that decides the results.
            results: Results by kind.
            scope: Description of what all numbers of one report share, such as the radius. Empty if nothing.
        """
        content = {"key": key, "scope": scope, "results": {k: dump(v) for k, v in results.items()}}
        self.write_json(f"parts/{name}.json", content)

    def load_part(self, name: str, key: str) -> dict[str, Result] | None:
        """Return the results of a step saved under the same key, or None."""
        part = self._part(name)
        return part[1] if part is not None and part[0] == key else None

    def parts(self, scope: str | None = None) -> dict[str, dict[str, Result]]:
        """Return the results of all finished steps by name.

        Args:
            scope: Leave out results that were saved with another scope. None takes all.
        """
        names = sorted(path.stem for path in (self.folder / "parts").glob("*.json"))
        found = {name: part for name in names if (part := self._part(name)) is not None}
        return {name: part[1] for name, part in found.items() if scope is None or part[2] in ("", scope)}

    def read_examples(self) -> str:
        """Return the digest of the examples on which the networks were last evaluated, or "" before that."""
        path = self.folder / EXAMPLES
        return path.read_text().strip() if path.is_file() else ""

    def _part(self, name: str) -> tuple[str, dict[str, Result], str] | None:
        content = self.read_json(f"parts/{name}.json")
        if content is None:
            return None
        try:
            results = {k: load(v) for k, v in content["results"].items()}
            return content["key"], results, content.get("scope", "")
        except (KeyError, TypeError, AttributeError, InputError) as error:
            path, hint = self.folder / f"parts/{name}.json", "delete it and run the step again"
            raise InputError(f"results of a step in {path}", f"others ({type(error).__name__})", hint) from None

    def save_network(self, name: str, source: Source | ConvertedNetwork, model: nn.Module, key: str = "") -> None:
        """Save the weights of a network as safetensors.

        Args:
            name: Name of the network.
            source: Description that rebuilds the network.
            model: The network.
            key: Description of everything that decides the weights.
        """
        tensors = {
            k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in model.state_dict().items()
        }
        metadata = {name: json.dumps(content) for name, content in source_to_dict(source).items()} | {"made by": key}
        self._write(f"networks/{name}.safetensors", save(tensors, metadata))

    def networks(self) -> tuple[str, ...]:
        """Return the names of all saved networks."""
        return tuple(sorted(path.stem for path in (self.folder / "networks").glob("*.safetensors")))

    def made_by(self, name: str) -> str | None:
        """Return the key under which a network was saved, or None if there is no such network."""
        path = self.folder / "networks" / f"{name}.safetensors"
        return metadata_of(path).get("made by", "") if path.is_file() else None

    def load_network(self, name: str) -> nn.Module:
        """Load a network in eval mode.

        Raises:
            InputError: If its file is missing, damaged or was not written by lowcurve.
        """
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

    def checkpoint(self, name: str, key: str) -> DiskCheckpoint:
        """Return the checkpoint of an unfinished training."""
        return DiskCheckpoint(self.folder / "checkpoints" / f"{name}.pt", key, self.writes)

    def ledger(self, name: str, key: str) -> DiskLedger:
        """Return the ledger of unfinished attacks on a network."""
        return DiskLedger(self.folder / "ledgers" / f"{name}.pt", key, self.writes)

    def save_inputs(self, name: str, columns: Mapping[str, torch.Tensor]) -> None:
        """Save the inputs that attacks on a network found, with their labels, as adversarial/NAME.safetensors."""
        tensors = {key: values.contiguous() for key, values in columns.items()}
        self._write(f"adversarial/{name}.safetensors", save(tensors))

    def loggers(self, name: str) -> list[Any]:
        """Return CSV and TensorBoard loggers for a training; a resumed training gets new files."""
        if not self.writes:
            return []
        from lightning_fabric.loggers import CSVLogger, TensorBoardLogger  # slow to import

        root = self.folder / "logs"
        part = f"part-{len(list((root / name).glob('part-*'))) + 1}"
        with writing(root):
            root.mkdir(parents=True, exist_ok=True)
            return [
                CSVLogger(root, name=name, version=part, flush_logs_every_n_steps=1),
                TensorBoardLogger(root, name=name, version=part),
            ]

    def log(self) -> TextIO:
        """Open the log file for appending."""
        with writing(self.folder / LOG):
            self.folder.mkdir(parents=True, exist_ok=True)
            return (self.folder / LOG).open("a", buffering=1)

    def _write(self, name: str, content: bytes) -> Path:
        path = self.folder / name
        return write_bytes(path, content) if self.writes else path


def new_place(folder: str | Path | None, name: str) -> Path:
    """Return the path for a new run: `folder`, or runs/NAME-DATE-TIME. Creates nothing.

    Raises:
        InputError: If the directory exists and is not empty.
    """
    place = Path(folder) if folder else Path("runs") / f"{name}-{time.strftime('%Y%m%d-%H%M%S')}"
    with writing(place):
        if place.exists() and (not place.is_dir() or any(place.iterdir())):
            hint = f"choose another --out, or go on with it by --resume {place}"
            raise InputError("a new or empty directory for the run", str(place), hint)
    return place


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
