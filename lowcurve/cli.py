"""The command line: words to calls. Torch is imported only once a command runs, so that help comes at once."""

import argparse
import contextlib
import logging
import os
import platform
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.experiments.settings import Study
    from lowcurve.store import Run

T = TypeVar("T")
log = logging.getLogger("lowcurve")

COMMANDS = {
    "study": "train four networks, measure their curvature, attack them, and write a report",
    "train": "train the networks of a study, into a run directory",
    "measure": "measure the curvature of a run's networks, or of your own",
    "attack": "attack a run's networks, or your own",
    "report": "write a run's study.json and report.html again",
}
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
        return _run(words[0], words[1:])
    except InputError as error:
        print(f"lowcurve: {error}", file=sys.stderr)
        return 2


def _run(command: str, words: list[str]) -> int:
    # Threads that spin while they wait make small tensors on a busy machine 10 to 60 times slower. Before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    sys.path.insert(0, os.getcwd())  # for --model package.module:factory
    options, study = _parse(command, words)
    run = _open(command, options, study)
    study = _settings(run, study, options)
    with _logged(run):
        log.info("lowcurve %s in %s", command, run.folder)
        try:
            _steps(command, study, run)
        except KeyboardInterrupt:
            print(f"\ninterrupted; {run.folder} is whole. Go on with: lowcurve study --resume {run.folder}", file=sys.stderr)
            return 130
        except InputError:
            print(f"what was finished is kept in {run.folder}", file=sys.stderr)
            raise
    return 0


def _parse(command: str, words: list[str]) -> tuple[argparse.Namespace, "Study"]:
    """The few options that say where, and the study's settings: presets by data and scale, then a file, then the words."""
    from jsonargparse import ArgumentParser

    from lowcurve.experiments.settings import SCALES, Study, preset

    where = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    where.add_argument("--data", default="digits")
    where.add_argument("--scale", default="laptop")
    known, _ = where.parse_known_args(words)
    parser = ArgumentParser(prog=f"lowcurve {command}", description=COMMANDS[command] + ".", exit_on_error=True)
    if command != "study":
        parser.add_argument("run", nargs="?", help="the directory of an earlier run")
    parser.add_argument("--out", type=str | None, default=None, help="a new run directory (default: one under runs/)")
    parser.add_argument("--resume", type=str | None, default=None, help="go on with this run, with its own settings")
    parser.add_argument("--scale", type=str, default="laptop", help=f"presets: {', '.join(SCALES)}")
    parser.add_argument("--config", action="config", help="read settings from this YAML file")
    parser.add_class_arguments(Study, as_group=False)
    parser.set_defaults(_defaults(preset(known.data, known.scale)))
    parsed = parser.parse_args(words)
    made = parser.instantiate_classes(parsed)
    names = [f.name for f in fields(Study)]
    where_to = argparse.Namespace(
        run=getattr(parsed, "run", None) or parsed.resume, out=parsed.out, given=_given(words, names)
    )
    return where_to, Study(**{name: made[name] for name in names})


def _defaults(study: "Study") -> dict[str, Any]:
    def flat(prefix: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, dict):
            for key, inner in value.items():
                yield from flat(f"{prefix}.{key}" if prefix else key, inner)
        else:
            yield prefix, value

    return dict(flat("", asdict(study)))


def _given(words: list[str], names: list[str]) -> list[str]:
    """The settings that were written on the command line, which a run that exists cannot take."""
    written = [word.removeprefix("--").split("=")[0] for word in words if word.startswith("--")]
    return [word for word in written if word.split(".")[0] in [*names, "scale", "config"]]


def _open(command: str, options: argparse.Namespace, study: "Study") -> "Run":
    from lowcurve.store import Run

    if options.run is not None:
        if options.out is not None:
            raise InputError("a run to go on with, or a new one", "both", "leave out --out")
        return Run.open(options.run)
    if command == "report":
        raise InputError("the run to report on", "none", "write lowcurve report RUN")
    if command in ("measure", "attack") and study.model is None:
        mend = f"write lowcurve {command} RUN, or give --model package.module:factory --weights FILE --data NAME"
        raise InputError("a run or a model", "neither", mend)
    return Run.create(options.out, f"{command}-{Path(study.data).name}")


def _settings(run: "Run", study: "Study", options: argparse.Namespace) -> "Study":
    """The run's own settings where it has them; steps of the evaluation may be asked for otherwise than before."""
    if options.run is None:
        run.write_settings(study)
        return study
    from jsonargparse import ArgumentParser

    from lowcurve.experiments.settings import Study

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Study, as_group=False)
    made = parser.instantiate_classes(parser.parse_object(run.read_settings()))
    stored = Study(**{f.name: made[f.name] for f in fields(Study)})
    changes = {name.split(".")[0] for name in options.given}
    allowed = {"evaluation", "radius", "norm", "accelerator", "data_dir"}
    if changes - allowed:
        mend = f"leave it out, or begin a new run with --out (a run can change {', '.join(sorted(allowed))})"
        raise InputError("the settings that the run was made with", f"--{sorted(changes - allowed)[0]}", mend)
    stored = replace(stored, **{name: getattr(study, name) for name in changes})
    if changes:
        run.write_settings(stored)
    return stored


def _steps(command: str, study: "Study", run: "Run") -> None:
    from lowcurve.experiments import study as steps

    started = time.monotonic()
    if command != "report":
        data = steps.read(study)
        with _progress() as progress:
            given = _given_network(study, data.shape) if study.weights or (study.model and command != "train") else None
            if command in ("study", "train"):
                steps.train(study, data, run, given, progress)
            elif given is not None and "standard" not in run.networks():
                steps.keep_given(study, run, steps.source_of(study, data), given)
            if command in ("study", "measure"):
                steps.measure(study, data, run, progress)
            if command in ("study", "attack"):
                steps.attack(study, data, run, progress)
        log.info("%s took %.0f s", command, time.monotonic() - started)
    _report(study, run)


def _given_network(study: "Study", shape: tuple[int, ...]) -> Any:
    """The user's network with the user's weights, tried once on an input of the data's shape."""
    import torch

    from lowcurve.models import Factory
    from lowcurve.store import load_weights

    if study.model is None:
        raise InputError("a model for the weights", "--weights alone", "give --model package.module:factory too")
    model = Factory(study.model).build(study.seed)
    if study.weights is not None:
        load_weights(model, study.weights)
    model.eval()
    try:
        with torch.no_grad():
            model(torch.zeros(1, *shape))
    except RuntimeError as error:
        mend = "give the --data that the network was made for"
        raise InputError(f"a network for inputs of shape {shape}", str(error).splitlines()[0], mend) from None
    return model


def _report(study: "Study", run: "Run") -> None:
    from rich.console import Console

    from lowcurve.experiments.pictures import compare
    from lowcurve.report import page
    from lowcurve.results import Table, dump
    from lowcurve.store import NUMBERS, PAGE

    results = compare(run.parts(), run.networks())
    facts = _facts(study, run)
    run.write_json(NUMBERS, {"facts": facts, "settings": run.read_settings(), "results": {k: dump(v) for k, v in results.items()}})
    lead = (
        f"{len(run.networks())} networks on {study.data}: how strongly the loss curves in input space, and how much "
        f"accuracy an attack of {study.norm} radius {study.radius} leaves."
    )
    if not results:
        log.info("nothing to report yet: run lowcurve measure or attack on %s", run.folder)
        return
    written = run.write(PAGE, page(f"Curvature and robustness on {Path(study.data).name}", lead, list(results.values()), facts))
    console = Console()
    for result in results.values():
        if isinstance(result, Table):
            console.print(_table(result))
    console.print(f"report: {written}", soft_wrap=True)


def _facts(study: "Study", run: "Run") -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {
        "data": study.data,
        "seed": str(study.seed),
        "networks": ", ".join(run.networks()),
        "lowcurve": version("lowcurve"),
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "written": time.strftime("%Y-%m-%d %H:%M"),
        "settings": "settings.yaml beside this page; read it back with --config",
    }


def _table(table: Any) -> Any:
    from rich.table import Table as RichTable

    shown = RichTable(title=table.title)
    for number, column in enumerate(table.columns):
        shown.add_column(column.heading, justify="right" if number else "left")
    for row in table.rows:
        shown.add_row(*(column.write(cell) for column, cell in zip(table.columns, row, strict=True)))
    return shown


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[Iterable[T], str], Iterable[T]]]:
    """Bars with the time left, on a terminal; a line each otherwise."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as bars:
        yield lambda iterable, heading: bars.track(iterable, description=heading)


@contextlib.contextmanager
def _logged(run: "Run") -> Iterator[None]:
    """What is logged goes to the run's log and to the terminal."""
    from rich.logging import RichHandler

    with run.log() as file:
        on_disk = logging.StreamHandler(file)
        on_disk.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers = [on_disk, RichHandler(show_path=False, show_level=False, markup=False)]
        for handler in handlers:
            log.addHandler(handler)
        log.setLevel(logging.INFO)
        logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
        try:
            yield
        finally:
            for handler in handlers:
                log.removeHandler(handler)
