"""What every reproduced item shares: how it is asked for, the networks that it needs, and where they are kept."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Protocol

from torch import nn

from lowcurve.data import DataSet, Examples, Limits, load
from lowcurve.errors import InputError
from lowcurve.results import Claim, Result, beside, code_version, describe
from lowcurve.study import pipeline as steps
from lowcurve.study.pipeline import Keeper
from lowcurve.study.presets import SCALES
from lowcurve.study.settings import Study
from lowcurve.types import Progress, silent


class Room(Keeper, Protocol):
    """A keeper that has others within it; `store.Run` is one."""

    def within(self, name: str, settings: Any) -> Keeper: ...


@dataclass(frozen=True)
class Context:
    """Where items are made: at a scale, on a data set, with as many seeds, keeping what is finished. rows: which models of a
    table; all by default. used: of which settings were the networks that were asked for, by the names they are kept under.

    What was kept is taken up again only if it was made with the same settings by the same code, whatever its version is called:
    networks by that which trains, results by all that computes.
    """

    scale: str
    data: str
    room: Room
    data_dir: str | None = None
    seeds: int = 2
    rows: tuple[str, ...] = ()
    progress: Progress[int] = silent
    used: dict[str, Study] = field(default_factory=dict, compare=False, repr=False)

    def select_rows(self, wanted: Mapping[str, Study]) -> Mapping[str, Study]:
        """The rows that were asked for; all, unless some were."""
        if unknown := [row for row in self.rows if row not in wanted]:
            raise InputError(f"rows among {', '.join(wanted)}", repr(unknown[0]), "leave out --rows for all")
        return {row: study for row, study in wanted.items() if row in self.rows or not self.rows}

    def load_or_train(self, name: str, study: Study, seed: int = 0) -> tuple[Study, DataSet, dict[str, nn.Module]]:
        """The networks of a study by their methods, trained now or before, with the study as it was made, and its data."""
        made = replace(study, data=self.data, data_dir=self.data_dir, seed=seed).resolved()
        keeper = self.keeper(name, made)
        data = _data(made.data, made.data_dir, made.limits, made.seed)
        steps.train(made, data, keeper, self.progress)
        # Where the data lie is no setting of what is made of them.
        self.used[f"{name}-{seed}"] = placeless = replace(made, data_dir=None)
        return placeless, data, {method: keeper.load_network(method) for method in made.methods}

    def test_images(self, made: Study, count: int) -> Examples:
        """So many test images, whatever the limit of the networks' study: its own are the first of them."""
        return _data(made.data, self.data_dir, replace(made.limits, test=count), made.seed).test

    def keeper(self, name: str, made: Study) -> Keeper:
        """Where the networks of a study are kept."""
        return self.room.within(f"{name}-{made.seed}", replace(made, data_dir=self.data_dir))

    def load_or_compute(self, name: str, what: Any, make: Callable[[], Mapping[str, Result]]) -> Mapping[str, Result]:
        """The results of a step, made now or before; what: everything that decides them."""
        key = describe((code_version(), self.scale, self.data, what))
        kept = self.room.load_part(name, key)
        if kept is None:
            kept = dict(make())
            self.room.save_part(name, key, kept)
        return kept


class Reduction(str):
    """A sentence on how the paper's setting is cut short at smaller scales, which is said at these alone."""


@dataclass(frozen=True)
class Reproduction:
    """What an item came to: its results by name, the paper's numbers beside ours, and what differs from the paper."""

    results: Mapping[str, Result]
    claims: Sequence[Claim]
    differs: Sequence[str] = ()

    def differences_at(self, scale: str) -> list[str]:
        """What differs at a scale.

        Example:
            >>> Reproduction({}, [], (Reduction("Fewer epochs."), "Another optimizer.")).differences_at("paper")
            ['Another optimizer.']
        """
        return [str(line) for line in self.differs if scale != "paper" or not isinstance(line, Reduction)]


Claims = Callable[[Mapping[str, Result], str], list[Claim]]
"""Results by name and the data set -> the paper's numbers beside ours."""


@dataclass(frozen=True)
class Item:
    """A table, figure or number of a paper, and how it is made. data: what it may be made on, the first at a laptop's scale by
    default; at the scale of the paper it is `paper_data`. claims: for tables whose rows may be made in several runs, what is
    said once they are put together."""

    key: str
    title: str
    where: str
    make: Callable[[Context], Reproduction] = field(repr=False)
    data: tuple[str, ...] = ("cifar10", "mnist", "digits")
    paper_data: str = "cifar10"
    claims: Claims | None = field(default=None, repr=False)

    def data_at(self, scale: str, asked: str | None) -> str:
        """The data set that is used at a scale, unless another is asked for."""
        if scale not in SCALES:
            raise InputError(f"a scale among {', '.join(SCALES)}", repr(scale), "write --scale laptop")
        known = (*self.data, self.paper_data)
        if asked is not None and asked not in known:
            raise InputError(f"data of {self.key} among {', '.join(dict.fromkeys(known))}", repr(asked), "leave it out")
        return asked or {"smoke": self.data[-1], "laptop": self.data[0], "paper": self.paper_data}[scale]

    def table(self, found: Reproduction, context: Context) -> Result:
        """The paper's numbers beside ours."""
        caption = " ".join(found.differences_at(context.scale))
        conditions = {"item": self.key, "paper": self.where, "scale": context.scale, "data": context.data}
        return beside("Beside the paper", found.claims, caption, conditions)


@lru_cache(maxsize=4)
def _data(name: str, data_dir: str | None, limits: Limits, seed: int) -> DataSet:
    return load(name, data_dir=data_dir, limits=limits, seed=seed)
