"""Reproduce the tables, figures and training times of Srinivas et al. 2022, and an ablation that the paper leaves open."""

from collections.abc import Mapping

from lowcurve.papers.common.context import Context, Item, Reproduction
from lowcurve.papers.common.costs import compare_step_costs
from lowcurve.papers.common.judging import claim_order, is_told, read_interval
from lowcurve.papers.common.lookup import as_curves, as_table, read_cells, read_value
from lowcurve.papers.common.seed_tables import make_extra_results, make_geometry_table, train_row
from lowcurve.papers.lcnn.moons import make_softplus_curves, make_two_moons_results
from lowcurve.papers.lcnn.networks import PAPER_RADII, get_radii, make_ablation_studies, make_studies
from lowcurve.papers.lcnn.theorem import theorem_1
from lowcurve.results import NOT_IN_PAPER, Claim, Result, holds
from lowcurve.study.methods import objective_of

PRINTED: Mapping[str, tuple[str, ...]] = {
    "standard": ("19.66", "6061.96", "270.89", "77.42", "59.97", "37.55", "23.41", "16.11"),
    "LCNN": ("22.04", "1143.62", "69.50", "77.30", "61.17", "39.72", "25.60", "17.66"),
    "gradient norm": ("8.86", "776.56", "89.47", "77.20", "71.90", "61.06", "49.19", "38.09"),
    "LCNN + gradient norm": ("9.87", "154.36", "25.30", "77.29", "72.68", "63.36", "52.96", "42.70"),
    "CURE": ("8.86", "979.45", "116.31", "76.48", "71.39", "61.28", "49.60", "39.04"),
    "softplus": ("18.08", "1052.84", "70.39", "77.44", "60.86", "38.04", "23.85", "16.20"),
    "adversarial training": ("7.99", "501.43", "63.79", "76.96", "72.76", "64.70", "54.80", "44.98"),
}
"""Tables 1 and 2: E‖g‖, E‖H‖, E C, clean accuracy, and accuracy under PGD at the four radii."""
PRINTED_DISCREPANCY: Mapping[str, tuple[str, ...]] = {
    "standard": ("11.75", "12.28", "0.025"),
    "gradient norm": ("11.33", "11.22", "0.017"),
    "LCNN": ("19.99", "11.33", "0.129"),
    "LCNN + gradient norm": ("21.82", "10.43", "0.146"),
}
"""Table 3: relative differences of E‖g‖, E‖H‖, E C."""
SECONDS = {
    "LCNN": 160, "gradient norm": 270, "LCNN + gradient norm": 350, "CURE": 500, "softplus": 100, "adversarial training": 500,
}  # fmt: skip
"""Section 5: seconds of an epoch. The standard model takes 100."""
DIFFERS = (
    "Means are over test images and then over seeds; brackets show one standard deviation of the seeds to either side.",
    "‖H‖ is computed by Lanczos with a residual; the paper's |uᵀHu| after a few steps of power iteration is smaller.",
    "PGD takes 20 steps on the true label inside the pixel box; the paper's code takes 10 steps of a tenth of the radius on "
    "the predicted label without the box.",
)


def table_1(context: Context) -> Reproduction:
    """Measure gradient norm, Hessian norm and normalized curvature of seven models.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Table 1.
    """
    table = make_geometry_table(context, make_studies(context), get_radii(context.data))
    results = {"numbers": table, **make_extra_results(context, make_studies(context), ("boundary", "certified"))}
    return Reproduction(results, claim_table_1(results, context.data), DIFFERS)


def claim_table_1(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare Table 1 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    kinds, found = ("‖g‖", "‖H‖", "C", "clean"), read_cells(results["numbers"])
    claims = [
        Claim(
            f"{row}: mean {kind}", printed, "Table 1", found.get(row, {}).get(kind), ".1%" if kind == "clean" else ".3g"
        )
        for row, all_printed in PRINTED.items()
        for kind, printed in zip(kinds, all_printed, strict=False)
    ]
    return [
        *claims,
        claim_order(results["numbers"], "C", ("LCNN + gradient norm", "LCNN", "standard"), "Table 1"),
        claim_order(results["numbers"], "‖g‖", ("gradient norm", "standard"), "Table 1"),
        claim_order(results["numbers"], "C", ("LCNN + gradient norm", "CURE"), "Table 1"),
    ]


def table_2(context: Context) -> Reproduction:
    """Measure the accuracy of the same models under l_2 PGD at four radii.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Table 2.
    """
    results, radii = (
        {"numbers": make_geometry_table(context, make_studies(context), get_radii(context.data))},
        get_radii(context.data),
    )
    said = () if radii == PAPER_RADII else (f"Our radii are {', '.join(map(str, radii))}.",)
    return Reproduction(results, claim_table_2(results, context.data), (*DIFFERS, *said))


def claim_table_2(results: Mapping[str, Result], data: str) -> list[Claim]:
    """Compare Table 2 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    found, radii = read_cells(results["numbers"]), get_radii(data)
    claims = [
        Claim(f"{row}: PGD at {theirs:g}", printed, "Table 2", found.get(row, {}).get(f"PGD at {ours:g}"), ".1%")
        for row, all_printed in PRINTED.items()
        for theirs, ours, printed in zip(PAPER_RADII, radii, all_printed[4:], strict=True)
    ]
    last = f"PGD at {radii[-1]:g}"
    return [
        *claims,
        claim_order(results["numbers"], last, ("standard", "gradient norm", "LCNN + gradient norm"), "Table 2"),
        claim_order(results["numbers"], last, ("standard", "LCNN"), "Table 2"),
    ]


def table_3(context: Context) -> Reproduction:
    """Compare the three means on test and training images, as (test - train) / train.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Table 3.
    """
    wanted = {row: study for row, study in make_studies(context).items() if row in PRINTED_DISCREPANCY}
    results = make_extra_results(context, wanted, ("discrepancy",))
    said = "Networks of one seed; brackets show the 95 % interval over examples."
    return Reproduction(results, claim_table_3(results, context.data), (said,))


def claim_table_3(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare Table 3 with our numbers.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    table = as_table(results["discrepancy"])
    found = {str(row[0]): row[1:] for row in table.rows}
    claims = [
        Claim(f"{row}: {kind}", text, "Table 3", cell)
        for row, printed in PRINTED_DISCREPANCY.items()
        for kind, text, cell in zip(("‖g‖", "‖H‖", "C"), printed, found.get(row, [None] * 3), strict=True)
    ]
    smaller = [read_value(cells[2]) < read_value(cells[0]) for cells in found.values()]
    said, evidence = (
        "C differs less between training and test images than ‖g‖",
        f"of {sum(smaller)} of {len(smaller)} models",
    )
    pairs = [(read_interval(table, row, "C"), read_interval(table, row, "‖g‖")) for row in found]
    told = None if any(None in pair for pair in pairs) else all(is_told(*pair) for pair in pairs)
    return [*claims, holds(said, "Table 3", all(smaller), evidence, told=told)]


def figure_2(context: Context) -> Reproduction:
    """Measure the relative change of the gradient under random noise.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Fig. 2.
    """
    results = make_extra_results(context, make_studies(context), ("stability",))
    return Reproduction(
        results,
        claim_figure_2(results, context.data),
        ("Networks of one seed; medians and 10 to 90 % quantiles over examples.",),
    )


def claim_figure_2(results: Mapping[str, Result], data: str) -> list[Claim]:  # noqa: ARG001 (the signature of Claims)
    """Compare the conclusion of Figure 2 with our curves.

    Args:
        results: The item's results by name.
        data: Name of the data set.
    """
    curves = as_curves(results["stability"])
    medians = {name: line.y[len(line.y) // 2] for name, line in curves.lines.items()}
    ours, theirs = medians.get("LCNN + gradient norm"), medians.get("standard")
    said = "the gradient of LCNN + gradient norm changes an order of magnitude less than that of standard"
    if ours is None or theirs is None:
        return [holds(said, "Figure 2", None)]
    return [holds(said, "Figure 2", 10 * ours < theirs, f"median {ours:.3g} and {theirs:.3g}")]


def ablation(context: Context) -> Reproduction:
    """Measure each nonlinearity alone and with each penalty, an ablation that the paper leaves open.

    Args:
        context: The context of the item.
    """
    table = make_geometry_table(context, make_ablation_studies(context), get_radii(context.data))
    radii = get_radii(context.data)
    claims = [
        claim_order(table, kind, (f"ReLU + {penalty}", f"{smooth} + {penalty}"), NOT_IN_PAPER)
        for kind in (f"strong at {radii[1]:g}", f"PGD at {radii[-1]:g}")
        for penalty in ("gradient norm", "CURE")
        for smooth in ("softplus", "centered softplus", "GELU")
    ]
    return Reproduction({"numbers": table}, claims, DIFFERS[:2])


def figure_1(context: Context) -> Reproduction:
    """Draw decision regions of standard and low-curvature networks on two moons, and the two kinds of softplus.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, Fig. 1.
    """
    results = {**make_two_moons_results(context), **make_softplus_curves()}
    curvature = {row: read_value(cells["|κ| mean"]) for row, cells in read_cells(results["boundary"]).items()}
    said = "the boundary of LCNN is smoother than that of the standard network"
    evidence = f"mean |κ| {curvature['LCNN']:.3g} and {curvature['standard']:.3g}"
    return Reproduction(results, [holds(said, "Figure 1", curvature["LCNN"] < curvature["standard"], evidence)])


def times(context: Context) -> Reproduction:
    """Compare the cost of a training step of each of the seven models with that of the standard model.

    Args:
        context: The context of the item.

    Reference: srinivas2022lcnn, section 5.
    """
    wanted = context.select_rows(make_studies(context))
    networks = {row: train_row(context, row, study) for row, study in wanted.items()}
    first = next(iter(networks.values()))
    few, std = first.data.train.take(slice(first.study.training.batch_size)), first.data.statistics()[1]
    steps = {
        row: (trained.model, objective_of(trained.study.methods[0], trained.study, std))
        for row, trained in networks.items()
    }
    rounds = {"smoke": 1, "laptop": 7}.get(context.scale, 20)
    key = ("times", {row: trained.study for row, trained in networks.items()}, rounds)
    results = context.load_or_compute(
        "times", key, lambda: {"numbers": compare_step_costs(steps, few.pixels(slice(None)), few.y, rounds)}
    )
    table = as_table(results["numbers"])
    found = read_cells(table)
    claims = [
        Claim(f"{row}: time in standard steps", f"{seconds / 100:g}", "section 5", found.get(row, {}).get("time"))
        for row, seconds in SECONDS.items()
    ]
    said = (
        "The paper has seconds of an epoch on a GTX 1080Ti, 100 for the standard model; here the steps are interleaved."
    )
    smooth = "As in the paper's code, models without LCNN's layers have a softplus of β = 1000, slower than a ReLU."
    return Reproduction(results, claims, (said, smooth))


IMAGES = ("cifar10", "mnist", "digits")
CHAINS = ("two-units",)
ITEMS = tuple(
    Item(f"srinivas2022lcnn/{key}", title, where, make, data, paper_data, claims)
    for key, title, where, make, data, paper_data, claims in (
        ("figure-1", "Two moons, and centered softplus", "Figure 1, section 1", figure_1, ("two-moons",), "two-moons", None),
        ("table-1", "Curvature of seven models", "Table 1, section 5.1", table_1, IMAGES, "cifar100", claim_table_1),
        ("table-2", "The same models under attack", "Table 2, section 5.3", table_2, IMAGES, "cifar100", claim_table_2),
        ("table-3", "Training against test images", "Table 3, section 5.2", table_3, IMAGES, "cifar100", claim_table_3),
        ("figure-2", "Gradients under noise", "Figure 2, section 5.2", figure_2, IMAGES, "cifar100", claim_figure_2),
        ("theorem-1", "The sum of the layers' curvatures", "Theorem 1, Lemma 1", theorem_1, CHAINS, CHAINS[0], None),
        ("times", "Training time of seven models", "section 5", times, IMAGES, "cifar100", None),
        ("ablation", "Ablation of nonlinearities and penalties", NOT_IN_PAPER, ablation, IMAGES, "cifar100", None),
    )
)  # fmt: skip
