"""The command `lowcurve draw`: pictures of a run's networks, side by side at the same images."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowcurve.cli.drawings import DRAWINGS, Drawing
from lowcurve.cli.parsing import new_parser, parse_words, split_names
from lowcurve.cli.processes import prepare_process
from lowcurve.cli.requests import open_run
from lowcurve.cli.terminal import console, progress_bars
from lowcurve.errors import InputError, nearest

if TYPE_CHECKING:
    from lowcurve.data import DataSet
    from lowcurve.figures.same_images import SameImages
    from lowcurve.results import Result
    from lowcurve.store import Run
    from lowcurve.types import Progress

FORMS = ("pdf", "png", "svg")


def run(command: str, words: list[str]) -> int:
    """Run the command.

    Args:
        command: Its name, draw.
        words: The words after it.
    """
    asked = _parse(command, words)
    drawing = DRAWINGS[asked.kind]
    prepare_process()
    from lowcurve.store import Run, write_bytes

    with progress_bars() as progress:
        shared, data = _same_images(asked, drawing, progress)
        results = drawing.draw(shared)
    place = Run(Path(asked.out) if asked.out else Path(asked.run) / "drawn")
    written = _write(asked.kind, results, shared, data, place, asked.static, write_bytes)
    for path in written:
        console().print(f"written: {path}", soft_wrap=True, highlight=False)
    return 0


def _parse(command: str, words: list[str]) -> Any:
    parser = new_parser(command)
    parser.add_argument("kind", nargs="?")
    parser.add_argument("run", nargs="?")
    parser.add_argument("--networks", type=str, default="")
    parser.add_argument("--examples", type=int | None, default=None)
    parser.add_argument("--points", type=int, default=101)
    parser.add_argument("--seed", type=int | None, default=None)
    parser.add_argument("--out", type=str | None, default=None)
    parser.add_argument("--static", type=str | None, default=None)
    parser.add_argument("--data_dir", type=str | None, default=None)
    asked = parse_words(command, parser, words)
    if asked.kind not in DRAWINGS:
        hint = nearest(asked.kind or "", DRAWINGS, "write lowcurve draw surface RUN")
        raise InputError(f"a kind among {', '.join(DRAWINGS)}", repr(asked.kind) if asked.kind else "none", hint)
    if asked.static is not None and asked.static not in FORMS:
        raise InputError(f"a form among {', '.join(FORMS)}", repr(asked.static), "write --static pdf")
    if asked.run is None:
        raise InputError("the run to draw", "none", f"write lowcurve draw {asked.kind} RUN")
    return asked


def _same_images(asked: Any, drawing: Drawing, progress: "Progress[int]") -> "tuple[SameImages, str]":
    """Return the run's networks with the images at which they are drawn, and the name of the data."""
    from lowcurve.study.measured_network import launch_fabric
    from lowcurve.study.pipeline import load_data
    from lowcurve.study.report_figures import same_images

    run, study = open_run(asked.run)
    names = _chosen(run, asked.networks)
    data = load_data(replace(study, data_dir=asked.data_dir or study.data_dir))
    _require_channels(asked.kind, drawing, data)
    study = replace(study, seed=study.seed if asked.seed is None else asked.seed)
    device = launch_fabric(study.hardware).device
    models = {name: run.load_network(name).to(device) for name in names}
    count = drawing.examples if asked.examples is None else asked.examples
    return same_images(study, data, models, count, asked.points, progress), study.data


def _require_channels(kind: str, drawing: Drawing, data: "DataSet") -> None:
    """Refuse images that a kind cannot draw, before anything is computed."""
    channels = data.shape[0] if len(data.shape) == 3 else 0
    if drawing.channels and channels not in drawing.channels:
        known = " or ".join(map(str, drawing.channels))
        hint = "draw another kind, such as lowcurve draw surface RUN"
        raise InputError(f"images of {known} channels for {kind}", f"inputs of shape {data.shape} in {data.name}", hint)


def _chosen(run: "Run", words: str) -> list[str]:
    from lowcurve.study.comparison import sort_networks

    known = sort_networks(run.networks())
    if not known:
        raise InputError("a run with at least one network", f"none in {run.folder}", "run lowcurve train first")
    names = split_names(words) or known
    if unknown := [name for name in names if name not in known]:
        hint = nearest(unknown[0], known, "leave out --networks for all")
        raise InputError(f"networks among {', '.join(known)}", repr(unknown[0]), hint)
    return list(dict.fromkeys(names))


def _write(
    kind: str,
    results: "Mapping[str, Result]",
    shared: "SameImages",
    data: str,
    place: "Run",
    form: str | None,
    write: Callable[[Path, bytes], Path],
) -> list[Path]:
    from lowcurve.report import page, static_figure, styles
    from lowcurve.results import Table, dump

    facts = _facts(shared, data)
    place.write_json(f"{kind}.json", {"facts": facts, "results": {key: dump(value) for key, value in results.items()}})
    drawing, count = DRAWINGS[kind], len(shared.models)
    title = f"{drawing.title} on {Path(data).name}"
    lead = f"{count} network{'' if count == 1 else 's'}: {drawing.text}."
    ordered = list(results.values())
    written = [place.write(f"{kind}.html", page(title, lead, ordered, facts))]
    if form is not None:
        look = styles(ordered)
        for key, result in results.items():
            if not isinstance(result, Table):
                name = f"{kind}-{re.sub('[^a-z0-9]+', '-', key.lower())}.{form}"
                written.append(write(place.folder / name, static_figure(result, form, look)))
    return written


def _facts(shared: "SameImages", data: str) -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {
        "data": data,
        "networks": ", ".join(shared.models),
        "images": ", ".join(shared.image_name(i) for i in range(len(shared.numbers))),
        "which": "the first test images that all of these networks classify correctly",
        "lowcurve": version("lowcurve"),
        "torch": torch.__version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
