"""Writes docs/measured.md, the geometry of public networks, from the committed results: python docs/measured.py

Each result is the study.json of `lowcurve measure` as it was run; no number is typed by hand but those of the papers.
tests/test_readme.py holds docs/measured.md against it.
"""

import json
import re
from pathlib import Path

from lowcurve.results import Cell, Table, load

ROOT = Path(__file__).parents[1]
RESULTS = {
    "LeNet5 on MNIST, trained naturally": "measure-lenet5",
    "LeNet5 on MNIST, trained adversarially at l_inf 0.3": "measure-lenet5-adversarial",
    "ResNet-20 on CIFAR-10, trained naturally": "measure-resnet20",
    "the same with softplus (β = 10) in place of ReLU": "measure-resnet20-softplus",
}
COMMANDS = """The networks are those of `examples/public_networks.py`, on test images, with these commands:

```
lowcurve measure --model lowcurve.examples.public_networks:lenet5 --weights mnist_lenet5_clntrained.pt --data mnist {mnist}
lowcurve measure --model lowcurve.examples.public_networks:lenet5 --weights mnist_lenet5_advtrained.pt --data mnist {mnist}
lowcurve measure --model lowcurve.examples.public_networks:resnet20 --weights resnet20-12fca82f.th --data cifar10 {cifar}
lowcurve measure --model lowcurve.examples.public_networks:soft_resnet20 --weights resnet20-12fca82f.th --data cifar10 {cifar}
```
"""
MNIST = "--radius 0.3 --evaluation.curvature_examples 500 --evaluation.profile_examples 100"
CIFAR = "--radius 8/255 --evaluation.curvature_examples 200 --evaluation.profile_examples 8 --evaluation.largest_profile 3072"
READING = """
The first three are ReLU networks. The exact Hessian of their loss is that of the loss alone, J^T A J, of rank at most 9; of
their margin and logits it is zero almost everywhere, so normalized curvature and eigenvalues of these are 0 unless a scale h
is named. At a scale they bend in their kinks.
"""
FIGURE_8_READING = """
The paper's networks are others (four layers, their own training), and it says neither which l_1 norm of the Hessian is meant
nor how the Hessian was had. Of a ReLU network with max-pooling the Hessian of the margin is exactly zero almost everywhere,
so that eigenvalues which are not zero can only come from finite differences or from rounding.
"""
FIGURE_8 = {
    "‖J‖₁": ("about 500", "about 50"),
    "J, zeros": ("1.1%", "54.0%"),
    "‖H‖₁, in the paper not said which: Σ|λ|": ("1.26", "0.53"),
    "Σ|λ|, at h": ("–", "–"),
    "λ, zeros": ("65.6%", "97.1%"),
}
"""Heading: the paper's numbers, natural and MinMax."""


def tables(path: Path) -> dict[str, Table]:
    """The tables of a run."""
    found = {key: load(value) for key, value in json.loads(path.read_text())["results"].items()}
    return {key: value for key, value in found.items() if isinstance(value, Table) and key != "comparison"}


def written(cell: Cell | None, form: str) -> str:
    """A number with its quantiles; a dash where there is none, or an infinite one."""
    if isinstance(cell, tuple):
        value, low, high = (written(number, form) for number in cell)
        return f"{value} [{low}, {high}]"
    return "–" if cell is None else cell if isinstance(cell, str) else format(cell, form)


def escaped(text: str) -> str:
    """A bar within a cell is no border."""
    return text.replace("|", "\\|")


def side_by_side(key: str, runs: dict[str, dict[str, Table]]) -> str:
    """One table for all networks: a row a quantity, a column a network; what holds for all below it."""
    first = next(iter(runs.values()))[key]
    lines = [f"### {first.title}", "", "| | " + " | ".join(runs) + " | |", "|---|" + "---|" * (len(runs) + 1)]
    for place, column in enumerate(first.columns[1:], 1):
        cells = [written(run[key].rows[0][place], column.form) for run in runs.values()]
        meaning = re.sub(r", h = [\d.]+", ", h", column.meaning)  # each network's own is among its conditions
        lines.append("| " + " | ".join(map(escaped, [column.heading, *cells, meaning])) + " |")
    lines += ["", first.caption] if first.caption else [""]
    for name, run in runs.items():
        lines += ["", f"*{name}*: " + "; ".join(f"{k}: {v}" for k, v in run[key].conditions.items()) + "."]
    return "\n".join(lines) + "\n"


def figure_8(runs: dict[str, dict[str, Table]]) -> str:
    """The two networks on MNIST beside the paper's."""
    names = [name for name in runs if "MNIST" in name]
    lines = ["### yu2018interpreting, Fig. 8, beside ours", ""]
    lines += ["| | natural, paper | natural, ours | MinMax, paper | adversarial, ours |", "|---|---|---|---|---|"]
    for heading, papers in FIGURE_8.items():
        ours = []
        for name in names:
            table = runs[name]["indicator"]
            place = [c.heading for c in table.columns].index(heading.rpartition(": ")[2])
            ours.append(written(table.rows[0][place], table.columns[place].form))
        lines.append("| " + " | ".join(map(escaped, [heading, papers[0], ours[0], papers[1], ours[1]])) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """docs/measured.md."""
    runs = {name: tables(ROOT / "docs" / "results" / f"{file}.json") for name, file in RESULTS.items()}
    kinds = list(next(iter(runs.values())))
    parts = [
        "# The geometry of public networks",
        "Written by `python docs/measured.py` from `docs/results/measure-*.json`.",
        COMMANDS.format(mnist=MNIST, cifar=CIFAR),
        READING.strip(),
        *(side_by_side(kind, runs) for kind in kinds),
        figure_8(runs),
        FIGURE_8_READING.strip(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "measured.md").write_text(page())
