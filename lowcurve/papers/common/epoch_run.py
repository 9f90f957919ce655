"""A run that keeps the weights of each epoch and shares one standard network with other runs."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Self

from torch import nn

from lowcurve.errors import InputError
from lowcurve.models import ConvertedNetwork, Source
from lowcurve.store import DiskCheckpoint, Run
from lowcurve.study.pipeline import optimization_of
from lowcurve.study.settings import Study

MAX_EPOCHS = 20
"""Largest number of epochs whose weights are kept for one training."""
STANDARD = "standard"


def select_epochs(epochs: int) -> list[int]:
    """Return the evenly spaced epochs whose weights are kept; the last epoch is among them.

    Example:
        >>> select_epochs(3), select_epochs(100)[:3]
        ([1, 2, 3], [5, 10, 15])
    """
    count = min(epochs, MAX_EPOCHS)
    return sorted({round(epochs * (k + 1) / count) for k in range(count)})


@dataclass(frozen=True)
class EpochRun(Run):
    """A run whose trainings keep their weights by epoch, with the standard network in a run that other runs share.

    The weights are those of training, not a moving average of them.

    Args:
        folder: Path of the directory.
        writes: If False, every method that writes does nothing.
        study: Settings of the run's networks.
        shared: Run that holds the standard network.
    """

    study: Study = field(kw_only=True)
    shared: Run = field(kw_only=True)

    @staticmethod
    def shared_name(study: Study) -> str:
        """Return the name of the run that holds the standard network of a study."""
        return f"{STANDARD}-{study.network}-{study.seed}"

    def read_only(self) -> Self:
        """Return the same run for a process that must not write."""
        return replace(self, writes=False, shared=self.shared.read_only())

    def networks(self) -> tuple[str, ...]:
        """Return the names of the networks of both runs."""
        return tuple(dict.fromkeys((*self.shared.networks(), *super().networks())))

    def made_by(self, name: str) -> str | None:
        """Return the key of a network, or None if the network or the weights of an epoch are missing."""
        key = self.shared.made_by(name) if name == STANDARD else super().made_by(name)
        if key is None:
            return None
        for epoch in select_epochs(optimization_of(name, self.study).epochs):
            weights = None
            with suppress(InputError):  # the weights belong to another training
                weights = self.epoch(name, epoch, key).load()
            if weights is None:
                return None
        return key

    def load_network(self, name: str) -> nn.Module:
        """Load a network in eval mode."""
        return self.shared.load_network(name) if name == STANDARD else super().load_network(name)

    def save_network(self, name: str, source: Source | ConvertedNetwork, model: nn.Module, key: str = "") -> None:
        """Save the weights of a network."""
        if name == STANDARD:
            self.shared.save_network(name, source, model, key)
        else:
            super().save_network(name, source, model, key)

    def loggers(self, name: str, kinds: Sequence[str] = ("csv",), settings: Any = None) -> list[Any]:
        """Return new loggers for a training."""
        if name == STANDARD:
            return self.shared.loggers(name, kinds, settings)
        return super().loggers(name, kinds, settings)

    def checkpoint(self, name: str, key: str) -> DiskCheckpoint:
        """Return the checkpoint of an unfinished training, which also keeps the weights of each epoch."""
        plain = self._checkpoint(name, key)
        epochs = select_epochs(optimization_of(name, self.study).epochs)
        return EpochCheckpoint(
            plain.path,
            key,
            plain.writes,
            plain.digests,
            epochs={epoch: self.epoch(name, epoch, key) for epoch in epochs},
        )

    def epoch(self, name: str, epoch: int, key: str) -> DiskCheckpoint:
        """Return the file of the weights after an epoch, as the state {"model": weights}."""
        return self._checkpoint(f"{name}-after-{epoch:03d}", key)

    def _checkpoint(self, name: str, key: str) -> DiskCheckpoint:
        standard = name == STANDARD or name.startswith(f"{STANDARD}-after-")
        return self.shared.checkpoint(name, key) if standard else super().checkpoint(name, key)


@dataclass(frozen=True)
class EpochCheckpoint(DiskCheckpoint):
    """A checkpoint that also saves the weights at the end of some epochs and does not delete them.

    Args:
        path: File of the state.
        key: Description of the training.
        writes: If False, `save` and `remove` do nothing.
        digests: Folder above the file that also holds its digest.
        epochs: File of the weights for each epoch to keep.
    """

    epochs: Mapping[int, DiskCheckpoint] = field(kw_only=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the state, and save its weights if one of the epochs has just ended."""
        epoch = len(state["history"])
        if epoch in self.epochs and not state["sums"]:
            self.epochs[epoch].save({"model": dict(state["model"])})
        super().save(state)
