"""What the command line says of recipes: all of them, one whole, and what a run that was begun with one keeps of it."""

import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.papers.recipes import Recipe
    from lowcurve.results import Result
    from lowcurve.store import Run

log = logging.getLogger("lowcurve")
FILE = "recipe.json"
"""Where a run keeps the recipe that it was begun with, as it was then."""
BESIDE = "beside the paper"
HERE = ("data_dir", "accelerator", "devices", "nodes", "strategy")
"""Settings that say where a study is made and not what it is."""
USAGE = """usage: lowcurve recipes [KEY]

Lists the recipes, a row of a paper's table each, with the paper's numbers; with a KEY shows one whole.
Train one with: lowcurve train KEY [options]; a word of an option comes before the recipe's.
"""


def shown(words: list[str]) -> int:
    """The command `lowcurve recipes`."""
    from rich.console import Console

    from lowcurve.papers.recipes import get_recipe

    if any(word in ("-h", "--help") for word in words):
        print(USAGE, end="")
        return 0
    if len(words) > 1:
        raise InputError("at most one key", " ".join(words), "write lowcurve recipes KEY")
    console = Console()
    if words:
        console.print(_whole(get_recipe(words[0])), markup=False, highlight=False, soft_wrap=True)
    else:
        _list(console)
    return 0


def _list(console: Any) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from lowcurve.papers.recipes import get_recipes

    listed = Table(title="Recipes", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    listed.add_column("recipe", no_wrap=True)
    listed.add_column("what it trains, and the paper's numbers (accuracies in %)")
    for one in get_recipes():
        listed.add_row(one.key, f"{one.title}\n{_values(one)}")
    console.print(listed)
    console.print("lowcurve recipes KEY shows one whole, lowcurve train KEY trains it", highlight=False)


def _values(recipe: "Recipe") -> str:
    return ", ".join(f"{name} {value}" for name, value in recipe.values.items())


def _whole(recipe: "Recipe") -> str:
    import yaml

    lines = [recipe.title, f"lowcurve train {recipe.key}", "", f"The paper ({recipe.paper}; accuracies in %):"]
    lines += [f"  {name:<20}{value}" for name, value in recipe.values.items()]
    if recipe.quotation:
        lines += ["", "In its own words:", f'  "{recipe.quotation}"']
    if recipe.differs:
        lines += ["", "What differs, and what it does not say:", *(f"  * {reason}" for reason in recipe.differs)]
    written = yaml.safe_dump(dict(recipe.settings), sort_keys=False, default_flow_style=None, allow_unicode=True)
    lines += ["", f"The settings, over those of --data {recipe.settings['data']} --scale paper:"]
    lines += [f"  {line}" for line in written.splitlines()]
    return "\n".join(lines)


def announce(recipe: "Recipe | None") -> None:
    """Say what a training follows, what the paper found, and what differs from it."""
    if recipe is None:
        return
    log.info("recipe %s: %s. The paper has %s (%s)", recipe.key, recipe.title, _values(recipe), recipe.paper)
    for reason in recipe.differs:
        log.info("differs: %s", reason)


def keep(recipe: "Recipe | None", run: "Run") -> None:
    """Keep the recipe in the run that is begun with it."""
    if recipe is not None:
        run.write_json(FILE, asdict(recipe))


def kept(run: "Run") -> "Recipe | None":
    """The recipe that the run was begun with, if it was."""
    from lowcurve.papers.recipes import Recipe

    content = run.read_json(FILE)
    if content is None:
        return None
    try:
        return Recipe(**content)
    except TypeError:
        raise InputError(
            f"the recipe of the run in {run.folder / FILE}", "another content", "restore the file, or delete it"
        ) from None


def beside(recipe: "Recipe | None", run: "Run", results: Mapping[str, "Result"]) -> dict[str, "Result"]:
    """The results with the paper's numbers after the comparison, where the run follows a recipe."""
    if recipe is None:
        return dict(results)
    first = {name: result for name, result in results.items() if name == "comparison"}
    return {**first, BESIDE: recipe.make_table(results, _changed(recipe, run)), **results}


def lines(results: Mapping[str, "Result"]) -> list[Any]:
    """What the terminal shows of the paper's numbers: nothing before there is one of ours beside them."""
    from lowcurve.cli.terminal import table
    from lowcurve.results import Table

    papers = results.get(BESIDE)
    if not isinstance(papers, Table) or all(ours is None for _, _, ours, _ in papers.rows):
        return []
    return [table(papers), *filter(None, [papers.caption])]


def facts(recipe: "Recipe | None") -> dict[str, str]:
    """What the report says of the recipe."""
    if recipe is None:
        return {}
    return {"recipe": f"{recipe.key} ({recipe.paper})", "differs from the paper": " ".join(recipe.differs)}


def _changed(recipe: "Recipe", run: "Run") -> list[str]:
    """The names of what the run has otherwise than the recipe at its own scale."""
    from lowcurve.cli.words import flat

    own = dict(flat("", json.loads(json.dumps(asdict(recipe.study().resolve())))))
    there = dict(flat("", run.read_settings()))
    return [name for name in own if name.split(".")[0] not in HERE and own[name] != there.get(name)]
