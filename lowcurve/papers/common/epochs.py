"""Networks as they were after each epoch of their training, and standard networks that several rows start from, kept once."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lowcurve.errors import InputError
from lowcurve.papers.common.context import Context, Room
from lowcurve.papers.common.seed_tables import file_name
from lowcurve.study.pipeline import Keeper, Kept, optimization_of
from lowcurve.study.settings import Study

MOST = 20
"""So many epochs of a training are kept, evenly spread, the last among them."""
SHARED = "standard"


def keep_epochs(context: Context) -> Context:
    """The workshop, keeping every training's weights by epoch, and one standard network for all rows that start from it."""
    return replace(context, room=_Room(context.room))


def load_epochs(context: Context, row: str, study: Study, seed: int = 0) -> Iterator[tuple[int, nn.Module]]:
    """The epochs that were kept of a row's training, each with its network in eval mode; 0 is the network that it started
    from, where there is one. The study has one method; the workshop remembers.

    The weights are those of training, not of an average of them.
    """
    made, _, models = context.load_or_train(file_name(row), study, seed)
    (name,) = study.methods
    shelf = context.keeper(file_name(row), made)
    if "standard" in shelf.networks() and name != "standard":
        yield 0, shelf.load_network("standard")
    key = shelf.made_by(name) or ""
    for epoch in select_epochs(optimization_of(name, made).epochs):
        state = shelf.checkpoint(_epoch(name, epoch), key).load()
        if state is None:
            raise InputError(f"the weights of {name} after epoch {epoch}", "none", "use a workshop that remembers")
        model = deepcopy(models[name])
        model.load_state_dict(state["model"])
        yield epoch, model


def select_epochs(epochs: int) -> list[int]:
    """Which epochs are kept of so many.

    Example:
        >>> select_epochs(3), select_epochs(100)[:3]
        ([1, 2, 3], [5, 10, 15])
    """
    count = min(epochs, MOST)
    return sorted({round(epochs * (k + 1) / count) for k in range(count)})


def _epoch(name: str, epoch: int) -> str:
    return f"{name}-after-{epoch:03d}"


class _Room:
    """A room whose keepers remember."""

    def __init__(self, room: Room) -> None:
        self.room = room

    def __getattr__(self, name: str) -> Any:
        return getattr(self.room, name)

    def within(self, name: str, settings: Study) -> Keeper:
        """What is kept within it under that name, and the standard network that all names share."""
        own = self.room.within(name, settings)
        first = replace(settings, methods=(SHARED,))
        return _Shelf(settings, own, self.room.within(f"{SHARED}-{settings.network}-{settings.seed}", first))


class _Shelf:
    """A keeper for a study's networks whose standard network lies in another one."""

    def __init__(self, study: Study, own: Keeper, first: Keeper) -> None:
        self.study, self.own, self.first = study, own, first

    def __getattr__(self, name: str) -> Any:
        return getattr(self.own, name)

    def of(self, name: str) -> Keeper:
        """Where the network of that name is kept."""
        return self.first if name.split("-after-")[0] == SHARED else self.own

    def networks(self) -> tuple[str, ...]:
        """Of both."""
        return tuple(dict.fromkeys((*self.first.networks(), *self.own.networks())))

    def made_by(self, name: str) -> str | None:
        """The key of a network all of whose epochs are there."""
        key = self.of(name).made_by(name)
        if key is None:
            return None
        for epoch in select_epochs(optimization_of(name, self.study).epochs):
            state = None
            with suppress(InputError):  # the epochs of another training
                state = self.of(name).checkpoint(_epoch(name, epoch), key).load()
            if state is None:
                return None
        return key

    def load_network(self, name: str) -> nn.Module:
        """From where it is."""
        return self.of(name).load_network(name)

    def save_network(self, name: str, *what: Any) -> None:
        """To where it belongs."""
        self.of(name).save_network(name, *what)

    def loggers(self, name: str) -> list[Any]:
        """Those of where it belongs."""
        return self.of(name).loggers(name)

    def checkpoint(self, name: str, key: str) -> Kept:
        """One that keeps the weights of each epoch beside the state."""
        keeper = self.of(name)
        if "-after-" in name:
            return keeper.checkpoint(name, key)
        wanted = frozenset(select_epochs(optimization_of(name, self.study).epochs))
        return _ByEpoch(keeper, name, key, wanted)


@dataclass(frozen=True)
class _ByEpoch:
    """A checkpoint that leaves the weights of the wanted epochs behind."""

    keeper: Keeper
    name: str
    key: str
    wanted: frozenset[int]

    def load(self) -> dict[str, Any] | None:
        """The state of a training under way."""
        return self.keeper.checkpoint(self.name, self.key).load()

    def save(self, state: Mapping[str, Any]) -> None:
        """The state, and its weights where an epoch has just ended."""
        epoch = len(state["history"])
        if epoch in self.wanted and not state["sums"]:
            weights: dict[str, Tensor] = dict(state["model"])
            self.keeper.checkpoint(_epoch(self.name, epoch), self.key).save({"model": weights})
        self.keeper.checkpoint(self.name, self.key).save(state)

    def remove(self) -> None:
        """Forget the state, not the epochs."""
        self.keeper.checkpoint(self.name, self.key).remove()
