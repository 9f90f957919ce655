"""Experiment trackers in Lightning Fabric's logger interface, which also take images. Slow to import: Fabric is."""

import contextlib
import io
import os
import re
from abc import abstractmethod
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lightning_fabric.loggers import TensorBoardLogger
from lightning_fabric.loggers.logger import Logger
from PIL import Image

from lowcurve.libraries import require_library
from lowcurve.store.files import make_folder
from lowcurve.store.loggers import INSTALL, LOGS, is_offline

PROJECT = "lowcurve"
FORBIDDEN = re.compile(r"[^\w\-. :/]", re.ASCII)
"""Characters that MLflow takes in no name."""


@dataclass(frozen=True)
class Place:
    """Names and folders of a training for a tracker.

    Args:
        folder: Directory of the run.
        name: Name of the training.
        part: Name of this attempt at it.
    """

    folder: Path
    name: str
    part: str

    @property
    def title(self) -> str:
        """The name under which trackers show the training."""
        return f"{self.folder.resolve().name}/{self.name}"

    @property
    def directory(self) -> Path:
        """The folder for files of the tracker."""
        return self.folder / LOGS / self.name / self.part


class Tracker(Logger):  # type: ignore[misc]  # Fabric is not typed
    """A logger that also takes images.

    Args:
        place: What it logs.
    """

    def __init__(self, place: Place) -> None:
        super().__init__()
        self.place = place

    @property
    def name(self) -> str:
        """The name of the training."""
        return self.place.title

    @property
    def version(self) -> str:
        """The name of this attempt at it."""
        return self.place.part

    @abstractmethod
    def log_image(self, name: str, image: Image.Image) -> None:
        """Show an image.

        Args:
            name: Its name.
            image: The image.
        """


class TensorBoard(Tracker):
    """Event files of TensorBoard."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        root = place.folder / LOGS
        self.inner = TensorBoardLogger(root, name=place.name, version=place.part, default_hp_metric=False)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write numbers."""
        self.inner.log_metrics(dict(metrics), step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Write the settings."""
        if params:
            self.inner.log_hyperparams(params)

    def log_image(self, name: str, image: Image.Image) -> None:
        """Write an image."""
        self.inner.experiment.add_image(name, np.asarray(image.convert("RGB")), dataformats="HWC")

    def finalize(self, status: str) -> None:
        """Close the file."""
        self.inner.finalize(status)


class WeightsAndBiases(Tracker):
    """A run of Weights & Biases, in the mode of WANDB_MODE; without a key it is offline."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.wandb: Any = require_library("wandb", install=INSTALL)
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=place.title,
            group=place.folder.resolve().name,
            dir=place.directory,
            mode="offline" if is_offline() else None,
            reinit="create_new",
            settings=self.wandb.Settings(silent=True),
        )

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers."""
        self.run.log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the settings."""
        self.run.config.update(params)

    def log_image(self, name: str, image: Image.Image) -> None:
        """Log an image."""
        self.run.log({name: self.wandb.Image(image)})

    def finalize(self, status: str) -> None:
        """End the run."""
        self.run.finish(exit_code=int(status != "success"))


class Mlflow(Tracker):
    """A run of MLflow."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.client, _, experiment = mlflow_experiment(place.folder)
        self.id = self.client.create_run(experiment, run_name=place.title).info.run_id

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers. Characters that MLflow does not take in a name become "_"."""
        for name, value in metrics.items():
            self.client.log_metric(self.id, FORBIDDEN.sub("_", name), float(value), step=step or 0)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the settings."""
        for name, value in (params if isinstance(params, dict) else vars(params)).items():
            self.client.log_param(self.id, FORBIDDEN.sub("_", name), value)

    def log_image(self, name: str, image: Image.Image) -> None:
        """Keep an image with the run."""
        self.client.log_image(self.id, image, f"{FORBIDDEN.sub('_', name)}.png")

    def finalize(self, status: str) -> None:
        """End the run."""
        self.client.set_terminated(self.id, "FINISHED" if status == "success" else "FAILED")


def mlflow_experiment(folder: Path) -> tuple[Any, str, str]:
    """Return MLflow's client, where it keeps a run, and the experiment, which is created if there is none.

    Args:
        folder: Directory of the run.
    """
    mlflow: Any = require_library("mlflow", install=INSTALL)
    logs = make_folder((folder / LOGS).resolve())
    own = "MLFLOW_TRACKING_URI" not in os.environ
    place = f"sqlite:///{logs / 'mlflow.db'}" if own else os.environ["MLFLOW_TRACKING_URI"]
    if own:
        # The processes of a study are forked, and must not share an open connection to the database.
        os.environ.setdefault("MLFLOW_SQLALCHEMYSTORE_POOLCLASS", "NullPool")
    client = mlflow.MlflowClient(tracking_uri=place)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    known = client.get_experiment_by_name(name)
    if known is not None:
        return client, place, known.experiment_id
    files = (logs / "mlflow").as_uri() if own else None
    return client, place, client.create_experiment(name, artifact_location=files)


class Trackio(Tracker):
    """A run of Trackio. Its messages, which are meant for a notebook, are not printed."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.trackio: Any = require_library("trackio", install=INSTALL)
        self.run: Any = None
        self.settings: dict[str, Any] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log numbers."""
        self._begin().log(dict(metrics), step=step)

    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Log the settings, which Trackio takes when a run begins."""
        self.settings = params if isinstance(params, dict) else vars(params)

    def log_image(self, name: str, image: Image.Image) -> None:
        """Log an image."""
        run = self._begin()
        run.log({name: self.trackio.Image(image, caption=name)})

    def finalize(self, status: str) -> None:  # noqa: ARG002 (Fabric names it)
        """End the run."""
        with contextlib.redirect_stdout(io.StringIO()):
            self._begin()
            self.trackio.finish()

    def _begin(self) -> Any:
        if self.run is None:
            project = os.environ.get("TRACKIO_PROJECT", PROJECT)
            with contextlib.redirect_stdout(io.StringIO()):
                self.run = self.trackio.init(project=project, name=self.place.title, config=self.settings)
        return self.run


TRACKERS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases, "mlflow": Mlflow, "trackio": Trackio}
