"""Reproduce Figures 1 to 3 and 6 to 15, and Remark 3, of Moosavi-Dezfooli et al. 2019."""

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from lowcurve import evaluation
from lowcurve.attacks import PGD
from lowcurve.data import Examples
from lowcurve.figures.cross_sections import cross_sections
from lowcurve.figures.landscapes import deepfool_surfaces, nonlinear_share
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import Curvature
from lowcurve.losses import margin_loss
from lowcurve.papers.common.attack_tables import run_strong_suite
from lowcurve.papers.common.context import Context, Reproduction
from lowcurve.papers.common.epochs import load_epochs
from lowcurve.papers.common.evolution import measure_epochs
from lowcurve.papers.common.lookup import as_curves, as_surface, as_table, read_cells, read_value
from lowcurve.papers.common.masking import compare_attacks
from lowcurve.papers.common.seed_tables import TrainedRow, train_row
from lowcurve.papers.cure.networks import COUNTS, DIFFERS, make_spsa, select_studies
from lowcurve.randomness import normal, stream
from lowcurve.results import Claim, Column, Result, Surface, Table, holds, merge
from lowcurve.results.cells import NETWORK, count_examples
from lowcurve.study.geometry_results import measure_profile
from lowcurve.study.measured_network import MeasuredNetwork
from lowcurve.study.report_figures import same_images


def _select_shared_images(context: Context, *names: str) -> SameImages:
    """Select three test images that all these networks of the first seed classify correctly."""
    networks = [train_row(context, row, study) for row, study in select_studies(context, *names).items()]
    points = {"smoke": 11, "laptop": 81, "paper": 101}[context.scale]
    models = {trained.row: trained.model for trained in networks}
    return same_images(networks[0].study, networks[0].data, models, 3, points, context.progress)


def figure_1(context: Context) -> Reproduction:
    """Draw cross-sections of the decision boundary before and after fine-tuning on DeepFool's images, and with CURE.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Fig. 1.
    """
    names = ("original", "fine-tuned", "CURE")
    results = context.load_or_compute(
        "figure-1",
        ("sections", select_studies(context, *names)),
        lambda: cross_sections(_select_shared_images(context, *names)),
    )
    table = as_table(results["cross-sections"])
    place = {column.heading: k for k, column in enumerate(table.columns)}
    claims = []
    for what, heading, more in (("is farther away", "distance", True), ("bends less (mean |κ|)", "κ", False)):
        sizes = {name: _mean(abs(read_value(r[place[heading]])) for r in table.rows if r[0] == name) for name in names}
        right = (sizes["fine-tuned"] > sizes["original"]) == more
        evidence = ", ".join(f"{size:.3g}" for size in sizes.values())
        claims.append(holds(f"after fine-tuning the boundary {what}", "Figure 1", right, evidence))
    return Reproduction(_add_figure_number("Figure 1", results), claims, DIFFERS[:1])


def figure_3(context: Context) -> Reproduction:
    """Draw the negative loss over the plane of the boundary's normal and a random direction.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Figs. 3, 8 and 13.
    """
    names = ("original", "fine-tuned", "CURE")
    found = context.load_or_compute(
        "figure-3",
        ("surfaces", select_studies(context, *names)),
        lambda: deepfool_surfaces(_select_shared_images(context, *names)),
    )
    losses = {key: as_surface(result) for key, result in found.items() if key.startswith("loss")}
    shown = {key: _negate(surface) for key, surface in losses.items()}
    panels = [item for surface in losses.values() for item in surface.panels.items()]
    sizes = {name: _mean(nonlinear_share(panel.values) for row, panel in panels if row == name) for name in names}
    evidence = ", ".join(f"{name} {size:.3g}" for name, size in sizes.items())
    claims = [
        holds(
            f"the loss of {name} is nearer to a plane than the original's",
            where,
            sizes[name] < sizes["original"],
            evidence,
        )
        for name, where in (("fine-tuned", "Figure 3"), ("CURE", "Figure 8"))
    ]
    said = "Distance from a plane is the share of the variance over the window that no plane explains, mean over three images."
    return Reproduction(_add_figure_number("Figures 3, 8 and 13", shown), claims, (*DIFFERS[:1], said))


def _negate(surface: Surface) -> Surface:
    panels = {name: replace(panel, values=-panel.values) for name, panel in surface.panels.items()}
    return replace(surface, panels=panels, title=surface.title.replace("Loss", "Negative loss"), value_label="−ℓ")


def figure_2(context: Context) -> Reproduction:
    """Compute all eigenvalues of the loss's Hessian, sorted and averaged over images: exact, and by finite differences.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Figs. 2, 9 and 12.
    """
    exactly, at_scale = COUNTS[context.scale].exact_profile, COUNTS[context.scale].profile_at_scale
    parts: dict[str, list[Result]] = {"profile": [], "profile at scale": []}
    for row, study in select_studies(context, "original", "fine-tuned", "CURE").items():
        trained = train_row(context, row, study)
        key = ("profile", trained.study, exactly, at_scale)
        make = partial(_make_profiles, trained, exactly, at_scale)
        for kind, result in context.load_or_compute(f"profile-{row}", key, make).items():
            parts[kind].append(result)
    results = {kind: merge(several) for kind, several in parts.items()}
    claims = []
    for kind, result in results.items():
        top = {name: float(line.y[-1] or 0) for name, line in as_curves(result).lines.items()}
        how = "exact" if kind == "profile" else "at scale"
        evidence = ", ".join(f"{name} {value:.3g}" for name, value in top.items())
        lower = top["fine-tuned"] < top["original"]
        claims.append(holds(f"{how}: fine-tuning lowers the largest eigenvalue", "Figure 2", lower, evidence))
        near = 0.5 < top["CURE"] / max(top["fine-tuned"], 1e-30) < 2
        claims.append(
            holds(
                f"{how}: the largest eigenvalue of CURE is within a factor of two of fine-tuning's",
                "Figure 9",
                near,
                evidence,
            )
        )
    said = (
        f"The exact profile is of {exactly} images, the one at scale of {at_scale}; the paper has 100 and states no h. "
        "All but nine exact eigenvalues of a ReLU network are 0."
    )
    return Reproduction(_add_figure_number("Figures 2, 9 and 12", results), claims, (*DIFFERS[:1], said))


def _make_profiles(trained: TrainedRow, exactly: int, at_scale: int) -> dict[str, Result]:
    conditions = {"units": "pixel range [0, 1]", "BatchNorm": "eval mode"}
    network = MeasuredNetwork(
        trained.study, trained.row, trained.model, trained.data.test, trained.progress, conditions
    )
    wide = network.first(at_scale)
    return {
        "profile": measure_profile(network.first(exactly), None),
        "profile at scale": measure_profile(wide, wide.reach),
    }


def remark_3(context: Context) -> Reproduction:
    """Measure how well the gradient aligns with the eigenvector of the largest curvature, before and after fine-tuning.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Remark 3.
    """
    rows, claims = [], []
    for row, study in select_studies(context, "original", "fine-tuned", "CURE").items():
        trained = train_row(context, row, study)
        few = trained.data.test.take(slice(trained.study.evaluation.curvature_examples))
        make = partial(_measure_alignment, trained, few)
        rows.append(context.load_or_compute(f"alignment-{row}", ("alignment", trained.study), make)["alignment"])
        size = int(np.prod(trained.data.shape))
    table = as_table(merge(rows))
    found = {name: read_value(cells["|g·u| / ‖g‖"]) for name, cells in read_cells(table).items()}
    draws = normal(torch.zeros(1000, size), generator=stream(0, "random alignment"))
    random = float((draws[:, 0] / draws.norm(dim=1)).square().mean().sqrt())
    for name, text in (("original", "0.43"), ("fine-tuned", "0.90")):
        claims.append(Claim(f"{name}: mean |g·u| / ‖g‖", text, "Remark 3", found[name]))
    claims.append(Claim(f"two random vectors, root mean square, d = {size}", "0.02", "Remark 3", random))
    increases = found["fine-tuned"] > found["original"]
    claims.append(holds("the gradient is better aligned with u after fine-tuning", "Remark 3", increases))
    claims.append(
        holds(
            "it is better aligned with u than random vectors, by a factor of 5",
            "Remark 3",
            found["original"] > 5 * random,
        )
    )
    said = "u is an eigenvector of the exact Hessian; the paper states neither its Hessian nor h."
    return Reproduction({"alignment": table}, claims, (*DIFFERS[:1], said))


def _measure_alignment(trained: TrainedRow, few: Examples) -> dict[str, Result]:
    network = MeasuredNetwork(trained.study, trained.row, trained.model, few, trained.progress, {})
    values = network.columns({"all": Curvature(trained.study.evaluation.lanczos_steps)})["alignment"]
    title = "Alignment of gradient and direction of largest curvature"
    columns = (NETWORK, Column("|g·u| / ‖g‖", "Mean over images."), Column("median", "Median over images."))
    conditions = {**count_examples(few, "test"), "Hessian": "exact; u by Lanczos", "BatchNorm": "eval mode"}
    row = (trained.row, float(values.mean()), float(np.median(values)))
    return {"alignment": Table(title, columns, (row,), "", conditions)}


def figure_6(context: Context) -> Reproduction:
    """Draw accuracy against the radius of the attack.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Figs. 6 and 15.
    """
    found = run_strong_suite(context, select_studies(context, "normal", "CURE", "adversarial"))
    curves = as_curves(found["against radius"])
    claims = []
    mine, theirs = (np.array(curves.lines[name].y, dtype=float) for name in ("CURE", "normal"))
    half = len(curves.x) // 2
    evidence = f"at {curves.x[half]:.3g}: {mine[half]:.1%} and {theirs[half]:.1%}"
    more_robust = bool(mine[half] > theirs[half])
    claims.append(
        holds("CURE is more robust than normal training at half the largest radius", "Figure 6", more_robust, evidence)
    )
    falls = bool((np.diff(mine) <= 0).all())
    claims.append(
        holds("CURE's accuracy never rises with the radius", "Figure 6", falls, f"{mine[-1]:.1%} at the largest radius")
    )
    said = "Each image's smallest radius is that of a minimum-norm attack; the paper's curves are of 2000 test images."
    return Reproduction(
        _add_figure_number("Figures 6 and 15", {"against radius": curves}), claims, (*DIFFERS[:1], said)
    )


def figure_7(context: Context) -> Reproduction:
    """Compare the margins of CURE's network after PGD(100) and after SPSA, image by image.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Fig. 7.
    """
    trained = train_row(context, "CURE", select_studies(context, "CURE")["CURE"])
    count, ball = COUNTS[context.scale].figure_7, trained.study.ball()
    first = ("PGD(100)", PGD(ball, steps=100, loss=margin_loss))
    second = ("SPSA", make_spsa(context.scale, ball))
    results = context.load_or_compute(
        "figure-7", ("both attacks", trained.study, count, first, second),
        lambda: compare_attacks(
            {"CURE": trained.model}, trained.data.test.take(slice(count)), first, second,
            seed=trained.study.seed, progress=context.progress,
        ),
    )  # fmt: skip
    table = as_table(results["below"])
    cells = read_cells(table)["CURE"]
    below, alone = read_value(cells["below"]), read_value(cells["fooled by SPSA only"])
    claims = [
        holds(
            "SPSA reaches a lower margin than PGD(100) at fewer than 10 % of the images",
            "Figure 7",
            below < 0.1,
            f"{below:.1%} below the diagonal",
        ),
        holds("SPSA fools no image that PGD(100) does not fool", "Figure 7", alone == 0, f"{alone:.1%}"),
    ]
    said = "Both attacks minimize the margin; the paper has the wide network and does not state its losses."
    return Reproduction(
        {**results, **_add_figure_number("Figure 7", {"both attacks": results["both attacks"]})},
        claims,
        (*DIFFERS[:1], said),
    )


def figure_10(context: Context) -> Reproduction:
    """Measure curvature and robustness after each epoch of CURE's fine-tuning.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Figs. 10 and 14.
    """
    study = select_studies(context, "CURE")["CURE"]
    trained = train_row(context, "CURE", study)
    draws = COUNTS[context.scale].draws
    results = context.load_or_compute(
        "figure-10", ("evolution", trained.study, draws),
        lambda: measure_epochs(
            trained.study, trained.data, "CURE", load_epochs(context, "CURE", study), draws, context.progress
        ),
    )  # fmt: skip
    claims = []
    for kind, said in (
        ("Frobenius norm", "‖H‖_F falls"), ("along the sign", "‖Hz‖ falls"), ("robust", "robust accuracy rises")
    ):  # fmt: skip
        curves = as_curves(results[kind])
        y = np.array(curves.lines["CURE"].y, dtype=float) * (1 if kind == "robust" else -1)
        steps = np.diff(y)
        evidence = f"{abs(y[0]):.3g} to {abs(y[-1]):.3g}; {int((steps > 0).sum())} of {len(steps)} epochs"
        claims.append(holds(f"{said} during fine-tuning", "Figure 10", bool(y[-1] > y[0]), evidence))
    said = "Curvature is measured at the step h of the penalty; the radius is that of Table 2."
    return Reproduction(_add_figure_number("Figures 10 and 14", results), claims, (*DIFFERS[:1], said))


def figure_11(context: Context) -> Reproduction:
    """Show perturbed images and perturbations of normal training and of CURE.

    Args:
        context: The context of the item.

    Reference: moosavi2019cure, Fig. 11.
    """
    wanted = select_studies(context, "normal", "CURE", "adversarial")
    gallery = run_strong_suite(context, wanted)["gallery"]
    judge = train_row(context, "adversarial", wanted["adversarial"])
    shares: dict[str, float] = {}
    for row in ("normal", "CURE"):
        trained = train_row(context, row, wanted[row])
        few, ball = trained.data.test.take(slice(trained.study.evaluation.examples)), trained.study.ball()
        outcome = evaluation.attack(trained.model, few, PGD(ball, steps=20), seed=trained.study.seed)
        fooled = torch.from_numpy(outcome.fooled_by == "PGD")
        like = next(trained.model.parameters())
        seen, taken = (
            evaluation.logits_of(model, outcome.inputs.to(like), few.y.to(like.device)).argmax(1).cpu()
            for model in (trained.model, deepcopy(judge.model).to(like.device))
        )
        shares[row] = float((seen == taken)[fooled].double().mean()) if bool(fooled.any()) else 0.0
    said = "images that fool CURE look more like their new class to the adversarially trained network"
    evidence = f"{shares['CURE']:.1%} and {shares['normal']:.1%}"
    claims = [holds(said, "Figure 11", shares["CURE"] > shares["normal"], evidence)]
    more = "The adversarially trained network judges whether an image looks like its new class; the paper leaves it to the eye."
    return Reproduction(_add_figure_number("Figure 11", {"gallery": gallery}), claims, (*DIFFERS[:1], more))


def _add_figure_number(figure: str, results: Mapping[str, Result]) -> dict[str, Result]:
    return {key: replace(result, title=f"{figure}: {result.title}") for key, result in results.items()}


def _mean(values: Iterable[float]) -> float:
    """Average the finite values; NaN if there are none."""
    found = [v for v in values if np.isfinite(v)]
    return float(np.mean(found)) if found else float("nan")
