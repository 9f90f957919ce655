"""The command `lowcurve models`: the networks that come with the package."""

from typing import TYPE_CHECKING, Any

from lowcurve.cli.parsing import new_parser, parse_words
from lowcurve.cli.terminal import AUDIT, console, empty_table, print_json, write_cell
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.store.pretrained import PretrainedNetwork


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, models.
        words: The words after it.
    """
    from lowcurve.store.pretrained import find_pretrained, list_pretrained

    parser = new_parser(command)
    parser.add_argument("name", nargs="*")
    names = parse_words(command, parser, words).name
    if len(names) > 1:
        raise InputError("at most one name", " ".join(names), "write lowcurve models NAME")
    shown = [find_pretrained(name) for name in names] or [*list_pretrained().values()]
    if print_json([{"name": one.name, "group": one.group, **one.card, **one.shared} for one in shown]):
        return 0
    screen = console()
    if names:
        screen.print(_describe(shown[0]), markup=False, highlight=False, soft_wrap=True)
        return 0
    groups: dict[str, list[PretrainedNetwork]] = {}
    for one in shown:
        groups.setdefault(one.group, []).append(one)
    for group, members in groups.items():
        screen.print(_table(group, members))
        screen.print(f"lowcurve study --pretrained {group} measures, attacks and draws them", highlight=False)
    screen.print("lowcurve models NAME shows one whole, lowcurve.load_pretrained(NAME) loads it", highlight=False)
    return 0


def _table(group: str, members: "list[PretrainedNetwork]") -> Any:
    shared = members[0].shared
    told = shared["conditions"]
    shown = empty_table(f"{group}: {told['ball']}; {told.get('examples (robustness)') or told['examples']}")
    shown.add_column("network", no_wrap=True)
    headings = [heading for heading in shared["columns"] if heading != AUDIT]
    for heading in headings:
        shown.add_column(heading, justify="right")
    for one in members:
        cells = _cells(one)
        shown.add_row(one.name, *(cells[heading] for heading in headings))
    return shown


def _cells(one: "PretrainedNetwork") -> dict[str, str]:
    """Return the measured numbers as text, by heading."""
    from lowcurve.results import Column

    columns = {heading: Column(heading, **told) for heading, told in one.shared["columns"].items()}
    measured = {key: tuple(cell) if isinstance(cell, list) else cell for key, cell in one.card["measured"].items()}
    return {key: "" if cell is None else write_cell(columns[key], cell) for key, cell in measured.items()}


def _describe(one: "PretrainedNetwork") -> str:
    settings = f"lowcurve/pretrained/{one.group}/settings.yaml"
    weights = f"{one.card['bytes'] / 1000:.0f} kB, sha256 {one.card['sha256']}"
    lines = [
        one.name,
        f"  {'method':<18}{one.method} ({settings})",
        f"  {'data':<18}{one.shared['data']}",
        f"  {'weights':<18}{weights}",
        f"  {'licence':<18}{one.shared['licence']}",
        "",
    ]
    cells = _cells(one)
    lines += [f"  {key:<18}{cells[key]:<24}{told['meaning']}" for key, told in one.shared["columns"].items()]
    lines += ["", *(f"  {key}: {value}" for key, value in (one.shared["conditions"] | one.shared["made"]).items())]
    return "\n".join(lines)
