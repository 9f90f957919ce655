"""The command report, and the report that every step of a study writes."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.cli import recipes
from lowcurve.cli.parsing import flat, new_parser, parse_words
from lowcurve.cli.processes import follows, prepare_process
from lowcurve.cli.requests import open_run
from lowcurve.cli.terminal import (
    audit_lines,
    console,
    log_to,
    print_json,
    result_table,
    table_content,
    with_conditions,
)
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from lowcurve.results import Result
    from lowcurve.store import Run
    from lowcurve.study.report_groups import Report
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")
STATIC = "report-static.html"
"""The page without scripts."""
SMOKE = "This was a run at the scale smoke: it shows that everything works. Nothing can be read from its numbers."


def report(command: str, words: list[str]) -> int:
    """Write a run's report again, or one page with several runs side by side.

    Args:
        command: Its name, report.
        words: The words after it.
    """
    parser = new_parser(command)
    parser.add_argument("runs", nargs="*")
    parser.add_argument("--static", action="store_true")
    parser.add_argument("--out", type=str | None, default=None)
    asked = parse_words(command, parser, words)
    if not asked.runs:
        raise InputError("the run to report on", "none", "write lowcurve report RUN")
    if len(asked.runs) == 1 and asked.out is not None:
        raise InputError("two runs or more with --out", "one", "leave out --out: its report is in its directory")
    prepare_process()
    opened = [open_run(place) for place in asked.runs]
    if follows():
        return 0
    if len(opened) > 1:
        _write_beside(opened, asked.out, interactive=not asked.static)
        return 0
    run, study = opened[0]
    with log_to(run):
        write_report(study, run, static=asked.static)
    return 0


def write_report(study: "Study", run: "Run", *, static: bool = False) -> "dict[str, Result]":
    """Write a run's study.json and report.html, and print its table.

    Args:
        study: Settings of the run.
        run: The run.
        static: Also write the page without scripts.

    Returns:
        The results by kind.
    """
    from lowcurve.results import dump
    from lowcurve.store import NUMBERS, PAGE

    recipe = recipes.load(run)
    results = recipes.add_comparison(recipe, run, _results(study, run))
    facts = _facts(study, run) | recipes.facts(recipe)
    settings = run.read_settings()
    written = _report(study, run, results, facts, settings)
    numbers = {"facts": facts, "settings": settings, "results": {kind: dump(value) for kind, value in results.items()}}
    run.write_json(NUMBERS, {**numbers, "findings": written.sentences()})
    if not results:
        log.info("nothing to report yet: run lowcurve measure or attack on %s", run.folder)
        print_json(_content(results, [], [run.folder]))
        return results
    pages = [run.write(PAGE, written.write())]
    if static:
        pages.append(run.write(STATIC, written.write(interactive=False)))
    if not print_json(_content(results, pages, [run.folder])):
        _print(results, pages, study)
    return results


def _results(study: "Study", run: "Run") -> "dict[str, Result]":
    """Return the results of a run's report, without those of other data or of another ball."""
    from lowcurve.study.comparison import compare
    from lowcurve.study.pipeline import scope_of

    parts = run.parts(scope_of(study, run.read_examples()))
    for name in run.parts().keys() - parts.keys():
        log.warning(
            "%s is left out of the report: it belongs to another norm or radius, or to other data. Repeat it by lowcurve "
            "measure or attack %s",
            *(name, run.folder),
        )
    return compare(parts, run.networks())


def _report(
    study: "Study", run: "Run", results: "Mapping[str, Result]", facts: Mapping[str, str], settings: dict[str, Any]
) -> "Report":
    from lowcurve.results import Table
    from lowcurve.study.comparison import unreliable
    from lowcurve.study.report_groups import Report

    headline = results.get("comparison")
    verdicts = unreliable(headline) if isinstance(headline, Table) else {}
    count = len(run.networks())
    ball = f"{study.norm} radius {study.radius}"
    return Report(
        title=f"Curvature and robustness on {Path(study.data).name}",
        lead=f"{count} network{'' if count == 1 else 's'} on {Path(study.data).name}, attacked at {ball}.",
        results=results,
        ball=ball,
        suite=study.suite,
        facts=facts,
        settings=dict(flat("", settings)),
        warnings=[f"{name}: {verdict}" for name, verdict in verdicts.items()],
        commands=(
            f"lowcurve study --config {run.folder}/settings.yaml --out AGAIN",
            f"lowcurve report {run.folder} OTHER_RUN",
            f"lowcurve draw surface {run.folder}",
        ),
        before=[recipes.BESIDE],
    )


def _write_beside(opened: "list[tuple[Run, Study]]", out: str | None, *, interactive: bool) -> None:
    """Write one page and one file of numbers with the results of several runs."""
    import json

    from lowcurve.results import dump
    from lowcurve.store import write_bytes
    from lowcurve.study.report_groups import Report
    from lowcurve.study.side_by_side import beside, differences, incomparable

    short = [run.folder.name for run, _ in opened]
    names = short if len({*short}) == len(short) else [str(run.folder) for run, _ in opened]
    if len({*names}) < len(names):
        raise InputError("runs that differ", f"{names[0]} twice", "name each run once")
    found = {name: _results(study, run) for name, (run, study) in zip(names, opened, strict=True)}
    settings = {name: dict(flat("", run.read_settings())) for name, (run, _) in zip(names, opened, strict=True)}
    results = beside(found)
    if not results:
        raise InputError("runs with results", "none", "run lowcurve measure or attack on them first")
    differ = incomparable(settings)
    study = opened[0][1]
    warning = f"The runs differ in {', '.join(differ)}, so their robust accuracies are not compared."
    written = Report(
        title=f"{' and '.join(names)} side by side" if len(names) < 4 else f"{len(names)} runs side by side",
        lead=f"Networks of {len(names)} runs, named RUN: NETWORK.",
        results={**results, "differences": differences(settings)},
        ball=f"{study.norm} radius {study.radius}",
        suite=study.suite,
        facts={
            name: f"{run.folder}, data {own.data}, seed {own.seed}"
            for name, (run, own) in zip(names, opened, strict=True)
        },
        warnings=[warning] if differ else [],
        commands=(f"lowcurve report {' '.join(str(run.folder) for run, _ in opened)}",),
        before=("differences",),
        comparable=not differ,
    )
    place = Path(out) if out else opened[0][0].folder.parent / f"{'-beside-'.join(short[:3])}.html"
    numbers = {kind: dump(value) for kind, value in written.results.items()}
    content = {
        "runs": {name: str(run.folder) for name, (run, _) in zip(names, opened, strict=True)},
        "results": numbers,
    }
    write_bytes(place.with_suffix(".json"), json.dumps(content, ensure_ascii=False, indent=1).encode())
    write_bytes(place, written.write(interactive=interactive).encode())
    if not print_json(_content(results, [place], [run.folder for run, _ in opened])):
        _print({kind: result for kind, result in results.items() if kind == "comparison"}, [place])


def _content(results: "Mapping[str, Result]", pages: list[Path], folders: list[Path]) -> dict[str, Any]:
    """Return what a report prints as JSON: the tables that it prints for people, and where everything is."""
    from lowcurve.results import Table
    from lowcurve.study.optional import MISSING

    kinds = ("comparison", MISSING, recipes.BESIDE)
    tables = {kind: table_content(table) for kind in kinds if isinstance(table := results.get(kind), Table)}
    return {"runs": [*map(str, folders)], "tables": tables, "reports": [*map(str, pages)]}


def _print(results: "Mapping[str, Result]", pages: list[Path], study: "Study | None" = None) -> None:
    """Print the table of a report with its conditions, the audits' verdicts and where the pages are."""
    from lowcurve.results import Table
    from lowcurve.study.optional import MISSING
    from lowcurve.study.presets import is_smoke

    screen = console()
    if isinstance(headline := results.get("comparison"), Table):
        screen.print(result_table(headline if study is None else with_conditions(headline, study)))
        for line in audit_lines(headline):
            screen.print(line, markup=False, highlight=False, soft_wrap=True)
    if isinstance(missing := results.get(MISSING), Table):
        for row in missing.rows:
            screen.print(f"{row[0]}: no {row[1]}. {row[2]}", markup=False, highlight=False, soft_wrap=True)
    for line in recipes.terminal_lines(results):
        screen.print(line, markup=False, highlight=False, soft_wrap=isinstance(line, str))
    if study is not None and is_smoke(study):
        screen.print(SMOKE, markup=False, highlight=False, soft_wrap=True)
    for place in pages:
        screen.print(f"report: {place}", soft_wrap=True)


def _facts(study: "Study", run: "Run") -> dict[str, str]:
    from importlib.metadata import version

    from lowcurve.store.provenance import machine_facts
    from lowcurve.study.comparison import sort_networks

    return {
        "data": study.data,
        "seed": str(study.seed),
        "networks": ", ".join(sort_networks(run.networks())),
        "lowcurve": version("lowcurve"),
        **machine_facts(),
        "settings": "settings.yaml in the run's directory; read it back with --config",
    }
