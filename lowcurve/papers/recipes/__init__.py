"""Recipes: the rows of the papers' tables, each with its settings, the paper's numbers, and what differs from its text.

A recipe is the file recipes/PAPER/TABLE/ROW.yaml of the package, and that path is its key. `paper` has `where`, the `values` as
they are printed and, for those that we call otherwise, where ours stand `beside` them; `like` names another recipe, whose
quotation, differences and settings it begins from. Free of torch until a study is made.
"""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from fractions import Fraction
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from lowcurve.errors import InputError
from lowcurve.results import Column, Curves, Result, Table

if TYPE_CHECKING:
    from lowcurve.study.settings import Study

T = TypeVar("T")
COMPARISON = "comparison"


@dataclass(frozen=True)
class Recipe:
    """A row of a paper's table: the paper's numbers as printed (accuracies in %), its own words on the setting, every
    setting that is ours and why, and a partial study; what that leaves out comes from `preset(data, "paper")`.

    beside: where our numbers stand, "HEADING" of the comparison or "RESULT: HEADING", for those that we call otherwise.
    """

    key: str
    title: str
    paper: str
    values: Mapping[str, str]
    quotation: str
    differs: tuple[str, ...]
    settings: Mapping[str, Any]
    beside: Mapping[str, str]

    @property
    def network(self) -> str:
        """The method that the row is about."""
        return str(self.settings["methods"][-1])

    def study(self, scale: str = "paper") -> "Study":
        """The recipe's study: "paper", its own, or "smoke", shortened to seconds.

        Example:
            >>> get_recipe("moosavi2019cure/table-2/cure").study().cure.weight
            4.0
        """
        from lowcurve.study.presets import preset, shortened

        if scale not in ("paper", "smoke"):
            raise InputError("a scale paper or smoke of a recipe", repr(scale), "write --scale smoke, or leave it out")
        study = _changed(preset(self.settings["data"], "paper"), self.settings)
        return study if scale == "paper" else shortened(study)

    def table(self, results: Mapping[str, Result], changed: Sequence[str] = ()) -> Table:
        """The paper's numbers with ours beside them, where there are any yet, and which of our results those are. changed:
        the settings that are not the recipe's, to be said below."""
        rows = []
        for name, value in self.values.items():
            ours, where = _found(results, self.beside.get(name, name), self.network)
            rows.append((name, value, ours, where))
        headings = (
            Column("number", "What the paper calls it."),
            Column("paper", "As it is printed; accuracies in %."),
            Column("ours", "What we found; accuracies in %."),
            Column("ours is", "Which of this report's results it is."),
        )
        caption = f"Ours has other settings than the recipe: {', '.join(changed)}." if changed else ""
        conditions = {"recipe": self.key, "paper": self.paper, "network": self.network}
        return Table("Beside the paper", headings, tuple(rows), caption, conditions)


@cache
def list_recipe_keys() -> tuple[str, ...]:
    """The keys of all recipes, in alphabetical order."""
    return tuple(sorted(_keys()))


def get_recipes() -> tuple[Recipe, ...]:
    """All recipes."""
    return tuple(map(get_recipe, list_recipe_keys()))


def get_recipe(key: str) -> Recipe:
    """The recipe of that key. Errors: `InputError` for an unknown one, with the nearest.

    Example:
        >>> get_recipe("moosavi2019cure/table-2/cure").values
        {'clean': '81.2', 'PGD-20': '36.3'}
    """
    if key not in list_recipe_keys():
        close = difflib.get_close_matches(key, list_recipe_keys(), n=1, cutoff=0.4)
        hint = f"write {close[0]}" if close else "see lowcurve recipes"
        raise InputError("the key of a recipe", repr(key), hint)
    content = _content(key)
    paper = content["paper"]
    return Recipe(
        key,
        content["title"],
        paper["where"],
        {name: str(value) for name, value in paper["values"].items()},
        content.get("quotation", ""),
        tuple(content.get("differs", ())),
        content["settings"],
        paper.get("beside", {}),
    )


def _keys() -> Iterator[str]:
    for paper in (files("lowcurve.papers.recipes")).iterdir():
        for table in paper.iterdir() if paper.is_dir() else ():
            for row in table.iterdir() if table.is_dir() else ():
                if row.name.endswith(".yaml"):
                    yield f"{paper.name}/{table.name}/{row.name.removesuffix('.yaml')}"


def _content(key: str) -> dict[str, Any]:
    """A recipe's file, with what it takes from the one that it is like."""
    content: dict[str, Any] = yaml.safe_load((files("lowcurve.papers.recipes") / f"{key}.yaml").read_text("utf-8"))
    if "like" not in content:
        return content
    first = _content(content["like"])
    differs = [*first.get("differs", ()), *content.get("differs", ())]
    settings = _over(first["settings"], content.get("settings", {}))
    return {"quotation": first.get("quotation", ""), **content, "differs": differs, "settings": settings}


def _over(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """The second's values over the first's, however deep."""
    both = dict(first)
    for name, value in second.items():
        before = both.get(name)
        both[name] = _over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def _changed(value: T, changes: Mapping[str, Any]) -> T:
    """A setting with some of its fields changed, however deep they stand."""
    known = {field.name for field in fields(value)}  # type: ignore[arg-type]
    new: dict[str, Any] = {}
    for name, change in changes.items():
        before = getattr(value, name) if name in known else None
        if isinstance(change, Mapping):
            new[name] = _changed(before, change)
        elif isinstance(change, list):
            new[name] = tuple(change)
        else:
            new[name] = float(change) if isinstance(before, float) and change is not None else change
    return replace(value, **new)  # type: ignore[type-var]


def _found(results: Mapping[str, Result], place: str, network: str) -> tuple[str | None, str]:
    """Our number at a place such as "PGD-20" or "against radius: 0.1", and that place in words; none where there is none."""
    from lowcurve.study.comparison import UNRELIABLE, unreliable

    kind, _, name = place.rpartition(": ")
    result = results.get(kind or COMPARISON)
    if isinstance(result, Curves):
        near = [k for k, x in enumerate(result.x) if abs(x - Fraction(name)) < 1e-6]
        for key, line in result.lines.items():
            named, _, warning = key.partition(" (")
            value = line.y[near[0]] if named == network and near else None
            if value is not None:
                return f"{100 * value:.1f}", f"{result.title}, at {name}" + (f" ({warning}" if warning else "")
    if isinstance(result, Table):
        places = {column.heading: k for k, column in enumerate(result.columns)}
        for row in result.rows if name in places else ():
            cell, column = row[places[name]], result.columns[places[name]]
            number = cell[0] if isinstance(cell, tuple) else cell
            if row[0] == network and number is not None:
                warned = column.form.endswith("%") and name != "clean" and network in unreliable(result)
                words = f" ({UNRELIABLE})" if warned else ""
                return column.write(number).removesuffix("%"), f"{result.title}, {name}{words}"
    return None, ""
