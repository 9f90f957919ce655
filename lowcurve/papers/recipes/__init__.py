"""Read the recipes of the rows of the papers' tables: settings, the paper's numbers, and what differs from its text.

A recipe is a file recipes/PAPER/TABLE/ROW.yaml of the package, and PAPER/TABLE/ROW is its key. The field `like` names another
recipe whose quotation, differences and settings are inherited. This module imports torch only when a study is made.
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
    """A row of a paper's table with the settings that reproduce it.

    Attributes:
        key: PAPER/TABLE/ROW.
        title: Network, data and method of the row.
        paper: The place in the paper.
        values: The paper's numbers as printed. Accuracies are in %.
        quotation: The paper's own words on the setting.
        differs: Sentences on settings that differ from the paper. Settings that it does not state count as well.
        settings: A partial study. The rest comes from `preset(data, "paper")`.
        counterparts: Where our number is found, for numbers that we call by another name: "HEADING" of the comparison or
            "RESULT: HEADING".
    """

    key: str
    title: str
    paper: str
    values: Mapping[str, str]
    quotation: str
    differs: tuple[str, ...]
    settings: Mapping[str, Any]
    counterparts: Mapping[str, str]

    @property
    def method(self) -> str:
        """The method that trains the row's network."""
        return str(self.settings["methods"][-1])

    def study(self, scale: str = "paper") -> "Study":
        """Return the recipe's study.

        Args:
            scale: "paper" for the recipe's own settings, "smoke" for settings shortened to seconds.

        Raises:
            InputError: If the scale is another one.

        Example:
            >>> get_recipe("moosavi2019cure/table-2/cure").study().cure.weight
            4.0
        """
        from lowcurve.study.presets import preset, shorten

        if scale not in ("paper", "smoke"):
            raise InputError("a scale paper or smoke of a recipe", repr(scale), "write --scale smoke, or leave it out")
        study = _apply_changes(preset(self.settings["data"], "paper"), self.settings)
        return study if scale == "paper" else shorten(study)

    def make_table(self, results: Mapping[str, Result], changed: Sequence[str] = ()) -> Table:
        """Make a table of the paper's numbers and ours. A column names the result that has our number.

        Args:
            results: Our results by name. Numbers that are not there yet have empty cells.
            changed: Names of settings that differ from the recipe's, which the caption lists.
        """
        rows = []
        for name, value in self.values.items():
            ours, where = _find_our_number(results, self.counterparts.get(name, name), self.method)
            rows.append((name, value, ours, where))
        headings = (
            Column("number", "The paper's name for it."),
            Column("paper", "As printed; accuracies in %."),
            Column("ours", "Our number; accuracies in %."),
            Column("ours is", "The result of this report from which our number is taken."),
        )
        caption = f"These settings differ from the recipe: {', '.join(changed)}." if changed else ""
        conditions = {"recipe": self.key, "paper": self.paper, "network": self.method}
        return Table("Compared with the paper", headings, tuple(rows), caption, conditions)


@cache
def list_recipe_keys() -> tuple[str, ...]:
    """Return the keys of all recipes in alphabetical order."""
    return tuple(sorted(_iterate_keys()))


def get_recipes() -> tuple[Recipe, ...]:
    """Return all recipes in the order of their keys."""
    return tuple(map(get_recipe, list_recipe_keys()))


def get_recipe(key: str) -> Recipe:
    """Return the recipe with this key.

    Args:
        key: PAPER/TABLE/ROW, such as "moosavi2019cure/table-2/cure".

    Raises:
        InputError: If there is no such recipe. The error names the nearest key.

    Example:
        >>> get_recipe("moosavi2019cure/table-2/cure").values
        {'clean': '81.2', 'PGD-20': '36.3'}
    """
    if key not in list_recipe_keys():
        close = difflib.get_close_matches(key, list_recipe_keys(), n=1, cutoff=0.4)
        hint = f"write {close[0]}" if close else "see lowcurve recipes"
        raise InputError("the key of a recipe", repr(key), hint)
    content = _read_file(key)
    paper = content["paper"]
    return Recipe(
        key,
        content["title"],
        paper["where"],
        {name: str(value) for name, value in paper["values"].items()},
        content.get("quotation", ""),
        tuple(content.get("differs", ())),
        content["settings"],
        paper.get("counterparts", {}),
    )


def _iterate_keys() -> Iterator[str]:
    for paper in (files("lowcurve.papers.recipes")).iterdir():
        for table in paper.iterdir() if paper.is_dir() else ():
            for row in table.iterdir() if table.is_dir() else ():
                if row.name.endswith(".yaml"):
                    yield f"{paper.name}/{table.name}/{row.name.removesuffix('.yaml')}"


def _read_file(key: str) -> dict[str, Any]:
    """Read a recipe's file and what it inherits from the recipe named by `like`."""
    content: dict[str, Any] = yaml.safe_load((files("lowcurve.papers.recipes") / f"{key}.yaml").read_text("utf-8"))
    if "like" not in content:
        return content
    first = _read_file(content["like"])
    differs = [*first.get("differs", ()), *content.get("differs", ())]
    settings = _merge_settings(first["settings"], content.get("settings", {}))
    return {"quotation": first.get("quotation", ""), **content, "differs": differs, "settings": settings}


def _merge_settings(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """Merge nested settings; the second's values win."""
    both = dict(first)
    for name, value in second.items():
        before = both.get(name)
        both[name] = _merge_settings(before, value) if isinstance(before, dict) and isinstance(value, dict) else value
    return both


def _apply_changes(value: T, changes: Mapping[str, Any]) -> T:
    """Return a settings dataclass with some of its nested fields changed."""
    known = {field.name for field in fields(value)}  # type: ignore[arg-type]
    new: dict[str, Any] = {}
    for name, change in changes.items():
        before = getattr(value, name) if name in known else None
        if isinstance(change, Mapping):
            new[name] = _apply_changes(before, change)
        elif isinstance(change, list):
            new[name] = tuple(change)
        else:
            new[name] = float(change) if isinstance(before, float) and change is not None else change
    return replace(value, **new)  # type: ignore[type-var]


def _find_our_number(results: Mapping[str, Result], place: str, network: str) -> tuple[str | None, str]:
    """Return our number at a place such as "PGD-20" or "against radius: 0.1", with the place in words, or (None, "")."""
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
