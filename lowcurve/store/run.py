"""Run directories."""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
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
from lowcurve.results import Result, dump, load, read_as, training_version
from lowcurve.store.checkpoints import DiskCheckpoint
from lowcurve.store.files import reading, remove_abandoned_parts, require_unchanged, write_checked, writing
from lowcurve.store.ledgers import DiskLedger
from lowcurve.store.locks import lock
from lowcurve.store.loggers import LOGS, make_loggers
from lowcurve.store.places import RECIPE, is_unused, new_place
from lowcurve.store.weight_files import metadata_of
from lowcurve.store.weights import load_weights

SETTINGS, NUMBERS, PAGE, LOG, EXAMPLES = "settings.yaml", "study.json", "report.html", "log.txt", "examples.txt"
PROVENANCE = "provenance.json"
REMAKE = "delete it and run the step again: lowcurve study --resume RUN, or the command that made it"
RETRAIN = "delete it and train it again: lowcurve train RUN"


@dataclass(frozen=True)
class Part:
    """The file of a finished step.

    Args:
        key: Description of everything that decides the results.
        results: Results by kind, as `results.dump` makes them.
        scope: See `Run.save_part`.
    """

    key: str
    results: Mapping[str, Mapping[str, Any]]
    scope: str = ""


@dataclass(frozen=True)
class Run:
    """A run directory.

    Contents:

    * settings.yaml, study.json (all numbers of the report), report.html and log.txt.
    * examples.txt: digest of the examples on which the networks were last evaluated.
    * networks/NAME.safetensors: weights, with the architecture in the metadata.
    * parts/NAME.json: results of each finished step.
    * provenance.json: command, code, packages, machine and data of each command that worked on the run.
    * logs/NAME: training curves, as CSV or in the form of a tracker.
    * adversarial/NAME.safetensors: inputs that the attacks found.
    * .lock, held by the command that works on the run, and .digests, which holds a digest of each file.
    * checkpoints/NAME.pt and ledgers/NAME: only while a training or an attack is unfinished.

    Args:
        folder: Path of the directory.
        writes: If False, every method that writes does nothing; see `read_only`.
    """

    folder: Path
    writes: bool = True

    @classmethod
    def create(cls, place: Path, *, numbered: bool = False) -> "Run":
        """Create a run in a new or empty directory.

        Args:
            place: The directory. What a killed command left before its settings were written counts as empty.
            numbered: If the directory exists, create PLACE-2, PLACE-3 and so on instead.

        Raises:
            InputError: If the directory is not empty or cannot be written.
        """
        if not numbered:
            new_place(place, "")
        with writing(place):
            place.parent.mkdir(parents=True, exist_ok=True)
            for name in (place.name, *(f"{place.name}-{number}" for number in range(2, 1000) if numbered)):
                # Of two commands that try the same name, one makes the directory.
                with suppress(FileExistsError):
                    place.with_name(name).mkdir()
                    return cls(place.with_name(name))
        return cls(place)

    def begin(self, settings: Any, recipe: Any = None) -> None:
        """Write the settings of a new run, whole or not at all. A directory without them is not a run yet.

        Args:
            settings: Dataclass of the settings.
            recipe: Dataclass of the recipe that the run follows, or None.

        Raises:
            InputError: If another command has started a run in the directory.
        """
        new_place(self.folder, "")
        self.clean()
        if recipe is not None:
            self.write_json(RECIPE, asdict(recipe))
        self.write_settings(settings)

    def make_folder(self) -> None:
        """Create the run's directory, if there is none."""
        with writing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)

    def lock(self, command: str) -> AbstractContextManager[None]:
        """Return a context in which no other command can work on the run; see `store.locks`.

        Args:
            command: What is done.
        """
        return lock(self.folder, command)

    def clean(self) -> None:
        """Delete what killed processes left of files that they were writing."""
        if self.writes:
            remove_abandoned_parts(self.folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Run":
        """Open an existing run.

        Raises:
            InputError: If the directory has no settings file.
        """
        place = Path(folder)
        with reading(place):
            if not (place / SETTINGS).is_file():
                begun = place.is_dir() and is_unused(place) and any(place.iterdir())
                received = f"{place}, where a command was killed before it wrote them" if begun else place
                hint = f"begin again with --out {place}" if begun else "give the --out of an earlier command"
                raise InputError(f"a run directory (with {SETTINGS})", received, hint)
        return cls(place)

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
        require_unchanged(self.folder, name, REMAKE)
        try:
            with reading(path):
                return json.loads(path.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"JSON in {path}", f"{type(error).__name__}", REMAKE) from None

    def write_settings(self, settings: Any) -> None:
        """Write the settings of the run, a dataclass, as YAML."""
        self.write(SETTINGS, yaml.safe_dump(_plain(asdict(settings)), sort_keys=False))

    def read_settings(self) -> dict[str, Any]:
        """Return the settings of the run as plain values.

        Raises:
            InputError: If the file is missing or damaged.
        """
        path = self.folder / SETTINGS
        hint = f"restore the file, or begin a new run with --config {path} --out DIRECTORY"
        require_unchanged(self.folder, SETTINGS, hint, f"the settings of a study in {self.folder}")
        try:
            content = yaml.safe_load(path.read_text("utf-8"))
        except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
            raise InputError(f"settings in {path}", type(error).__name__, hint) from None
        if not isinstance(content, dict):
            raise InputError(f"settings in {path}", type(content).__name__, hint)
        return content

    def add_origin(self, entry: Mapping[str, Any]) -> None:
        """Add where the numbers of one command come from, as `store.provenance` describes it."""
        self.write_json(PROVENANCE, [*(self.read_json(PROVENANCE) or []), dict(entry)])

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
            part = read_as(Part, content)
            return part.key, {k: load(v) for k, v in part.results.items()}, part.scope
        except InputError as error:
            path = self.folder / f"parts/{name}.json"
            raise InputError(f"results of a step in {path}", f"{error.received} for {error.expected}", REMAKE) from None

    def save_network(self, name: str, source: Source | ConvertedNetwork, model: nn.Module, key: str = "") -> None:
        """Save the weights of a network as safetensors.

        Args:
            name: Name of the network.
            source: Description that rebuilds the network.
            model: The network.
            key: Description of everything that decides the weights.
        """
        state = model.state_dict()
        tensors = {k: v.detach().cpu().clone(memory_format=torch.contiguous_format) for k, v in state.items()}
        metadata = {name: json.dumps(content) for name, content in source_to_dict(source).items()} | {"made by": key}
        self._write(f"networks/{name}.safetensors", save(tensors, metadata))

    def copy_networks(self, other: "Run") -> None:
        """Take over the networks of another run, with the descriptions of what made them."""
        for path in sorted((other.folder / "networks").glob("*.safetensors")):
            self._write(f"networks/{path.name}", path.read_bytes())

    def networks(self) -> tuple[str, ...]:
        """Return the names of all saved networks."""
        return tuple(sorted(path.stem for path in (self.folder / "networks").glob("*.safetensors")))

    def made_by(self, name: str) -> str | None:
        """Return the key under which a network was saved, or None if there is no such network."""
        path = self.folder / "networks" / f"{name}.safetensors"
        if not path.is_file():
            return None
        require_unchanged(self.folder, f"networks/{name}.safetensors", RETRAIN)
        return metadata_of(path).get("made by", "")

    def load_network(self, name: str) -> nn.Module:
        """Load a network in eval mode.

        Raises:
            InputError: If its file is missing, damaged or was not written by lowcurve.
        """
        path = self.folder / "networks" / f"{name}.safetensors"
        require_unchanged(self.folder, f"networks/{name}.safetensors", RETRAIN)
        metadata = metadata_of(path)
        try:
            stored = {key: json.loads(content) for key, content in metadata.items() if key != "made by"}
            source = source_from_dict(stored)
        except (ValueError, RecursionError, TypeError, KeyError, AttributeError):
            source = None
        if source is None:
            raise InputError(f"a network of lowcurve in {path}", "safetensors of another kind", RETRAIN)
        model = source.build(seed=0)
        load_weights(model, path)
        return model.eval()

    def checkpoint(self, name: str, key: str) -> DiskCheckpoint:
        """Return the checkpoint of an unfinished training."""
        return DiskCheckpoint(self.folder / "checkpoints" / f"{name}.pt", key, self.writes, self.folder)

    def ledger(self, name: str, key: str, *, shared: bool = False) -> DiskLedger:
        """Return the ledger of unfinished attacks on a network.

        Args:
            name: Name of the network.
            key: Description of the attacks.
            shared: Write also where the run is read-only: every process of a command writes its own parts.
        """
        return DiskLedger(self.folder / "ledgers" / name, key, self.writes or shared, self.folder)

    def save_inputs(self, name: str, columns: Mapping[str, torch.Tensor]) -> None:
        """Save the inputs that attacks on a network found, with their labels, as adversarial/NAME.safetensors."""
        self._write(f"adversarial/{name}.safetensors", save({key: one.contiguous() for key, one in columns.items()}))

    def loggers(self, name: str, kinds: Sequence[str] = ("csv",), settings: Any = None) -> list[Any]:
        """Return new loggers for a training; see `store.loggers.make_loggers`."""
        if not self.writes:
            return []
        with writing(self.folder / LOGS):
            return make_loggers(self.folder, name, kinds, settings)

    def log(self) -> TextIO:
        """Open the log file for appending."""
        self.make_folder()
        with writing(self.folder / LOG):
            return (self.folder / LOG).open("a", buffering=1)

    def _write(self, name: str, content: bytes) -> Path:
        return write_checked(self.folder, name, content) if self.writes else self.folder / name


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, tuple | list) else value
