"""Reproduce the surfaces of Yu et al. 2018: losses around parameters and inputs, decisions along attack directions."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball, pixels
from lowcurve.attacks import PGD
from lowcurve.data import Examples
from lowcurve.figures.landscapes import DIRECTIONS
from lowcurve.figures.parameter_landscapes import loss_rises, parameter_landscape
from lowcurve.figures.projections import RANDOM, distances, plateaus, projections
from lowcurve.figures.same_images import SameImages
from lowcurve.losses import cross_entropy
from lowcurve.papers.common.context import Context, Reproduction
from lowcurve.papers.common.lookup import as_table, read_cells, read_value
from lowcurve.papers.common.seed_tables import train_row
from lowcurve.papers.yu2018.networks import (
    DIFFERS,
    MINMAX,
    NATURAL,
    OURS,
    add_figure_numbers,
    choose_table,
    limit_count,
    make_studies,
    select_shared_images,
    select_studies,
)  # fmt: skip
from lowcurve.results import Claim, Column, Result, Surface, Table, holds
from lowcurve.results.cells import NETWORK
from lowcurve.study.settings import Study

PRINTED_LOSSES = ("3.23", "2.30", "1.46", "0.79", "0.37", "0.15", "0.05", "0.02", "0.01", "0.01")
"""Section 8.1: losses of the logits [k, 1, ..., 1], k = 0 to 9."""


def figures_1_to_3(context: Context) -> Reproduction:
    """Compare loss surfaces of a natural and a MinMax network around their parameters and around their inputs.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 1 to 3.
    """
    wanted = _select_reference_studies(context, NATURAL, MINMAX)
    radius, images = pixels(8), limit_count(context, 100)

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, images)
        test = train_row(context, NATURAL, wanted[NATURAL]).data.test
        around = parameter_landscape(
            shared.models,
            test.take(slice(images)),
            points=5 if context.scale == "smoke" else 15,
            progress=context.progress,
        )
        shown = projections(shared.first(1), 2 * radius, (RANDOM, "margin"), ("loss",))
        return {
            "parameters": around,
            **shown,
            "numbers": loss_rises(around, shared, radius),
            "accuracy": _make_accuracy_table(shared, test, wanted[NATURAL].evaluation.examples),
        }

    results = context.load_or_compute("figures-1-3", ("parameters and inputs", wanted, images), make)
    found, accuracies = read_cells(results["numbers"]), read_cells(results["accuracy"])
    flat, steep = ([read_value(found[row][f"rise, {space}"]) for row in wanted] for space in ("parameters", "inputs"))
    ratios = [values[0] / values[1] if values[1] > 0 else float("inf") for values in (flat, steep)]
    evidence = "rises of natural over MinMax " + ", ".join(f"{ratio:.3g}" for ratio in ratios)
    claims = [Claim(f"{row}: clean", "~90", "section 2.2", accuracies[row]["clean"], ".1%") for row in wanted]
    claims += [
        Claim(f"{row}: at 8", printed, "section 2.2", accuracies[row]["PGD"], ".1%")
        for row, printed in ((NATURAL, "0.0"), (MINMAX, "44.71"))
    ]
    claims += [
        holds(
            "around the inputs the natural network's loss rises more than MinMax's", "Figure 3", steep[0] > steep[1],
            f"{steep[0]:.3g} and {steep[1]:.3g}",
        ),
        holds("around the parameters the two differ less than around the inputs", "Figures 2, 3",
              abs(np.log(max(ratios[0], 1e-9))) < abs(np.log(max(ratios[1], 1e-9))), evidence),
    ]  # fmt: skip
    said = "Below the scale paper the networks are the plain ones of Table 2; the paper has a ResNet."
    return Reproduction(
        add_figure_numbers({"parameters": "Figures 1, 2", "": "Figure 3"}, results), claims, (DIFFERS[0], said)
    )


def figure_4(context: Context) -> Reproduction:
    """Draw loss and decision surfaces of the natural network along a random and three adversarial directions.

    Also measures the distance to the boundary L = 0, and shows that the loss is flat where the decision does not.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 4, 11 and 13, section 8.1.
    """
    wanted = select_studies(context, NATURAL)
    radius = wanted[NATURAL].ball().radius

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, limit_count(context, 50))
        return {**projections(shared.first(2), 2 * radius), **distances(shared, 4 * radius)}

    results = context.load_or_compute("figure-4", ("projections", wanted), make)
    found = {str(row[1]): row for row in as_table(results["distances"]).rows}
    medians = {direction: read_value(row[2]) for direction, row in found.items()}
    claims = [
        Claim(
            f"along {direction}: distance to L = 0, in grey levels",
            "within 1",
            "Figure 4",
            medians[direction] / pixels(1),
        )
        for direction in DIRECTIONS
    ]
    evidence = f"{medians[RANDOM]:.3g} and " + ", ".join(f"{medians[direction]:.3g}" for direction in DIRECTIONS)
    farthest, nearest = (f(medians[direction] for direction in DIRECTIONS) for f in (max, min))
    claims += [
        holds(
            "along a random direction L = 0 is farther away than along all three",
            "Figure 4",
            medians[RANDOM] > farthest,
            evidence,
        ),
        holds(
            "the three directions reach L = 0 at similar distances (within a factor of 2)",
            "Figure 4",
            farthest < 2 * nearest,
            evidence,
        ),
    ]
    flat = {kind: _compute_flat_share(results, kind) for kind in ("loss", "decision")}
    said = "more of the loss is flat (within 1 % of its range from the minimum) than of the decision (from the maximum)"
    evidence = f"{flat['loss']:.1%} and {flat['decision']:.1%} of the window"
    claims += [holds(said, "Figures 4, 11", flat["loss"] > flat["decision"], evidence), *claim_printed_losses()]
    differs = (
        DIFFERS[0],
        "Distances are medians over images. Along the random direction they are root mean square changes.",
    )
    return Reproduction(add_figure_numbers({"": "Figures 4, 11, 13"}, results), claims, differs)


def claim_printed_losses() -> list[Claim]:
    """Compare the printed losses of the logits [k, 1, ..., 1] with cross-entropy, which is log(1 + 9 exp(1 - k)).

    Reference: yu2018interpreting, section 8.1.
    """
    logits = torch.ones(10, 10, dtype=torch.float64)
    logits[:, 0] = torch.arange(10)
    losses = cross_entropy(logits, torch.zeros(10, dtype=torch.int64)).tolist()
    claims = [
        Claim(f"loss of the logits [{k}, 1, ..., 1]", text, "section 8.1", loss, ".4f")
        for k, (text, loss) in enumerate(zip(PRINTED_LOSSES, losses, strict=True))
    ]
    said = "above a confidence of 5 the loss changes by 0.06 at most"
    evidence = f"{losses[6]:.3f} to {losses[9]:.3f}"
    return [*claims, holds(said, "section 8.1", losses[6] - losses[9] <= 0.06, evidence, told=True)]


def figures_6_7(context: Context) -> Reproduction:
    """Draw decision surfaces of the natural and the MinMax network along random and adversarial directions.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 6, 7 and 12.
    """
    wanted = select_studies(context, NATURAL, MINMAX)
    radius = pixels(8) if choose_table(context) == "table-2" else 0.3
    return _side_by_side(context, wanted, radius, "Figures 6, 7, 12", "figures-6-7")


def figure_9(context: Context) -> Reproduction:
    """Draw decision surfaces of the natural network and of ours.

    Args:
        context: The context of the item.

    Reference: yu2018interpreting, Figs. 9 and 14.
    """
    wanted = select_studies(context, NATURAL, OURS)
    return _side_by_side(context, wanted, wanted[OURS].ball().radius, "Figures 9, 14", "figure-9")


def _side_by_side(context: Context, wanted: Mapping[str, Study], radius: float, where: str, part: str) -> Reproduction:
    """Draw the surfaces of two networks at the same images, and measure their flatness and the distance to L = 0."""
    first, second = wanted

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, limit_count(context, 50))
        shown = projections(shared.first(2), 1.5 * radius, (RANDOM, *DIRECTIONS[::2]))
        return {**shown, "numbers": plateaus(shared, radius), **distances(shared, 4 * radius)}

    results = context.load_or_compute(part, (part, wanted, radius), make)
    flat = read_cells(results["numbers"])
    far = {(row[0], row[1]): read_value(row[2]) for row in as_table(results["distances"]).rows}
    claims = []
    for what, heading in (
        ("L > 0 in more of a random window", "random: L > 0"),
        ("L > 0 in more of an adversarial window", "adversarial: L > 0"),
        ("L falls less in an adversarial window", "adversarial: L kept"),
    ):
        sizes = [read_value(flat[row][heading]) for row in (first, second)]
        said = f"{what} for {second} than for {first}"
        claims.append(holds(said, where, sizes[1] > sizes[0], f"{sizes[1]:.3g} and {sizes[0]:.3g} within {radius:.3g}"))
    for direction in DIRECTIONS:
        ours, theirs = far[second, direction], far[first, direction]
        said = f"{second} has a wider neighborhood along {direction}"
        claims.append(holds(said, where, ours > theirs, f"median distance {ours:.3g} and {theirs:.3g}"))
    said = f"Windows reach {1.5 * radius:.3g} to each side; the numbers are for {radius:.3g}."
    return Reproduction(add_figure_numbers({"": where}, results), claims, (DIFFERS[0], said))


def _select_reference_studies(context: Context, *names: str) -> dict[str, Study]:
    """Make the studies of section 2.2. At the scale paper they are of ResNets, otherwise of the networks of Table 2."""
    found = make_studies(context, "table-2")
    if context.scale == "paper":
        return {name: replace(found[name], network="resnet18", width=None) for name in names}
    return {name: found[name] for name in names}


def _make_accuracy_table(shared: SameImages, test: Examples, count: int) -> Table:
    """Make a table of clean accuracy and of accuracy under PGD at 8/255."""
    ball = Ball(LINF, pixels(8))
    few = test.take(slice(count))
    rows = tuple(
        (
            name, float(evaluation.correct(model, test).mean()),
            float(evaluation.attack(model, few, PGD(ball, steps=20)).robust.mean()),
        )
        for name, model in shared.models.items()
    )  # fmt: skip
    columns = (
        NETWORK,
        Column("clean", "Accuracy on the whole test set.", ".1%"),
        Column("PGD", "Accuracy under 20 steps at 8/255.", ".1%"),
    )
    return Table("Accuracy", columns, rows, conditions={"attacked": few.describe("test")})


def _compute_flat_share(results: Mapping[str, Result], kind: str) -> float:
    """Return the share of points within 1 % of the range from the most confident value.

    That is the minimum of the loss, and the maximum of the decision.
    """
    shares = []
    for key, result in results.items():
        if key.startswith(f"{kind} along") and isinstance(result, Surface):
            for panel in result.panels.values():
                most_confident = panel.values.min() if kind == "loss" else panel.values.max()
                shares.append(float((np.abs(panel.values - most_confident) <= 0.01 * np.ptp(panel.values)).mean()))
    return float(np.mean(shares))
