"""Parse command lines with jsonargparse, and explain in plain words what is wrong with them."""

import argparse
import json
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from lowcurve.errors import InputError, nearest

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace

ALIASES = {"--eps": "--radius", "--audit": "--evaluation.audit"}
NORMS = {"linf": "l_inf", "l2": "l_2", "l1": "l_1"}
"""Further spellings of norms, for options named norm."""
LARGEST = 2**63
"""Whole numbers are below it, since torch and numpy compute with 64 bits."""
KINDS: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


class UnknownOptionError(InputError):
    """A misspelt option."""

    def __str__(self) -> str:
        return f"Unknown option {self.received}. {self.hint[0].upper()}{self.hint[1:]}{'' if self.hint[-1] == '?' else '.'}"


def unknown_option(option: str, known: Iterable[str], hint: str) -> InputError:
    """Return the error for a misspelt option, which names the nearest option that exists.

    Args:
        option: What the user wrote.
        known: The options that exist.
        hint: What to do if none of them is similar.

    Example:
        >>> print(unknown_option("--method", ["--methods", "--data"], "write --help"))
        Unknown option --method. Did you mean --methods?
    """
    # Dashes are left out of the comparison: they make every two options similar.
    dashes = option[: len(option) - len(option.lstrip("-"))]
    found = nearest(option.lstrip("-"), [name.lstrip("-") for name in known], "")
    return UnknownOptionError("a known option", option, found.replace("mean ", f"mean {dashes}", 1) or hint)


def new_parser(command: str) -> "ArgumentParser":
    """Return an empty parser of a command, which raises errors and takes no abbreviations."""
    from jsonargparse import ArgumentParser

    return ArgumentParser(prog=f"lowcurve {command}", exit_on_error=False, allow_abbrev=False, add_help=False)


def parse_words(
    command: str, parser: "ArgumentParser", words: list[str], *, hidden: Iterable[str] = (), defaults: bool = True
) -> "Namespace":
    """Parse the words after a command.

    Dashes and underscores in the names of options are the same, lists need no brackets, `--eps` is `--radius`.
    `--help-all` prints every option and exits.

    Args:
        command: The command's name.
        parser: Its parser.
        words: The words after it.
        hidden: Groups of options that `--help-all` leaves out.
        defaults: Fill in the options that are not given.

    Raises:
        InputError: If the words are not options of the command.
    """
    if "--help-all" in words:
        from lowcurve.cli.help import full_help

        print(full_help(command, parser, hidden))
        raise SystemExit(0)
    for word in words:
        _require_text(word, repr(word[:40]))
    try:
        parsed = parser.parse_args(list(_canonical(command, parser, words)), defaults=defaults)
    except (argparse.ArgumentError, KeyError) as error:
        raise explain(command, parser, " ".join(str(error).split())) from None
    for name, value in flat("", parsed.as_dict()):
        _require_plain(f"--{name}", value)
    return parsed


def _require_plain(option: str, value: Any) -> None:
    """Refuse numbers that no computer word holds, and text that no file name may have, of a file of settings, too."""
    if isinstance(value, list | tuple):
        for one in value:
            _require_plain(option, one)
    if isinstance(value, str):
        _require_text(value, option)
    if isinstance(value, int) and abs(value) >= LARGEST:
        raise InputError(
            f"{option} to be a whole number below 2^63", f"one of {len(str(value))} digits", "write a smaller one"
        )
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{option} to be a finite number", value, "write a number such as 0.1")


def _require_text(word: str, option: str) -> None:
    try:
        word.encode()
    except UnicodeEncodeError:
        word = "\0"
    if "\0" in word:
        raise InputError(f"text in UTF-8 without the character NUL for {option}", "another", "write it without")


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the values of nested settings under their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value


def split_names(words: str | None) -> tuple[str, ...]:
    """Split a list of names at its commas, with or without brackets.

    Example:
        >>> split_names("standard, CURE"), split_names("[CURE]"), split_names(None)
        (('standard', 'CURE'), ('CURE',), ())
    """
    return tuple(word.strip() for word in (words or "").strip("[]").split(",") if word.strip())


def _canonical(command: str, parser: "ArgumentParser", words: list[str]) -> Iterator[str]:
    """Yield the words as the parser knows them."""
    known = parser._option_string_actions
    before = ""
    for word in words:
        if not word.startswith("--") or word == "--":
            yield _settings_of(word, known) if before == "--config" else _value(known.get(before), word)
            before = ""
            continue
        name, sign, value = word.partition("=")
        before = name.replace("-", "_").replace("__", "--", 1)
        before = ALIASES.get(before, before)
        if before not in known:
            spelled = [option.replace("_", "-") for option in (*known, *ALIASES)]
            raise unknown_option(name, spelled, f"write lowcurve {command} --help")
        if sign:
            value = _settings_of(value, known) if before == "--config" else _value(known[before], value)
        yield f"{before}={value}" if sign else before


def _settings_of(file: str, known: Mapping[str, Any]) -> str:
    """Return the settings of a YAML file as the parser knows them, or the file's name if it holds none."""
    import yaml

    try:
        content = yaml.safe_load(Path(file).read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        return file  # the parser says what is wrong with it
    return json.dumps(_canonical_settings(content, "", known), default=str) if isinstance(content, dict) else file


def _canonical_settings(content: Mapping[str, Any], prefix: str, known: Mapping[str, Any]) -> dict[str, Any]:
    """Write settings of a file as on the command line: with dashes, lists without brackets, numbers for text."""
    found = {}
    for key, value in content.items():
        option = f"--{prefix}{key}".replace("-", "_").replace("__", "--", 1)
        option = ALIASES.get(option, option)
        kind = getattr(known.get(option), "_typehint", None)
        if isinstance(value, dict):
            value = _canonical_settings(value, f"{option.removeprefix('--')}.", known)
        elif isinstance(value, str) and option in known:
            word = _value(known[option], value)
            value = split_names(word) if _is_list(kind) and word.startswith("[") else word
        elif type(value) in (int, float):
            value = [value] if _is_list(kind) else str(value) if kind in (str, str | None) else value
        found[option.removeprefix("--").removeprefix(prefix)] = value
    return found


def _value(action: Any, word: str) -> str:
    """Return an option's value with the brackets of a list and the package's spelling of a norm."""
    if action is None:
        return word
    if _is_list(getattr(action, "_typehint", None)) and not word.startswith("[") and word != "null":
        return f"[{word}]"
    return NORMS.get(word, word) if action.dest.split(".")[-1] == "norm" else word


def _is_list(kind: Any) -> bool:
    if get_origin(kind) in (Union, types.UnionType):
        return any(map(_is_list, get_args(kind)))
    return get_origin(kind) in (tuple, list)


def explain(command: str, parser: "ArgumentParser", reason: str) -> InputError:
    """Return the error that tells a user what jsonargparse found wrong.

    Args:
        command: The command's name.
        parser: Its parser.
        reason: The message of jsonargparse on one line.
    """
    known = parser._option_string_actions
    hint = f"write lowcurve {command} --help"
    if found := re.search(r'Parser key "([\w.]+)": .*?(?:Got|Given) value: (.*)$', reason):
        return _wrong_value(known.get(f"--{found[1]}"), f"--{found[1]}", found[2])
    if found := re.search(r"argument (--[\w.]+).*expected one argument", reason):
        return InputError(f"a value for {found[1]}", "none", f"write {found[1]} VALUE")
    if found := re.search(r"(?:Group '([\w.]+)' does not accept option|Option) '([\w.]+)'", reason):
        name = ".".join(filter(None, found.groups()))
        return unknown_option(name, [option.removeprefix("--") for option in known], hint)
    if found := re.search(r'Parser key "config": File does not exist: \'(.*)\'', reason):
        return InputError("a YAML file of settings", f"{found[1]}, which does not exist", "check its path")
    if found := re.search(r"unrecognized arguments: (.*)$", reason):
        return InputError(f"only options after lowcurve {command}", repr(found[1]), hint)
    if "onfig" in reason:
        return InputError("a YAML file of settings", reason, "see the file that --print-config writes")
    return InputError(f"options of lowcurve {command}", reason, hint)


def _wrong_value(action: Any, option: str, value: str) -> InputError:
    kind = getattr(action, "_typehint", None)
    kinds = [one for one in get_args(kind) if one is not type(None)] if _is_union(kind) else [kind]
    words = [str(word) for one in kinds if get_origin(one) is Literal for word in get_args(one)]
    if words:
        return InputError(
            f"{option} to be one of {', '.join(words)}",
            repr(value),
            nearest(value, words, f"write {option} {words[0]}"),
        )
    expected = " or ".join(KINDS.get(one, "a list" if _is_list(one) else "settings") for one in kinds)
    return InputError(f"{option} to be {expected}", repr(value), f"write {option} VALUE")


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, types.UnionType)
