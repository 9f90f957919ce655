"""The commands: what each does with its request."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.cli import recipes
from lowcurve.cli.draw import drawn
from lowcurve.cli.processes import circumstances, followed, follows, leading, require_processes, settle
from lowcurve.cli.reproduce import reproduced
from lowcurve.cli.terminal import logged, progress_bars, table, verdicts
from lowcurve.cli.words import Request, parse
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from lowcurve.data import DataSet
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")

COMMANDS = {
    "study": "train four networks, measure their curvature, attack them, and write a report",
    "train": "train the networks of a study, into a run directory",
    "measure": "measure the curvature of a run's networks, or of your own",
    "attack": "attack a run's networks, or your own",
    "report": "write a run's study.json and report.html again",
    "recipes": "list the papers' settings that lowcurve train takes by name, or show one",
    "reproduce": "make a paper's table or figure, its numbers beside ours",
    "draw": "draw a run's networks: boundaries, surfaces, input gradients",
}
SHARED = ("study", "train", "measure", "attack")
"""What several processes do together."""
APART = {"recipes": recipes.shown, "reproduce": reproduced, "draw": drawn}
"""Commands that are no step of a study."""
USAGE = """usage: lowcurve [--version] [--help] COMMAND [RUN] [options]

Measures, trains and shows image classifiers of low curvature in input space, and how robust that makes them.

commands:
{commands}

lowcurve COMMAND --help lists a command's options; --print_config prints its settings as YAML, --config FILE reads them.
Start with: lowcurve study
"""


def main(words: list[str] | None = None) -> int:
    """Run one command; 0 when it is done, 2 after one sentence when it was asked for something impossible, 130 on Ctrl-C."""
    words = sys.argv[1:] if words is None else words
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE.format(commands="\n".join(f"  {name:<10}{line}" for name, line in COMMANDS.items())), end="")
        return 0 if words else 2
    if words[0] == "--version":
        from importlib.metadata import version

        print(f"lowcurve {version('lowcurve')}")
        return 0
    try:
        if words[0] not in COMMANDS:
            raise InputError(f"a command among {', '.join(COMMANDS)}", repr(words[0]), "write lowcurve --help")
        return APART[words[0]](words[1:]) if words[0] in APART else _run(words[0], words[1:])
    except InputError as error:
        print(f"lowcurve: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nlowcurve: interrupted before anything was written", file=sys.stderr)
        return 130


def _run(command: str, words: list[str]) -> int:
    settle()
    sys.path.insert(0, os.getcwd())  # for --model package.module:factory
    request = parse(command, COMMANDS[command], words)
    if command in SHARED:
        require_processes(request.study.devices, request.study.nodes)
    if follows():
        return _follow(command, request)
    from lowcurve.store import Run
    from lowcurve.study import pipeline as steps

    # All that can be wrong with the request is found before a directory is made for it.
    run, study = request.run, request.study
    place = None if run else _new_place(command, request)
    data = None if command == "report" else steps.load_data(study)
    given = None if data is None else _given_network(command, study, data, run)
    if data is not None:
        steps.check_study(study, data, training=command in ("study", "train"))
    if run is None:
        assert place is not None
        run = Run.create(place)
        run.write_settings(study)
        recipes.keep(request.recipe, run)
    with leading(run), logged(run):
        log.info("lowcurve %s in %s", command, run.folder)
        try:
            if data is not None:
                _steps(command, study, data, run, given)
            _report(study, run)
        except KeyboardInterrupt:
            print(
                f"\ninterrupted; {run.folder} is whole. Go on with: lowcurve {command} {_again(command, run)}",
                file=sys.stderr,
            )
            return 130
        except InputError as error:
            log.error("%s", error)
            raise
    return 0


def _follow(command: str, request: Request) -> int:
    """Share in the work that another process leads; it alone writes."""
    if command not in SHARED:
        return 0
    from lowcurve.study import pipeline as steps

    run = followed(request)
    data = steps.load_data(request.study)
    for step in ("train", "measure", "attack"):
        if command in ("study", step):
            getattr(steps, step)(request.study, data, run)
    return 0


def _again(command: str, run: "Run") -> str:
    return f"--resume {run.folder}" if command == "study" else str(run.folder)


def _new_place(command: str, request: Request) -> Path:
    from lowcurve.store import new_place

    if command == "report":
        raise InputError("the run to report on", "none", "write lowcurve report RUN")
    if command in ("measure", "attack") and request.study.model is None:
        hint = f"write lowcurve {command} RUN, or give --model package.module:factory --weights FILE --data NAME"
        raise InputError("a run or a model", "neither", hint)
    return new_place(request.out, f"{command}-{Path(request.study.data).stem}")


def _steps(command: str, study: "Study", data: "DataSet", run: "Run", given: "nn.Module | None") -> None:
    from lowcurve.study import pipeline as steps

    started = time.monotonic()
    if command == "train":
        recipes.announce(recipes.kept(run))
    sizes = f"{len(data.train)} to train on, {len(data.validation)} for validation, {len(data.test)} to test"
    log.info("%s: %s. %s", data.name, sizes, data.note)
    if given is not None:
        steps.save_given(study, run, given)
    with progress_bars() as progress:
        if command in ("study", "train"):
            steps.train(study, data, run, progress)
        if command in ("study", "measure"):
            steps.measure(study, data, run, progress)
        if command in ("study", "attack"):
            steps.attack(study, data, run, progress)
    log.info("%s took %.0f s", command, time.monotonic() - started)


def _given_network(command: str, study: "Study", data: "DataSet", run: "Run | None") -> "nn.Module | None":
    """The user's network with the user's weights, tried once on an input of the data's shape; None where none is needed."""
    from lowcurve.study.comparison import GIVEN

    if study.model is None and study.weights is not None:
        raise InputError("a model for the weights", "--weights alone", "give --model package.module:factory too")
    wanted = study.model is not None and (study.weights is not None or command in ("measure", "attack"))
    if not wanted or (run is not None and GIVEN in run.networks()):
        return None
    from lowcurve.models import Factory
    from lowcurve.store import load_weights
    from lowcurve.study import pipeline as steps

    assert study.model is not None
    model = Factory(study.model).build(study.seed)
    if study.weights is not None:
        load_weights(model, study.weights)
    model.eval()
    steps.try_network(model, data)
    return model


def _report(study: "Study", run: "Run") -> None:
    from rich.console import Console

    from lowcurve.report import page
    from lowcurve.results import Table, dump
    from lowcurve.store import NUMBERS, PAGE
    from lowcurve.study.comparison import compare, unreliable

    recipe = recipes.kept(run)
    results = recipes.beside(recipe, run, compare(run.parts(), run.networks()))
    facts = _facts(study, run) | recipes.facts(recipe)
    run.write_json(
        NUMBERS, {"facts": facts, "settings": run.read_settings(), "results": {k: dump(v) for k, v in results.items()}}
    )
    count = len(run.networks())
    lead = (
        f"{count} network{'' if count == 1 else 's'} on {study.data}: how strongly the loss curves in input space, "
        f"and how much accuracy an attack of {study.norm} radius {study.radius} leaves."
    )
    if not results:
        log.info("nothing to report yet: run lowcurve measure or attack on %s", run.folder)
        return
    headline = results.get("comparison")
    warnings = unreliable(headline) if isinstance(headline, Table) else {}
    said = [f"{name}: {verdict}" for name, verdict in warnings.items()]
    title = f"Curvature and robustness on {Path(study.data).name}"
    written = run.write(PAGE, page(title, lead, list(results.values()), facts, said))
    console = Console()
    if isinstance(headline, Table):
        console.print(table(headline))
        for line in verdicts(headline):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    for line in recipes.lines(results):
        console.print(line, markup=False, highlight=False, soft_wrap=isinstance(line, str))
    console.print(f"report: {written}", soft_wrap=True)


def _facts(study: "Study", run: "Run") -> dict[str, str]:
    from importlib.metadata import version

    from lowcurve.study.comparison import sort_networks

    return {
        "data": study.data,
        "seed": str(study.seed),
        "networks": ", ".join(sort_networks(run.networks())),
        "lowcurve": version("lowcurve"),
        **circumstances(),
        "settings": "settings.yaml beside this page; read it back with --config",
    }
