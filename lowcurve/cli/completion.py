"""The command `lowcurve completion`: a script that completes commands, options and their values in a shell.

The script is static: pressing TAB starts no Python.
"""

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

from lowcurve.cli.commands import COMMANDS
from lowcurve.cli.drawings import DRAWINGS
from lowcurve.cli.parsing import new_parser, parse_words
from lowcurve.errors import InputError, nearest

FILES = ("weights", "config")
FOLDERS = ("data-dir", "out", "resume", "RUN")


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, completion.
        words: The words after it.
    """
    import shtab

    parser = new_parser(command)
    parser.add_argument("shell", nargs="?")
    shell = parse_words(command, parser, words).shell
    known = shtab.SUPPORTED_SHELLS
    if shell not in known:
        hint = nearest(shell or "", known, "write lowcurve completion bash")
        raise InputError(f"a shell among {', '.join(known)}", repr(shell) if shell else "none", hint)
    print(shtab.complete(command_line(), shell))
    return 0


def command_line() -> argparse.ArgumentParser:
    """Return a parser of the whole command line for its completion. It describes words and parses nothing."""
    import shtab

    whole = argparse.ArgumentParser(prog="lowcurve", add_help=False)
    whole.add_argument("--version", action="store_true", help="Show the version")
    whole.add_argument("--help", action="store_true", help="List the commands")
    commands = whole.add_subparsers()
    values = choices()
    for name, command in COMMANDS.items():
        own = commands.add_parser(name, help=command.summary, add_help=False)
        for option, described in command.options.items():
            if option.isupper() and option not in command.shown:
                continue
            added = _add(
                own, option, described.text, described.value, values.get((name, option), values.get(("", option)))
            )
            if option in FILES or option in FOLDERS:
                added.complete = shtab.DIRECTORY if option in FOLDERS else shtab.FILE  # type: ignore[attr-defined]
        own.add_argument("--help", action="store_true", help="Show the options that matter")
        own.add_argument("--help-all", action="store_true", help="Show all options")
    return whole


def _add(
    parser: argparse.ArgumentParser, option: str, text: str, value: str, known: Sequence[str] | None
) -> argparse.Action:
    """Add an option or a positional word to a parser, with the values that it takes."""
    text = text.replace("%", "%%")
    if option.isupper():
        return parser.add_argument(option.lower(), nargs="?", help=text, choices=known)
    words: dict[str, Any] = {"choices": known} if value else {"action": "store_true"}
    return parser.add_argument(f"--{option}", help=text, **words)


def choices() -> Mapping[tuple[str, str], Sequence[str]]:
    """Return the words that options take, by command and option; "" stands for every command."""
    import shtab

    from lowcurve.attacks import SUITES
    from lowcurve.cli.draw import FORMS
    from lowcurve.data import NAMES
    from lowcurve.libraries import LOGGERS
    from lowcurve.models.architectures import ARCHITECTURES
    from lowcurve.papers.items import ITEMS
    from lowcurve.papers.recipes import list_recipe_keys
    from lowcurve.study.methods import METHODS
    from lowcurve.study.presets import SCALES

    return {
        ("", "data"): list(NAMES),
        ("", "scale"): list(SCALES),
        ("", "methods"): list(METHODS),
        ("", "network"): list(ARCHITECTURES),
        ("", "norm"): ["linf", "l2", "l1"],
        ("", "suite"): list(SUITES),
        ("", "loggers"): list(LOGGERS),
        ("", "accelerator"): ["auto", "cpu", "cuda"],
        ("draw", "KIND"): list(DRAWINGS),
        ("draw", "static"): list(FORMS),
        ("recipes", "KEY"): list(list_recipe_keys()),
        ("reproduce", "KEY"): list(ITEMS),
        ("completion", "SHELL"): list(shtab.SUPPORTED_SHELLS),
    }
