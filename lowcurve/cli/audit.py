"""The command audit: attack and audit networks, write one file and one page, and exit by the verdict."""

import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.cli.parsing import flat
from lowcurve.cli.processes import prepare_process
from lowcurve.cli.requests import Request, parse
from lowcurve.cli.terminal import console, message_stream, print_json, progress_bars
from lowcurve.cli.threads import one_thread
from lowcurve.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from lowcurve.data import DataSet
    from lowcurve.evaluation.audit import Audit
    from lowcurve.results import Result
    from lowcurve.study.settings import Study

log = logging.getLogger("lowcurve")
NUMBERS, PAGE = "audit.json", "audit.html"
EXIT_CODES = {"reliable as far as tested": 0, "warnings": 0, "unreliable": 1, "too weak to judge": 3}
"""The command's exit code for each level of a verdict."""


def run(command: str, words: list[str]) -> int:
    """Audit a network of the user's own, or all networks of a run.

    Args:
        command: Its name, audit.
        words: The words after it.

    Returns:
        0 if no test failed, 1 if a robust accuracy is unreliable, 3 if a network is too weak to judge and none unreliable.
    """
    prepare_process()
    sys.path.insert(0, os.getcwd())  # for --model package.module:function
    request = parse(command, words)
    study = request.study
    _check(study)
    from lowcurve.store import Run
    from lowcurve.store.provenance import describe_origin
    from lowcurve.study.audit_results import audit_alone
    from lowcurve.study.pipeline import load_data

    place = _place(request)
    with one_thread():  # loading and trying a network is quicker so
        data = load_data(study)
        models = _networks(request, data)
    audits: dict[str, Audit] = {}
    results: dict[str, Mapping[str, Result]] = {}
    with _log_to_terminal(), progress_bars() as progress:
        for name, model in models.items():
            audits[name], results[name] = audit_alone(study, name, model, data.test, progress)
    written = _write(place, study, audits, results)
    Run(place).add_origin(describe_origin(shlex.join(["lowcurve", command, *words]), data, ("test",)))
    content = {"audits": {name: found.to_dict() for name, found in audits.items()}, "reports": [*map(str, written)]}
    if not print_json(content):
        screen = console()
        for name, found in audits.items():
            screen.print(f"{name}: {found!r}", markup=False, highlight=False, soft_wrap=True)
        for path in written:
            screen.print(f"written: {path}", soft_wrap=True, highlight=False)
    codes = {EXIT_CODES[found.level] for found in audits.values()}
    return 1 if 1 in codes else max(codes)


def _check(study: "Study") -> None:
    if study.evaluation.audited < 1:
        raise InputError("at least one image to audit", "none", "write --evaluation.audited 120")
    if study.devices * study.nodes > 1:
        hint = "leave out --devices and --nodes, or write lowcurve attack, which shares the audit among processes"
        raise InputError("one process", study.devices * study.nodes, hint)


def _place(request: Request) -> Path:
    """Return the folder for the files: that of the run, or a new one."""
    from lowcurve.store import new_place

    if request.run is not None:
        return request.run.folder
    if request.study.model is None:
        hint = "write lowcurve audit RUN, or give --model package.module:function --weights FILE --data NAME"
        raise InputError("a run or a model", "neither", hint)
    return new_place(request.out, f"audit-{Path(request.study.data).stem}")


def _networks(request: Request, data: "DataSet") -> "dict[str, nn.Module]":
    """Return the networks by name, on the device of the study."""
    from lowcurve.cli.study import check_accuracy, given_network
    from lowcurve.study.comparison import GIVEN, sort_networks
    from lowcurve.study.measured_network import launch_fabric

    device = launch_fabric(request.study.hardware).device
    if request.run is not None:
        names = sort_networks(request.run.networks())
        if not names:
            raise InputError("a run with at least one network", f"none in {request.run.folder}", "write lowcurve train")
        return {name: request.run.load_network(name).to(device) for name in names}
    model = given_network("audit", request.study, data, None)
    assert model is not None
    check_accuracy(model, data)
    return {GIVEN: model.to(device)}


def _write(
    place: Path, study: "Study", audits: "Mapping[str, Audit]", results: "Mapping[str, Mapping[str, Result]]"
) -> list[Path]:
    """Write the numbers and the page, and return their paths."""
    from lowcurve.evaluation.audit import SCHEMA
    from lowcurve.store import write_bytes
    from lowcurve.store.provenance import machine_facts
    from lowcurve.study.comparison import compare, unreliable
    from lowcurve.study.report_groups import Report

    facts = {**machine_facts(), "seed": str(study.seed)}
    ball = f"{study.norm} radius {study.radius}"
    together = compare({f"attack-{name}": found for name, found in results.items()}, [*audits])
    settings = dict(flat("", _plain(study)))
    listed = f"{len(audits)} network{'' if len(audits) == 1 else 's'}"
    written = Report(
        title=f"Audit on {Path(study.data).name}",
        lead=f"{listed} on {Path(study.data).name}, attacked by the suite {study.attacks} at {ball} and audited.",
        results=together,
        ball=ball,
        suite=study.suite,
        facts=facts,
        settings=settings,
        warnings=[f"{name}: {verdict}" for name, verdict in unreliable(together["comparison"]).items()],  # type: ignore[arg-type]
    )
    content = {
        "schema": SCHEMA,
        "facts": facts,
        "settings": settings,
        "audits": {name: found.to_dict() for name, found in audits.items()},
    }
    numbers = json.dumps(content, ensure_ascii=False, indent=1, default=str).encode()
    return [write_bytes(place / NUMBERS, numbers), write_bytes(place / PAGE, written.write().encode())]


def _plain(study: "Study") -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(study)


@contextmanager
def _log_to_terminal() -> "Iterator[None]":
    """Show what the package logs, errors apart, which the command prints itself."""
    handler = logging.StreamHandler(message_stream())
    handler.setFormatter(logging.Formatter("%(message)s"))
    handler.addFilter(lambda record: record.levelno < logging.ERROR)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
