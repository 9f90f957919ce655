"""Yu et al. 2018 in surfaces: the loss around parameters and inputs, and decisions along random and adversarial directions."""

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
"""Section 8.1: of the logits [k, 1, ..., 1], k = 0 to 9."""


def figures_1_to_3(context: Context) -> Reproduction:
    """Loss surfaces of a natural and a MinMax network around their parameters and around their inputs."""
    wanted = _reference(context, NATURAL, MINMAX)
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
        shown = projections(shared.few(1), 2 * radius, (RANDOM, "margin"), ("loss",))
        return {
            "parameters": around,
            **shown,
            "numbers": loss_rises(around, shared, radius),
            "accuracy": _stands(shared, test, wanted[NATURAL].evaluation.examples),
        }

    results = context.load_or_compute("figures-1-3", ("parameters and inputs", wanted, images), make)
    found, stands = read_cells(as_table(results["numbers"])), read_cells(as_table(results["accuracy"]))
    flat, steep = ([read_value(found[row][f"rise, {space}"]) for row in wanted] for space in ("parameters", "inputs"))
    ratios = [values[0] / values[1] if values[1] > 0 else float("inf") for values in (flat, steep)]
    evidence = "rises of natural over MinMax " + ", ".join(f"{ratio:.3g}" for ratio in ratios)
    claims = [Claim(f"{row}: clean", "~90", "section 2.2", stands[row]["clean"], ".1%") for row in wanted]
    claims += [
        Claim(f"{row}: at 8", printed, "section 2.2", stands[row]["PGD"], ".1%")
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
    said = "The networks are the plain ones of Table 2 where the paper has a ResNet, but at the paper's scale."
    return Reproduction(
        add_figure_numbers({"parameters": "Figures 1, 2", "": "Figure 3"}, results), claims, (DIFFERS[0], said)
    )


def figure_4(context: Context) -> Reproduction:
    """The natural network's loss and decision surfaces along a random and three adversarial directions, the way to L = 0, and
    why the loss is blank where the decision is not.
    """
    wanted = select_studies(context, NATURAL)
    radius = wanted[NATURAL].ball().radius

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, limit_count(context, 50))
        return {**projections(shared.few(2), 2 * radius), **distances(shared, 4 * radius)}

    results = context.load_or_compute("figure-4", ("projections", wanted), make)
    found = {str(row[1]): row for row in as_table(results["distances"]).rows}
    middle = {way: read_value(row[2]) for way, row in found.items()}
    claims = [
        Claim(f"along {way}: distance to L = 0, in grey levels", "within 1", "Figure 4", middle[way] / pixels(1))
        for way in DIRECTIONS
    ]
    evidence = f"{middle[RANDOM]:.3g} and " + ", ".join(f"{middle[way]:.3g}" for way in DIRECTIONS)
    farthest, nearest = (f(middle[way] for way in DIRECTIONS) for f in (max, min))
    claims += [
        holds(
            "a random direction is farther from L = 0 than all three", "Figure 4", middle[RANDOM] > farthest, evidence
        ),
        holds("the three reach L = 0 alike (within a factor of 2)", "Figure 4", farthest < 2 * nearest, evidence),
    ]
    blank = {kind: _blank(results, kind) for kind in ("loss", "decision")}
    said = "the loss has larger blank regions (within 1 % of its range of its least) than the decision of its largest"
    evidence = f"{blank['loss']:.1%} and {blank['decision']:.1%} of the window"
    claims += [holds(said, "Figures 4, 11", blank["loss"] > blank["decision"], evidence), *claim_printed_losses()]
    differs = (
        DIFFERS[0],
        "Distances are medians over images; along the random direction of the root mean square change.",
    )
    return Reproduction(add_figure_numbers({"": "Figures 4, 11, 13"}, results), claims, differs)


def claim_printed_losses() -> list[Claim]:
    """The cross-entropy of [k, 1, ..., 1] with ten classes and the label 0, in closed form log(1 + 9 exp(1 - k))."""
    logits = torch.ones(10, 10, dtype=torch.float64)
    logits[:, 0] = torch.arange(10)
    losses = cross_entropy(logits, torch.zeros(10, dtype=torch.int64)).tolist()
    claims = [
        Claim(f"loss of the logits [{k}, 1, ..., 1]", text, "section 8.1", loss, ".4f")
        for k, (text, loss) in enumerate(zip(PRINTED_LOSSES, losses, strict=True))
    ]
    said = "from a confidence of 5 on the loss hardly changes (by 0.06 at most)"
    return [*claims, holds(said, "section 8.1", losses[6] - losses[9] <= 0.06, f"{losses[6]:.3f} to {losses[9]:.3f}")]


def figures_6_7(context: Context) -> Reproduction:
    """Decision surfaces of the natural and the MinMax network, random and adversarial: peaks against plateaus."""
    wanted = select_studies(context, NATURAL, MINMAX)
    radius = pixels(8) if choose_table(context) == "table-2" else 0.3
    return _side_by_side(context, wanted, radius, "Figures 6, 7, 12", "figures-6-7")


def figure_9(context: Context) -> Reproduction:
    """Decision surfaces of the natural network and of ours."""
    wanted = select_studies(context, NATURAL, OURS)
    return _side_by_side(context, wanted, wanted[OURS].ball().radius, "Figures 9, 14", "figure-9")


def _side_by_side(context: Context, wanted: Mapping[str, Study], radius: float, where: str, part: str) -> Reproduction:
    """Two networks' surfaces at the same images, how flat these are within the radius, and how far L = 0 is."""
    first, second = wanted

    def make() -> dict[str, Result]:
        shared = select_shared_images(context, wanted, limit_count(context, 50))
        shown = projections(shared.few(2), 1.5 * radius, (RANDOM, *DIRECTIONS[::2]))
        return {**shown, "numbers": plateaus(shared, radius), **distances(shared, 4 * radius)}

    results = context.load_or_compute(part, (part, wanted, radius), make)
    flat = read_cells(as_table(results["numbers"]))
    far = {(row[0], row[1]): read_value(row[2]) for row in as_table(results["distances"]).rows}
    claims = []
    for what, heading in (
        ("a random window stays", "random: L > 0"),
        ("an adversarial window stays", "adversarial: L > 0"),
        ("L falls less in an adversarial window", "adversarial: L kept"),
    ):
        sizes = [read_value(flat[row][heading]) for row in (first, second)]
        said = f"{what} on the plateau more for {second} than for {first}" if "stays" in what else f"{what} of {second}"
        claims.append(holds(said, where, sizes[1] > sizes[0], f"{sizes[1]:.3g} and {sizes[0]:.3g} within {radius:.3g}"))
    for way in DIRECTIONS:
        ours, theirs = far[second, way], far[first, way]
        said = f"{second} has a wider neighborhood along {way}"
        claims.append(holds(said, where, ours > theirs, f"median distance {ours:.3g} and {theirs:.3g}"))
    said = f"Windows reach {1.5 * radius:.3g} to each side, numbers are of {radius:.3g}."
    return Reproduction(add_figure_numbers({"": where}, results), claims, (DIFFERS[0], said))


def _reference(context: Context, *names: str) -> dict[str, Study]:
    """The pair of section 2.2, whose ResNets are made at the paper's scale alone."""
    found = make_studies(context, "table-2")
    deep = {"network": "resnet18", "width": None} if context.scale == "paper" else {}
    return {name: replace(found[name], **deep) for name in names}  # type: ignore[arg-type]


def _stands(shared: SameImages, test: Examples, count: int) -> Table:
    """Clean accuracy, and that under PGD at eight grey levels."""
    ball = Ball(LINF, pixels(8))
    few = test.take(slice(count))
    rows = tuple(
        (
            name, float(evaluation.correct(model, test).mean()),
            float(evaluation.attack(model, few, PGD(ball, steps=20)).robust.mean()),
        )
        for name, model in shared.models.items()
    )  # fmt: skip
    columns = (NETWORK, Column("clean", "On the whole test set.", ".1%"), Column("PGD", "20 steps at 8/255.", ".1%"))
    return Table("Accuracy", columns, rows, conditions={"attacked": f"{len(few)} of the test set"})


def _blank(results: Mapping[str, Result], kind: str) -> float:
    """The share of points within 1 % of the range from the value of the surest: the loss's least, the decision's largest."""
    shares = []
    for key, result in results.items():
        if key.startswith(f"{kind} along") and isinstance(result, Surface):
            for panel in result.panels.values():
                surest = panel.values.min() if kind == "loss" else panel.values.max()
                shares.append(float((np.abs(panel.values - surest) <= 0.01 * np.ptp(panel.values)).mean()))
    return float(np.mean(shares))
