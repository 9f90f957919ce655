"""Write docs/measured.md, the geometry of public networks, from the committed results: python docs/measured.py

Each result is the study.json of `lowcurve measure` as it was run; no number is typed by hand but those of the papers.
A test compares docs/measured.md with it.
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
    "the same with softplus (β = 10)": "measure-resnet20-softplus",
}
COMMANDS = """The networks are those of `lowcurve.examples.public_networks`, on test images. The last one has softplus instead
of ReLU. The commands:

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
**Read this first.** The first three are ReLU networks, which are piecewise linear. The exact Hessian of their loss is J^T A
J, the loss's own part, of rank at most 9. The Hessian of their margin and logits is zero almost everywhere. Normalized
curvature and eigenvalues of these are therefore 0 unless a scale h is named; at a scale, such networks bend in their kinks.
"""
FIGURE_8_READING = """
The paper's networks are others: four layers, with their own training. It does not say which l_1 norm of the Hessian is meant,
nor how the Hessian was computed. Of a ReLU network with max-pooling, the Hessian of the margin is exactly zero almost
everywhere. Eigenvalues other than zero can only come from finite differences or from rounding.
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
    """Return the tables of a run."""
    found = {key: load(value) for key, value in json.loads(path.read_text())["results"].items()}
    return {key: value for key, value in found.items() if isinstance(value, Table) and key != "comparison"}


def format_cell(cell: Cell | None, form: str) -> str:
    """Format a number with its quantiles, or a dash where there is none."""
    if isinstance(cell, tuple):
        value, low, high = (format_cell(number, form) for number in cell)
        return f"{value} [{low}, {high}]"
    return "–" if cell is None else cell if isinstance(cell, str) else format(cell, form)


def escape(text: str) -> str:
    """Escape the bars within a cell."""
    return text.replace("|", "\\|")


def side_by_side(key: str, runs: dict[str, dict[str, Table]]) -> str:
    """Return one table for all networks, a row for each quantity and a column for each network, with the conditions below."""
    first = next(iter(runs.values()))[key]
    lines = [f"### {first.title}", "", "| | " + " | ".join(runs) + " | |", "|---|" + "---|" * (len(runs) + 1)]
    for place, column in enumerate(first.columns[1:], 1):
        cells = [format_cell(run[key].rows[0][place], column.form) for run in runs.values()]
        meaning = re.sub(r", h = [\d.]+", ", h", column.meaning)  # each network's own is among its conditions
        lines.append("| " + " | ".join(map(escape, [column.heading, *cells, meaning])) + " |")
    lines += ["", first.caption] if first.caption else [""]
    lines += ["", "<details markdown><summary>Conditions</summary>"]
    for name, run in runs.items():
        lines += ["", f"*{name}*", "", *(f"* {k}: {v}" for k, v in run[key].conditions.items())]
    return "\n".join(lines) + "\n\n</details>\n"


def figure_8(runs: dict[str, dict[str, Table]]) -> str:
    """Compare the two networks on MNIST with the paper's."""
    names = [name for name in runs if "MNIST" in name]
    lines = ["### yu2018interpreting, Fig. 8, next to ours", ""]
    lines += ["| | natural, paper | natural, ours | MinMax, paper | adversarial, ours |", "|---|---|---|---|---|"]
    for heading, papers in FIGURE_8.items():
        ours = []
        for name in names:
            table = runs[name]["indicator"]
            place = [c.heading for c in table.columns].index(heading.rpartition(": ")[2])
            ours.append(format_cell(table.rows[0][place], table.columns[place].form))
        lines.append("| " + " | ".join(map(escape, [heading, papers[0], ours[0], papers[1], ours[1]])) + " |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """Return docs/measured.md."""
    runs = {name: tables(ROOT / "docs" / "results" / f"{file}.json") for name, file in RESULTS.items()}
    kinds = list(next(iter(runs.values())))
    parts = [
        "# The geometry of public networks",
        "<!-- Written by docs/measured.py from docs/results/measure-*.json. -->",
        COMMANDS.format(mnist=MNIST, cifar=CIFAR),
        READING.strip(),
        *(side_by_side(kind, runs) for kind in kinds),
        figure_8(runs),
        FIGURE_8_READING.strip(),
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "measured.md").write_text(page())
