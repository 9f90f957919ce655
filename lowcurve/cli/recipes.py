"""The command `lowcurve recipes`, and the recipe that a run follows."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lowcurve.cli.parsing import flat, new_parser, parse_words
from lowcurve.cli.terminal import console, empty_table, print_json, result_table
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.papers.recipes import Recipe
    from lowcurve.results import Result
    from lowcurve.store import Run

log = logging.getLogger("lowcurve")
BESIDE = "beside the paper"
HERE = ("data_dir", "accelerator", "devices", "nodes", "strategy", "loggers")
"""Settings that say where a study runs; they change no result."""


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, recipes.
        words: The words after it.
    """
    from lowcurve.papers.recipes import get_recipe

    parser = new_parser(command)
    parser.add_argument("key", nargs="*")
    keys = parse_words(command, parser, words).key
    if len(keys) > 1:
        raise InputError("at most one key", " ".join(keys), "write lowcurve recipes KEY")
    screen = console()
    if keys:
        recipe = get_recipe(keys[0])
        if not print_json(asdict(recipe)):
            screen.print(_describe(recipe), markup=False, highlight=False, soft_wrap=True)
    else:
        _list(screen)
    return 0


def _list(screen: Any) -> None:
    from lowcurve.papers.recipes import get_recipes

    if print_json([{"key": one.key, "title": one.title, "values": dict(one.values)} for one in get_recipes()]):
        return
    listed = empty_table("Recipes")
    listed.add_column("recipe", no_wrap=True)
    listed.add_column("what it trains, and the paper's numbers (accuracies in %)")
    for one in get_recipes():
        listed.add_row(one.key, f"{one.title}\n{_values(one)}")
    screen.print(listed)
    screen.print("lowcurve recipes KEY shows one whole, lowcurve train KEY trains it", highlight=False)


def _values(recipe: "Recipe") -> str:
    return ", ".join(f"{name} {value}" for name, value in recipe.values.items())


def _describe(recipe: "Recipe") -> str:
    import yaml

    lines = [recipe.title, f"lowcurve train {recipe.key}", "", f"The paper ({recipe.paper}; accuracies in %):"]
    lines += [f"  {name:<20}{value}" for name, value in recipe.values.items()]
    if recipe.quotation:
        lines += ["", "Quotation:", f'  "{recipe.quotation}"']
    if recipe.differs:
        lines += [
            "",
            "What differs from the paper, and what it leaves open:",
            *(f"  * {reason}" for reason in recipe.differs),
        ]
    written = yaml.safe_dump(dict(recipe.settings), sort_keys=False, default_flow_style=None, allow_unicode=True)
    lines += ["", f"Settings that replace those of --data {recipe.settings['data']} --scale paper:"]
    lines += [f"  {line}" for line in written.splitlines()]
    return "\n".join(lines)


def announce(recipe: "Recipe | None") -> None:
    """Log a training's recipe, the paper's numbers, and what differs from the paper."""
    if recipe is None:
        return
    log.info("recipe %s: %s. The paper has %s (%s)", recipe.key, recipe.title, _values(recipe), recipe.paper)
    for reason in recipe.differs:
        log.info("differs: %s", reason)


def load(run: "Run") -> "Recipe | None":
    """Return the recipe that a run follows, or None."""
    from lowcurve.papers.recipes import Recipe
    from lowcurve.results import read_as
    from lowcurve.store import RECIPE

    try:
        content = run.read_json(RECIPE)
        if content is None:
            return None
        recipe = read_as(Recipe, content)
        recipe.study()
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        hint = "restore the file, or delete it"
        raise InputError(f"the recipe of the run in {run.folder / RECIPE}", f"another content: {error}", hint) from None
    return recipe


def add_comparison(recipe: "Recipe | None", run: "Run", results: Mapping[str, "Result"]) -> dict[str, "Result"]:
    """Insert the comparison with the paper after the first table, if the run follows a recipe."""
    if recipe is None:
        return dict(results)
    first = {name: result for name, result in results.items() if name == "comparison"}
    return {**first, BESIDE: recipe.make_table(results, _changed(recipe, run)), **results}


def terminal_lines(results: Mapping[str, "Result"]) -> list[Any]:
    """Return the comparison with the paper for the terminal; empty until there is a number of ours."""
    from lowcurve.results import Table

    papers = results.get(BESIDE)
    if not isinstance(papers, Table) or all(ours is None for _, _, ours, _ in papers.rows):
        return []
    return [result_table(papers), *filter(None, [papers.caption])]


def facts(recipe: "Recipe | None") -> dict[str, str]:
    """Return the report's facts about the recipe."""
    if recipe is None:
        return {}
    return {"recipe": f"{recipe.key} ({recipe.paper})", "differs from the paper": " ".join(recipe.differs)}


def _changed(recipe: "Recipe", run: "Run") -> list[str]:
    """Return the names of settings in which a run differs from its recipe at the paper's scale."""
    own = dict(flat("", json.loads(json.dumps(asdict(recipe.study().resolve())))))
    there = dict(flat("", run.read_settings()))
    return [name for name in own if name.split(".")[0] not in HERE and own[name] != there.get(name)]
