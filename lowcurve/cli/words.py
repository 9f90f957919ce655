"""From words on a command line to the settings of a study: presets, then a file, then the words."""

import argparse
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.papers.recipes import Recipe
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

CHANGEABLE = ("accelerator", "data_dir", "evaluation", "norm", "radius", "suite")
"""What may differ from the settings that a run was begun with: how it is evaluated, and where."""


@dataclass(frozen=True)
class Request:
    """What was asked for: on which earlier run, or into which new directory, with which settings, after which recipe."""

    run: "Run | None"
    out: str | None
    study: "Study"
    recipe: "Recipe | None" = None


def parse(command: str, summary: str, words: list[str]) -> Request:
    """The request that the words make. `--data-dir` and `--data_dir` are the same option.

    A new run begins from the preset of its data and scale, or from the recipe whose key stands in a run's place; what is asked
    of an earlier run begins from that run's own settings, of which only the evaluation may change.
    """
    from lowcurve.store import Run
    from lowcurve.study.presets import preset

    words = [_underscored(word) for word in words]
    data, scale = _data_and_scale(words)
    recipe = _recipe(command, words)
    begun = preset(data or "digits", scale or "laptop") if recipe is None else recipe.study(scale or "paper")
    found = _parsed(command, summary, words, asdict(begun))
    place = getattr(found, "run", None) or found.resume
    if place is None or recipe is not None:
        return Request(None, found.out, _study(found).resolve(), recipe)
    if command == "train" and place != found.resume and not Path(place).exists():
        _no_recipe(place)
    if found.out is not None:
        raise InputError("a run to go on with, or a new one", "both", "leave out --out")
    run = Run.open(place)
    written = [word.removeprefix("--").split("=")[0].split(".")[0] for word in words if word.startswith("--")]
    if fixed := [name for name in written if name not in (*CHANGEABLE, "resume")]:
        hint = f"leave it out, or begin a new run with --out (of a run one can change {', '.join(CHANGEABLE)})"
        raise InputError("the settings that the run was made with", f"--{fixed[0]}", hint)
    _check_settings(run)
    study = _study(_parsed(command, summary, words, run.read_settings()))
    if len(written) > written.count("resume"):
        run.write_settings(study)
    return Request(run, None, study)


def _recipe(command: str, words: list[str]) -> "Recipe | None":
    """The recipe whose key stands where the directory of a run may stand, unless there is such a directory."""
    if command != "train":
        return None
    from lowcurve.papers.recipes import get_recipe, list_recipe_keys

    for before, word in zip(["", *words], words, strict=False):
        value = before.startswith("--") and "=" not in before and before != "--print_config"
        if word in list_recipe_keys() and not value and not Path(word).is_dir():
            return get_recipe(word)
    return None


def _no_recipe(place: str) -> None:
    """Say what a word is not that is neither a run's directory nor a recipe's key."""
    from lowcurve.papers.recipes import get_recipe

    try:
        get_recipe(place)
    except InputError as error:
        expected = f"an existing run directory, or {error.expected}"
        raise InputError(expected, error.received, error.hint) from None


def _check_settings(run: "Run") -> None:
    """Refuse a settings.yaml that is not whole: what is missing would silently come from a preset."""
    from jsonargparse import ArgumentParser

    from lowcurve.study.settings import Study

    stored = run.read_settings()
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study, as_group=False)
    reason = ""
    try:
        parser.parse_object(stored)
        missing = dict(flat("", asdict(Study()))).keys() - dict(flat("", stored)).keys()
        reason = f"no {sorted(missing)[0]}" if missing else ""
    except (argparse.ArgumentError, KeyError) as error:
        reason = " ".join(str(error).split())
    if reason:
        raise InputError(f"the settings of a study in {run.folder}", reason, "restore settings.yaml")


def _parsed(command: str, summary: str, words: list[str], defaults: dict[str, Any]) -> Any:
    from jsonargparse import ArgumentParser

    from lowcurve.study.presets import SCALES
    from lowcurve.study.settings import Study

    parser = ArgumentParser(
        prog=f"lowcurve {command}",
        description=f"{summary[0].upper()}{summary[1:]}.\n\n{Study.__doc__}",
        usage=f"lowcurve {command} [options]" if command == "study" else f"lowcurve {command} [RUN] [options]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )
    if command != "study":
        also = ", or the key of a recipe (lowcurve recipes)" if command == "train" else ""
        parser.add_argument("run", nargs="?", help=f"the directory of an earlier run{also}")
    parser.add_argument("--out", type=str | None, default=None, help="a new run directory (default: one under runs/)")
    parser.add_argument("--resume", type=str | None, default=None, help="go on with this run, with its own settings")
    parser.add_argument("--scale", type=str, default="laptop", help=f"presets: {', '.join(SCALES)}")
    parser.add_argument("--config", action="config", help="read settings from this YAML file")
    parser.add_class_arguments(Study, as_group=False)
    try:
        parser.set_defaults(dict(flat("", defaults)))
        return parser.instantiate(parser.parse_args(words))
    except (argparse.ArgumentError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"options of lowcurve {command}", reason, f"write lowcurve {command} --help") from None


def _study(parsed: Any) -> "Study":
    from lowcurve.study.settings import Study

    return Study(**{field.name: parsed[field.name] for field in fields(Study)})


def _underscored(word: str) -> str:
    name, sign, value = word.partition("=")
    return name[:2] + name[2:].replace("-", "_") + sign + value if word.startswith("--") else word


def _data_and_scale(words: list[str]) -> tuple[str | None, str | None]:
    """What decides the preset: said in words, or in the file that the words name, or left open."""
    import yaml

    known = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("--data", "--scale", "--config"):
        known.add_argument(name, default=None)
    try:
        found, _ = known.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise InputError(
            "a value for the option", str(error), "write --data NAME, --scale NAME or --config FILE"
        ) from None
    content: dict[str, Any] = {}
    if found.config is not None:
        try:
            content = yaml.safe_load(Path(found.config).read_text()) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(
                "a YAML file of settings", f"{found.config}: {type(error).__name__}", "check its path"
            ) from None
        if not isinstance(content, dict):
            raise InputError(
                "a YAML file of settings", f"{found.config}: {type(content).__name__}", "see --print_config"
            )
    return found.data or content.get("data"), found.scale or content.get("scale")


def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values of nested settings under their dotted names."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from flat(f"{prefix}.{key}" if prefix else key, inner)
    else:
        yield prefix, value
