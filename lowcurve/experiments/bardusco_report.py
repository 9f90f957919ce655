"""Bardusco, Robustness and Curvature in Deep Learning: the complexity of paths between adversarial images (Table 2, Figures 6
and 8)."""

from dataclasses import replace

from lowcurve.experiments.paths import ADVERSARIAL, NATURAL, path_results
from lowcurve.experiments.presets import preset, shortened
from lowcurve.experiments.reproduction import Found, Item, Workshop
from lowcurve.experiments.rows import value_of
from lowcurve.experiments.settings import Study
from lowcurve.results import Claim, Table, holds

PRINTED = {NATURAL: ("11 ± 9", "2.7e-4 ± 2.8e-4"), ADVERSARIAL: ("70 ± 15", "3.0e-3 ± 1.0e-3")}
"""Table 2: number of points, normalized distance; mean and standard deviation over 18 and 30 pairs."""
SHARE = 1e-3
"""The spacing over the distance of the ends. Fawzi et al. have 1e-4, which is ten times the work."""
DIFFERS = (
    "The report has 18 natural and 30 adversarial pairs of one network on Tiny ImageNet; here each family has as many pairs as "
    "its count says, of one network trained by the study's settings.",
    "Its number of points is that of a projection which goes just across the boundary ('as published'). Both halves are then "
    "left outside until they are shorter than the spacing, so the number follows the spacing; 'beyond' goes on inwards.",
)


def study_of(workshop: Workshop) -> Study:
    """A standard network on the data's preset."""
    study = replace(preset(workshop.data), methods=("standard",))
    if workshop.scale != "smoke":
        return study
    quick = shortened(study)
    return replace(quick, training=replace(quick.training, epochs=10))  # a network of chance has no pairs


def table_2(workshop: Workshop) -> Found:
    """Number of points and normalized distance of paths between natural and between adversarial images; two families more."""
    made, data, models = workshop.networks("standard", study_of(workshop))
    pairs = {"smoke": 8, "laptop": 200, "paper": 200}[workshop.scale]
    results = workshop.part(
        "table-2", ("paths", made, pairs, SHARE),
        lambda: path_results(
            models["standard"], data.test, pairs, share=SHARE, seed=made.seed, progress=workshop.progress
        ),
    )  # fmt: skip
    table = results["paths"]
    assert isinstance(table, Table)
    headings = [column.heading for column in table.columns]
    cells = {
        (row[0], row[1]): {name: value_of(cell) for name, cell in zip(headings[2:], row[2:], strict=True)}
        for row in table.rows
    }
    claims, kinds = [], {"Number of points": "anchors", "Normalized distance": "maximal deviation"}
    for how in ("as published", "beyond"):
        for family, printed in PRINTED.items():
            for (name, measure), text in zip(kinds.items(), printed, strict=True):
                found = cells.get((family, how))
                ours = f"{found[measure]:.2g} ± {found[f'{measure}, sd']:.2g}" if found else None
                claims.append(Claim(f"{family}, {how}: {name}", text, "Table 2", ours))
        if not {(NATURAL, how), (ADVERSARIAL, how)} <= cells.keys():
            continue
        few, many = (cells[family, how]["anchors"] for family in (NATURAL, ADVERSARIAL))
        near, far = (cells[family, how]["maximal deviation"] for family in (NATURAL, ADVERSARIAL))
        claims.append(
            holds(
                f"{how}: adversarial pairs need more points", "section 2.2.1", many > few, f"{few:.3g} and {many:.3g}"
            )
        )
        said = f"{how}: they deviate by an order of magnitude more"
        claims.append(holds(said, "section 2.2.1", far > 10 * near, f"{near:.2g} and {far:.2g}"))
    return Found(results, claims, DIFFERS)


ITEMS = (
    Item(
        "bardusco_report/table-2", "Paths between images of one class", "Table 2, section 2.2.1", table_2,
        ("mnist", "cifar10", "tiny-imagenet", "digits"), "tiny-imagenet",
    ),
)  # fmt: skip
