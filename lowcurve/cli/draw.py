"""The command `lowcurve draw`: pictures of a run's networks, side by side at the same images."""

import argparse
import logging
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from lowcurve.cli.processes import settle
from lowcurve.cli.terminal import progress_bars
from lowcurve.cli.words import parse
from lowcurve.errors import InputError
from lowcurve.study.report_figures import same_images

if TYPE_CHECKING:
    from lowcurve.figures.same_images import SameImages
    from lowcurve.results import Result
    from lowcurve.store import Run
    from lowcurve.types import Progress

log = logging.getLogger("lowcurve")
KINDS = {
    "cross-section": "the decision boundary in the plane of DeepFool's way and a random direction, with its curvature",
    "surface": "margin and loss around an image, along attacks' directions, and the classes far around it",
    "jacobian": "input gradients of margin and loss, adversarial images and what was added",
    "path": "paths within the region of a class between images, natural, adversarial and noise",
    "color": "the margin around the hue circle, and what the most damaging colors are",
}
TITLES = {
    "cross-section": "Cross-sections of the decision boundary",
    "surface": "Decision and loss surfaces",
    "jacobian": "Input gradients",
    "path": "Paths within regions",
    "color": "Changes of color",
}
FORMS = ("pdf", "png", "svg")
EXAMPLES = {"cross-section": 3, "surface": 1, "jacobian": 5, "path": 40, "color": 3}
"""How many images a kind draws where nothing else is said."""
DESCRIPTION = """Draws the networks of a run side by side, at the first test images that all of them classify rightly.

kinds:
{kinds}

Writes KIND.json and KIND.html (a page that opens offline) into RUN/drawn or --out, and with --static a file for each figure."""


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one sentence."""

    def error(self, message: str) -> NoReturn:
        raise InputError("options of lowcurve draw", message, "write lowcurve draw --help")


def drawn(words: list[str]) -> int:
    """The command."""
    found = _parser().parse_args([word.replace("data_dir", "data-dir") for word in words])
    if found.kind not in KINDS:
        raise InputError(f"a kind among {', '.join(KINDS)}", repr(found.kind), "write lowcurve draw surface RUN")
    if found.static is not None and found.static not in FORMS:
        raise InputError(f"a form among {', '.join(FORMS)}", repr(found.static), "write --static pdf")
    if found.run is None:
        raise InputError("the run to draw", "none", f"write lowcurve draw {found.kind} RUN")
    settle()
    from lowcurve.store import Run, write_bytes

    with progress_bars() as progress:
        shared, data = _same_images(found, progress)
        results = _kinds()[found.kind](shared)
    place = Run(Path(found.out) if found.out else Path(found.run) / "drawn")
    _write(found.kind, results, shared, data, place, found.static, write_bytes)
    return 0


def _parser() -> Parser:
    kinds = "\n".join(f"  {name:<15}{line}" for name, line in KINDS.items())
    parser = Parser(
        prog="lowcurve draw",
        description=DESCRIPTION.format(kinds=kinds),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("kind", help="what to draw")
    parser.add_argument("run", nargs="?", help="the directory of a run with trained networks")
    parser.add_argument("--networks", default="", help='some of its networks, in this order: "standard,CURE"')
    parser.add_argument(
        "--examples",
        type=int,
        help=f"how many images (default: {', '.join(f'{n} for {k}' for k, n in EXAMPLES.items())})",
    )
    parser.add_argument("--points", type=int, default=101, help="along a side of a plane (default: 101)")
    parser.add_argument("--seed", type=int, help="of the random directions (default: the run's)")
    parser.add_argument("--out", help="where it is written (default: RUN/drawn)")
    parser.add_argument("--static", help=f"also a file for each figure: {', '.join(FORMS)}")
    parser.add_argument("--data-dir", help="a folder of parquet files")
    return parser


def _kinds() -> "Mapping[str, Callable[[SameImages], Mapping[str, Result]]]":
    from lowcurve.figures.colors import colors
    from lowcurve.figures.cross_sections import cross_sections
    from lowcurve.figures.jacobians import jacobians
    from lowcurve.figures.landscapes import surfaces
    from lowcurve.figures.path_figures import path_pictures

    return {
        "cross-section": cross_sections,
        "surface": surfaces,
        "jacobian": jacobians,
        "path": path_pictures,
        "color": colors,
    }


def _same_images(found: argparse.Namespace, progress: "Progress[int]") -> "tuple[SameImages, str]":
    """The run's networks that are asked for, at the images they are drawn at."""
    from dataclasses import replace

    from lowcurve.study.measured_network import launch_fabric
    from lowcurve.study.pipeline import load_data

    request = parse("draw", KINDS[found.kind], [found.run])
    run, study = request.run, request.study
    assert run is not None
    names = _chosen(run, found.networks)
    study = replace(study, seed=study.seed if found.seed is None else found.seed)
    data = load_data(replace(request.study, data_dir=found.data_dir or study.data_dir))
    device = launch_fabric(study.hardware).device
    models = {name: run.load_network(name).to(device) for name in names}
    count = EXAMPLES[found.kind] if found.examples is None else found.examples
    return same_images(study, data, models, count, found.points, progress), study.data


def _chosen(run: "Run", words: str) -> list[str]:
    from lowcurve.study.comparison import sort_networks

    kept = sort_networks(run.networks())
    if not kept:
        raise InputError("a run with at least one network", f"none in {run.folder}", "run lowcurve train first")
    names = [word.strip() for word in words.split(",") if word.strip()] or kept
    if strangers := [name for name in names if name not in kept]:
        raise InputError(f"networks among {', '.join(kept)}", repr(strangers[0]), "leave out --networks for all")
    return list(dict.fromkeys(names))


def _write(
    kind: str,
    results: "Mapping[str, Result]",
    shared: "SameImages",
    data: str,
    place: "Run",
    form: str | None,
    keep: Callable[[Path, bytes], Path],
) -> None:
    from rich.console import Console

    from lowcurve.report import page, static_figure, styles
    from lowcurve.results import Table, dump

    facts = _facts(shared, data)
    place.write_json(f"{kind}.json", {"facts": facts, "results": {key: dump(value) for key, value in results.items()}})
    title = f"{TITLES[kind]} on {Path(data).name}"
    count = len(shared.models)
    lead = f"{count} network{'' if count == 1 else 's'}: {KINDS[kind]}."
    ordered = list(results.values())
    written = [place.write(f"{kind}.html", page(title, lead, ordered, facts))]
    if form is not None:
        look = styles(ordered)
        for key, result in results.items():
            if not isinstance(result, Table):
                name = f"{kind}-{re.sub('[^a-z0-9]+', '-', key.lower())}.{form}"
                written.append(keep(place.folder / name, static_figure(result, form, look)))
    for path in written:
        Console().print(f"written: {path}", soft_wrap=True, highlight=False)


def _facts(shared: "SameImages", data: str) -> dict[str, str]:
    from importlib.metadata import version

    import torch

    return {
        "data": data,
        "networks": ", ".join(shared.models),
        "images": ", ".join(shared.image(i) for i in range(len(shared.numbers))),
        "which": "the first test images that all of these networks classify rightly",
        "lowcurve": version("lowcurve"),
        "torch": torch.__version__,
        "written": time.strftime("%Y-%m-%d %H:%M"),
    }
