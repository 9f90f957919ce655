"""Turn the words after a study's command into a request: which run, which settings, which recipe."""

import argparse
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.cli.options import STUDY
from lowcurve.cli.parsing import explain, flat, new_parser, parse_words
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

    from lowcurve.papers.recipes import Recipe
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

CHANGEABLE = ("accelerator", "data_dir", "evaluation", "loggers", "norm", "radius", "suite")
"""Settings of an earlier run that may change: how it is evaluated, and where."""
NEW = ("loggers",)
"""Settings that runs of earlier versions lack. They change no number."""
PATHS = 30
"""Images between which `--full` searches paths."""
FREE = ("resume", "jobs", "full")
"""Words that an earlier run takes beside these."""
TRAINING = (
    *(
        "train",
        "pretrained",
        "methods",
        "network",
        "nonlinearity",
        "width",
        "training",
        "fine_tuning",
        "statistics",
        "cure",
        "gradient",
    ),
    *("low_curvature", "training_attack", "others", "validation_steps"),
)
"""Settings that the commands measure and attack do not use."""


@dataclass(frozen=True)
class Request:
    """A command with its settings.

    Args:
        run: The earlier run that it continues, if any.
        out: The directory of a new run, if one is named.
        study: All settings.
        recipe: The paper's recipe for a new run. None if it follows no recipe.
        new_settings: True if an earlier run is evaluated with other settings.
        new_ball: True if an earlier run gets a new norm or radius for its attacks.
        jobs: Number of networks side by side. None takes as many as there are free cores.
        pretrained: Run whose networks a new run takes over, if any.
    """

    run: "Run | None"
    out: str | None
    study: "Study"
    recipe: "Recipe | None" = None
    new_settings: bool = False
    new_ball: bool = False
    jobs: int | None = None
    pretrained: "Run | None" = None


def parse(command: str, words: list[str]) -> Request:
    """Parse the words after study, train, measure or attack.

    A new run starts from the preset of its data and scale, or from a recipe. Then come the settings of `--config`, and last
    those of the words. An earlier run keeps its settings; only its evaluation may change.

    Raises:
        InputError: If the words are not understood or contradict one another.
    """
    parser = _study_parser(command)
    hidden = {"study": (), "train": ("train", "pretrained")}.get(command, TRAINING)
    plain = [word for word in words if not word.replace("-", "_").startswith("__print_config")]
    given = parse_words(command, parser, plain, hidden=hidden, defaults=False)
    place, recipe = given.get("run") or given.get("resume"), _recipe(command, given.get("run"))
    written = {name.split(".")[0]: name for name, _ in flat("", given.as_dict()) if name != "run"}
    if place is not None and recipe is None:
        request = _continued(command, parser, place, words, written)
        return replace(request, study=_drawn(request.study, given), jobs=_jobs(given))
    if given.get("pretrained") is not None:
        return _pretrained(command, parser, words, given, written)
    useless = [written[name] for name in hidden if name in written]
    if useless and command != "train" and "config" not in given:
        raise InputError(f"options of lowcurve {command}, which trains nothing", f"--{useless[0]}", "leave it out")
    base = _base(given, recipe)
    _check_scale(parser, plain, given)
    study = _parsed(command, parser, words, asdict(base))
    if command == "study" and study.model is not None and not given.get("train") and "methods" not in given:
        study = replace(study, methods=())
    elif command in ("study", "train") and not study.methods and study.model is None:
        raise InputError("at least one method", "none", "write --methods standard,CURE")
    return Request(None, given.get("out"), _drawn(study.resolve(), given), recipe, jobs=_jobs(given))


def open_run(place: str) -> "tuple[Run, Study]":
    """Open a run with its settings.

    Raises:
        InputError: If there is no run, or its settings are incomplete: a preset would silently fill the gaps.
    """
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

    run = Run.open(place)
    stored = run.read_settings()
    parser = new_parser("run")
    parser.add_class_arguments(Study, as_group=False)
    try:
        study = parser.instantiate(parser.parse_object(stored))
        missing = dict(flat("", asdict(Study()))).keys() - dict(flat("", stored)).keys() - {*NEW}
        reason = f"no {min(missing)}" if missing else ""
    except (argparse.ArgumentError, KeyError) as error:
        reason = str(explain("run", parser, " ".join(str(error).split())))
    if reason:
        raise InputError(f"the settings of a study in {run.folder}", reason, "restore settings.yaml")
    return run, _study(study)


def _continued(
    command: str, parser: "ArgumentParser", place: str, words: list[str], written: Mapping[str, str]
) -> Request:
    if command == "train" and "resume" not in written and not Path(place).exists():
        _refuse_place(place)
    if "out" in written:
        raise InputError("a run to go on with, or a new one", "both", "leave out --out")
    run, _ = open_run(place)
    if fixed := [name for name in written if name not in (*CHANGEABLE, *FREE)]:
        hint = f"leave it out, or begin a new run with --out (of a run one can change {', '.join(CHANGEABLE)})"
        raise InputError("the settings that the run was made with", f"--{fixed[0]}", hint)
    study = _parsed(command, parser, words, run.read_settings())
    changed = bool(written.keys() - {"resume", "jobs"})
    return Request(run, None, study, new_settings=changed, new_ball=bool({"norm", "radius"} & written.keys()))


def _pretrained(
    command: str, parser: "ArgumentParser", words: list[str], given: Any, written: Mapping[str, str]
) -> Request:
    """Return the request for a new run with the networks of a group that comes with the package."""
    from lowcurve.store.pretrained import pretrained_run

    if command != "study":
        hint = "write lowcurve study --pretrained GROUP"
        raise InputError("--pretrained with lowcurve study", f"lowcurve {command}", hint)
    run = pretrained_run(given.pretrained)
    if fixed := [name for name in written if name not in (*CHANGEABLE, *FREE, "limits", "out", "pretrained", "seed")]:
        raise InputError(
            "networks that are trained already", f"--{fixed[0]} too", "leave it out, or leave out --pretrained"
        )
    study = replace(_parsed(command, parser, words, run.read_settings()), methods=())
    return Request(None, given.get("out"), _drawn(study, given), jobs=_jobs(given), pretrained=run)


def _jobs(given: Any) -> int | None:
    jobs: int | None = given.get("jobs")
    if jobs is not None and jobs < 1:
        raise InputError("at least one job", jobs, "write --jobs 1, or leave it out")
    return jobs


def _drawn(study: "Study", given: Any) -> "Study":
    """Return the study with the expensive figures too, if they are asked for."""
    if not given.get("full") or study.evaluation.drawn_paths:
        return study
    return replace(study, evaluation=replace(study.evaluation, drawn_paths=PATHS))


def _study_parser(command: str) -> "ArgumentParser":
    from lowcurve.study.settings import Study

    parser = new_parser(command)
    if command != "study":
        parser.add_argument("run", nargs="?")
    parser.add_argument("--out", type=str | None, default=None)
    parser.add_argument("--resume", type=str | None, default=None, help=STUDY["resume"].text)
    parser.add_argument("--scale", type=str, default="laptop")
    parser.add_argument("--jobs", type=int | None, default=None)
    parser.add_argument("--pretrained", type=str | None, default=None, help=STUDY["pretrained"].text)
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--train", action="store_true")  # everywhere, since --print-config of a study writes it
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(Study, as_group=False)
    return parser


def _base(given: Any, recipe: "Recipe | None") -> "Study":
    """Return the settings that a new run starts from."""
    from lowcurve.study.presets import preset

    if recipe is not None:
        return recipe.study(given.get("scale") or "paper")
    scale = given.get("scale") or "laptop"
    study = preset(given.get("data") or "digits", scale)
    if given.get("network") in (None, study.network):
        return study
    # The preset's nonlinearity and width are those of its network; the width of a short study is for every network.
    return replace(study, nonlinearity=None, width=study.width if scale == "smoke" else None)


def _check_scale(parser: "ArgumentParser", words: list[str], given: Any) -> None:
    """Refuse `--scale` with a file that sets everything that a scale decides."""
    from lowcurve.study.presets import SCALES, preset

    if "config" not in given or not any(word.startswith("--scale") for word in words):
        return
    file = _config_file(words)
    there = dict(flat("", parse_words("study", parser, ["--config", file], defaults=False).as_dict()))
    data, scale = given.get("data") or "digits", given["scale"]
    asked = dict(flat("", asdict(preset(data, scale))))
    others = [dict(flat("", asdict(preset(data, other)))) for other in SCALES]
    decided = [name for name, value in asked.items() if any(other.get(name, value) != value for other in others)]
    if decided and all(name in there for name in decided) and any(there[name] != asked[name] for name in decided):
        hint = f"leave out --scale, or delete from {file} what the scale should decide, such as {decided[0]}"
        raise InputError("--scale or a file with all settings", f"--scale {scale} with {file}", hint)


def _config_file(words: list[str]) -> str:
    """Return the last file that the words name with `--config`."""
    pairs = zip(words, [*words[1:], ""], strict=True)
    named = [word.partition("=")[2] or after for word, after in pairs if word.partition("=")[0] == "--config"]
    return named[-1]


def _recipe(command: str, word: str | None) -> "Recipe | None":
    """Return the recipe of that key, unless a directory has the same name."""
    if command != "train" or word is None:
        return None
    from lowcurve.papers.recipes import get_recipe, list_recipe_keys

    return get_recipe(word) if word in list_recipe_keys() and not Path(word).is_dir() else None


def _refuse_place(place: str) -> None:
    """Refuse a word that is neither a run's directory nor a recipe's key."""
    from lowcurve.papers.recipes import get_recipe

    try:
        get_recipe(place)
    except InputError as error:
        expected = f"an existing run directory, or {error.expected}"
        raise InputError(expected, error.received, error.hint) from None


def _parsed(command: str, parser: "ArgumentParser", words: list[str], defaults: dict[str, Any]) -> "Study":
    try:
        parser.set_defaults(dict(flat("", defaults)))
    except (argparse.ArgumentError, KeyError) as error:
        raise explain(command, parser, " ".join(str(error).split())) from None
    return _study(parser.instantiate(parse_words(command, parser, words)))


def _study(parsed: Any) -> "Study":
    from lowcurve.study.settings import Study

    return Study(**{field.name: parsed[field.name] for field in fields(Study)})
