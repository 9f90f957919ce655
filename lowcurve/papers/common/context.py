"""Define the items of a paper, their results, and the context in which they are made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from torch import nn

from lowcurve.data import DataSet, Examples, Limits, files_digest, load
from lowcurve.errors import InputError
from lowcurve.papers.common.epoch_run import EpochRun
from lowcurve.results import Claim, Result, Table, code_version, comparison_table, describe
from lowcurve.store import Run
from lowcurve.study import pipeline as steps
from lowcurve.study.presets import SCALES
from lowcurve.study.settings import Study
from lowcurve.types import Progress, silent


@dataclass(frozen=True)
class Context:
    """Settings with which items are made, and the run that holds their networks and results.

    Saved networks are used again only if they were trained with the same settings by the same training code. Saved results
    are used again only if they were made with the same settings by the same code.

    Args:
        scale: "smoke", "laptop" or "paper".
        data: Name of the data set.
        run: Run that holds the networks and results.
        data_dir: Folder of parquet files. It allows work without a network connection.
        seeds: Number of networks of each kind.
        rows: Rows of a table to make. Default: all.
        progress: Progress display.
        keeps_epochs: True to keep every training's weights by epoch; see `EpochRun`.
        settings: Settings of all networks used so far, by name. Filled by `load_or_train`.
    """

    scale: str
    data: str
    run: Run
    data_dir: str | None = None
    seeds: int = 2
    rows: tuple[str, ...] = ()
    progress: Progress[int] = silent
    keeps_epochs: bool = False
    settings: dict[str, Study] = field(default_factory=dict, compare=False, repr=False)

    def select_rows(self, studies: Mapping[str, Study]) -> Mapping[str, Study]:
        """Return the studies of the rows to make.

        Args:
            studies: Studies of all rows of a table.

        Raises:
            InputError: If a row does not exist.
        """
        if unknown := [row for row in self.rows if row not in studies]:
            raise InputError(f"rows among {', '.join(studies)}", repr(unknown[0]), "leave out --rows for all")
        return {row: study for row, study in studies.items() if row in self.rows or not self.rows}

    def load_or_train(self, name: str, study: Study, seed: int = 0) -> tuple[Study, DataSet, dict[str, nn.Module]]:
        """Train the networks of a study, or load them if they were trained before.

        Args:
            name: Name of the networks' run.
            study: Settings; data set and seed are replaced.
            seed: Seed of the training.

        Returns:
            The study with all settings resolved, its data set, and the networks by method.
        """
        made = replace(study, data=self.data, data_dir=self.data_dir, seed=seed).resolve()
        run = self.networks_run(name, made)
        data = _load_data(made.data, made.data_dir, made.limits, made.seed)
        steps.train(made, data, run, self.progress)
        # The folder of the data does not decide any result.
        self.settings[f"{name}-{seed}"] = resolved = replace(made, data_dir=None)
        return resolved, data, {method: run.load_network(method) for method in made.methods}

    def networks_run(self, name: str, study: Study) -> Run:
        """Return the run inside this context's run that holds the networks of a resolved study."""
        settings = replace(study, data_dir=self.data_dir)
        run = self.run.within(f"{name}-{study.seed}", settings)
        if not self.keeps_epochs:
            return run
        shared = self.run.within(EpochRun.shared_name(study), replace(settings, methods=("standard",)))
        return EpochRun(run.folder, run.writes, study=settings, shared=shared)

    def test_images(self, study: Study, count: int) -> Examples:
        """Return the first `count` test images, even if the study limits itself to fewer."""
        return _load_data(study.data, self.data_dir, replace(study.limits, test=count), study.seed).test

    def load_or_compute(
        self, name: str, settings: Any, make: Callable[[], Mapping[str, Result]]
    ) -> Mapping[str, Result]:
        """Make the results of a step, or load them if they were made before.

        Args:
            name: Name of the step.
            settings: All settings that change the results, except scale, data set and code.
            make: Function that makes the results.
        """
        key = describe((code_version(), self.scale, self.data, files_digest(self.data, self.data_dir), settings))
        results = self.run.load_part(name, key)
        if results is None:
            results = dict(make())
            self.run.save_part(name, key, results)
        return results


class Reduction(str):
    """A sentence on how the paper's setting is reduced at the scales below "paper", shown at those scales only."""


@dataclass(frozen=True)
class Reproduction:
    """Results of an item.

    Attributes:
        results: Results by name.
        claims: The paper's numbers and conclusions with ours.
        differs: Sentences on what differs from the paper.
    """

    results: Mapping[str, Result]
    claims: Sequence[Claim]
    differs: Sequence[str] = ()

    def differences_at(self, scale: str) -> list[str]:
        """Return the differences at a scale.

        Example:
            >>> Reproduction({}, [], (Reduction("Fewer epochs."), "Another optimizer.")).differences_at("paper")
            ['Another optimizer.']
        """
        return [str(line) for line in self.differs if scale != "paper" or not isinstance(line, Reduction)]


Claims = Callable[[Mapping[str, Result], str], list[Claim]]
"""Takes results by name and the name of the data set; returns the paper's numbers with ours."""


@dataclass(frozen=True)
class Item:
    """A table, figure or number of a paper.

    Attributes:
        key: PAPER/ITEM.
        title: Content of the item.
        where: Place in the paper.
        make: Function that makes the item.
        data: Data sets on which it can be made. The first is the default at the scale laptop, the last at smoke.
        paper_data: Data set of the paper. It is the default at the scale paper.
        claims: Function that compares a merged table with the paper. It serves tables whose rows are made in several
            runs.
    """

    key: str
    title: str
    where: str
    make: Callable[[Context], Reproduction] = field(repr=False)
    data: tuple[str, ...] = ("cifar10", "mnist", "digits")
    paper_data: str = "cifar10"
    claims: Claims | None = field(default=None, repr=False)

    def data_at(self, scale: str, requested: str | None) -> str:
        """Return the data set that is used at a scale.

        Args:
            scale: "smoke", "laptop" or "paper".
            requested: Data set to use instead of the default.

        Raises:
            InputError: If the scale is unknown or the item cannot be made on the data set.
        """
        if scale not in SCALES:
            raise InputError(f"a scale among {', '.join(SCALES)}", repr(scale), "write --scale laptop")
        known = (*self.data, self.paper_data)
        if requested is not None and requested not in known:
            choices = ", ".join(dict.fromkeys(known))
            raise InputError(f"data of {self.key} among {choices}", repr(requested), "leave it out")
        return requested or {"smoke": self.data[-1], "laptop": self.data[0], "paper": self.paper_data}[scale]

    def make_table(self, reproduction: Reproduction, context: Context) -> Table:
        """Return a table of the paper's numbers and ours."""
        caption = " ".join(reproduction.differences_at(context.scale))
        conditions = {"item": self.key, "paper": self.where, "scale": context.scale, "data": context.data}
        return comparison_table("Compared with the paper", reproduction.claims, caption, conditions)


@lru_cache(maxsize=4)
def _load_data(name: str, data_dir: str | None, limits: Limits, seed: int) -> DataSet:
    return load(name, data_dir=data_dir, limits=limits, seed=seed)
