"""The command report, and the report that every step of a study writes."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lowcurve.cli import recipes
from lowcurve.cli.parsing import new_parser, parse_words
from lowcurve.cli.processes import follows, machine_facts, prepare_process
from lowcurve.cli.requests import open_run
from lowcurve.cli.terminal import audit_lines, log_to, result_table
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.store import Run
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")


def report(command: str, words: list[str]) -> int:
    """Write a run's report again.

    Args:
        command: Its name, report.
        words: The words after it.
    """
    parser = new_parser(command)
    parser.add_argument("run", nargs="?")
    place = parse_words(command, parser, words).run
    if place is None:
        raise InputError("the run to report on", "none", "write lowcurve report RUN")
    prepare_process()
    run, study = open_run(place)
    if not follows():
        with log_to(run):
            write_report(study, run)
    return 0


def write_report(study: "Study", run: "Run") -> None:
    """Write a run's study.json and report.html, and print its table.

    Args:
        study: Settings of the run.
        run: The run.
    """
    from rich.console import Console

    from lowcurve.report import page
    from lowcurve.results import Table, dump
    from lowcurve.store import NUMBERS, PAGE
    from lowcurve.study.comparison import compare, unreliable
    from lowcurve.study.optional import MISSING
    from lowcurve.study.pipeline import scope_of

    recipe = recipes.load(run)
    parts = run.parts(scope_of(study, run.read_examples()))
    for name in run.parts().keys() - parts.keys():
        log.warning(
            "%s is left out of the report: it belongs to another norm or radius, or to other data. Repeat it by lowcurve "
            "measure or attack %s",
            *(name, run.folder),
        )
    results = recipes.add_comparison(recipe, run, compare(parts, run.networks()))
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
    verdicts = unreliable(headline) if isinstance(headline, Table) else {}
    warnings = [f"{name}: {verdict}" for name, verdict in verdicts.items()]
    title = f"Curvature and robustness on {Path(study.data).name}"
    written = run.write(PAGE, page(title, lead, list(results.values()), facts, warnings))
    console = Console()
    if isinstance(headline, Table):
        console.print(result_table(headline))
        for line in audit_lines(headline):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if isinstance(missing := results.get(MISSING), Table):
        for row in missing.rows:
            console.print(f"{row[0]}: no {row[1]}. {row[2]}", markup=False, highlight=False, soft_wrap=True)
    for line in recipes.terminal_lines(results):
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
        **machine_facts(),
        "settings": "settings.yaml in the run's directory; read it back with --config",
    }
