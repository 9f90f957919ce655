"""Help pages of the commands, as plain text that fits a terminal."""

from collections.abc import Iterable
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from lowcurve.cli.commands import COMMANDS
from lowcurve.cli.drawings import DRAWINGS
from lowcurve.cli.options import Option

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

WIDTH = 100
COLUMN = 28
"""Descriptions begin at this column."""
HARD_SPACE = "\0"
"""Stands for a space at which no line breaks."""
PLACEHOLDERS = {int: "N", float: "X", bool: "true|false", str: "TEXT"}


def overview() -> str:
    """Return the page of `lowcurve --help`."""
    lines = [f"  {name:<12}{command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: lowcurve [--version] [--help] COMMAND [options]",
            "",
            "Measures, trains and shows image classifiers of low curvature in input space, and how robust that makes them.",
            "",
            "commands:",
            *lines,
            "",
            "lowcurve COMMAND --help shows the options that matter, --help-all shows all of them.",
            "Start with: lowcurve study",
        ]
    )


def short_help(name: str) -> str:
    """Return the page of `lowcurve NAME --help`: the options that matter, each with its default, and examples."""
    command = COMMANDS[name]
    shown = {option: command.options[option] for option in command.shown}
    if len(shown) > 1 and len(shown) < len(command.options):
        shown["help-all"] = Option("", "List all options")
    return _page(name, shown.items())


def full_help(name: str, parser: "ArgumentParser", hidden: Iterable[str] = ()) -> str:
    """Return the page of `lowcurve NAME --help-all`: every option of the command's parser.

    Args:
        name: The command.
        parser: Its parser, whose descriptions come from the settings' docstrings.
        hidden: Groups of options that the command does not use.
    """
    known, left = COMMANDS[name].options, set(hidden)
    shown = COMMANDS[name].shown
    found = {option: text for option, text in known.items() if option.isupper() and option in shown}
    for action in parser._actions:
        option = next(iter(action.option_strings), "").removeprefix("--").replace("_", "-")
        is_group = type(action).__name__ == "_ActionConfigLoad"
        if option and option.replace("-", "_").split(".")[0] not in left and not is_group:
            found[option] = known.get(option) or _described(action)
    if "json" in known:  # read before the command's parser
        found["json"] = known["json"]
    return _page(name, found.items())


def _page(name: str, shown: Iterable[tuple[str, Option]]) -> str:
    command = COMMANDS[name]
    usage = " ".join(filter(None, ["usage: lowcurve", name, command.arguments, "[options]"]))
    lines = [usage, "", f"{command.summary[0].upper()}{command.summary[1:]}."]
    lines += [*command.note.splitlines(), ""]
    for option, described in shown:
        default = (
            f" (default: {described.default})".replace("default: ", f"default:{HARD_SPACE}")
            if described.default
            else ""
        )
        left = option if option.isupper() else f"--{option} {described.value}".rstrip()
        lines += _entry(left, f"{described.text.rstrip('.') if default else described.text}{default}".strip())
        if option == "KIND":
            for kind, drawing in DRAWINGS.items():
                lines += _entry(f"  {kind}", f"{drawing.text} (images: {drawing.examples})")
    heading = "example:" if len(command.examples) == 1 else "examples:"
    return "\n".join([*lines, "", heading, *(f"  {example}" for example in command.examples)])


def _entry(left: str, text: str) -> list[str]:
    lines = wrap(text, WIDTH - COLUMN, break_long_words=False, break_on_hyphens=False) or [""]
    lines = [line.replace(HARD_SPACE, " ") for line in lines]
    head = f"  {left}"
    first = [f"{head:<{COLUMN}}{lines[0]}"] if len(head) < COLUMN - 1 else [head, " " * COLUMN + lines[0]]
    return [line.rstrip() for line in (*first, *(" " * COLUMN + line for line in lines[1:]))]


def _described(action: Any) -> Option:
    """Return the description of an option from its docstring."""
    kind = getattr(action, "_typehint", action.type)
    options = [option for option in get_args(kind) if option is not type(None)] or [kind]
    if get_origin(kind) is Literal:
        value = "|".join(map(str, options))
    elif get_origin(kind) is tuple:
        value = "A,B"
    else:
        value = "|".join(dict.fromkeys(_placeholder(option) for option in options))
    default = action.default
    shown = (
        ",".join(map(str, default))
        if isinstance(default, tuple | list)
        else str(default).lower()
        if isinstance(default, bool)
        else str(default)
    )
    empty = default is None or shown in ("", "==SUPPRESS==")
    return Option(value, " ".join((action.help or "").split()), "" if empty else shown)


def _placeholder(kind: Any) -> str:
    return "|".join(map(str, get_args(kind))) if get_origin(kind) is Literal else PLACEHOLDERS.get(kind, "TEXT")
