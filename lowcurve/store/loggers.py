"""Loggers of trainings by name: files in the run's directory, and the trackers of other libraries."""

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.libraries import LOGGERS, require_library, require_logger_names
from lowcurve.store.files import make_folder

if TYPE_CHECKING:
    from lowcurve.store.trackers import Tracker

log = logging.getLogger("lowcurve")
INSTALL = "'lowcurve[trackers]'"
LOGS = "logs"
"""Folder of a run with its logs."""
QUIET = ("mlflow", "alembic")
"""Libraries whose messages below a warning say nothing about a training."""


def require_loggers(kinds: Sequence[str]) -> None:
    """Raise an error for loggers that do not exist or whose library is missing.

    Args:
        kinds: Names of loggers.

    Raises:
        InputError: If a logger cannot be made.
    """
    require_logger_names(kinds)
    for kind in kinds:
        if library := LOGGERS[kind]:
            require_library(library, install=INSTALL, purpose=f"for --loggers {kind}")


def prepare_loggers(folder: Path, kinds: Sequence[str]) -> None:
    """Say where the trackers keep a run's numbers, and create what several processes will share.

    Args:
        folder: Directory of the run.
        kinds: Names of loggers.
    """
    if "wandb" in kinds and is_offline():
        log.info("wandb has no key here, so its runs stay in %s. Send them with: wandb sync DIRECTORY", folder / LOGS)
    if "mlflow" in kinds:
        from lowcurve.store.trackers import mlflow_experiment

        _, place, _ = mlflow_experiment(folder)
        log.info("MLflow keeps the run in %s. Show it with: mlflow ui --backend-store-uri %s", place, place)


def is_offline() -> bool:
    """Return True if Weights & Biases has neither a key nor a mode that the user chose: it would ask for a key."""
    wandb: Any = require_library("wandb", install=INSTALL)
    return "WANDB_MODE" not in os.environ and not wandb.api.api_key


def make_loggers(
    folder: Path, name: str, kinds: Sequence[str], settings: Mapping[str, Any] | None = None
) -> "list[Any]":
    """Return new loggers in Lightning Fabric's interface.

    Those of files write to logs/NAME/part-N in the run. A resumed training gets the next N. Weights & Biases keeps its
    files there, too, and is offline if it has no key. MLflow uses MLFLOW_TRACKING_URI, or the database logs/mlflow.db of
    the run. Trackio uses TRACKIO_DIR, or its own folder. The project is called lowcurve, unless WANDB_PROJECT,
    MLFLOW_EXPERIMENT_NAME or TRACKIO_PROJECT names it.

    Args:
        folder: Directory of the run.
        name: Name of the training. Trackers show it as RUN/NAME.
        kinds: Names of loggers: csv, tensorboard, wandb, mlflow, trackio.
        settings: Settings that the trackers show, as nested mappings.
    """
    require_loggers(kinds)
    for library in QUIET:
        logging.getLogger(library).setLevel(logging.WARNING)
    from lightning_fabric.loggers import CSVLogger  # slow to import

    from lowcurve.store.trackers import TRACKERS, Place

    root = folder / LOGS
    part = f"part-{len(list((root / name).glob('part-*'))) + 1}"
    make_folder(root / name / part)
    place = Place(folder, name, part)
    made: list[Any] = []
    for kind in kinds:
        if kind == "csv":
            made.append(CSVLogger(root, name=name, version=part, flush_logs_every_n_steps=1))
        else:
            tracker: Tracker = TRACKERS[kind](place)
            tracker.log_hyperparams(_shown(settings or {}))
            made.append(tracker)
    return made


def _shown(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings as a tracker can show them: numbers, truth values and text, by dotted name."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _shown(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            found[f"{prefix}{name}"] = ",".join(map(str, value))
        else:
            found[f"{prefix}{name}"] = value if isinstance(value, bool | int | float | str) else str(value)
    return found
