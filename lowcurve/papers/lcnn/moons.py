"""Two moons: the decision regions of networks in the plane as pictures, how their boundary bends, and softplus against
centered softplus (srinivas2022lcnn, Figure 1).
"""

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.analysis.norms import L2
from lowcurve.attacks import DeepFool
from lowcurve.data import DataSet, Examples
from lowcurve.geometry import Curvature, NormalCurvatures, find_boundary_point, logit_difference
from lowcurve.models import CenteredSoftplus
from lowcurve.models.modes import frozen
from lowcurve.papers.common.context import Context
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Result, Table, summarize
from lowcurve.results.cells import NETWORK
from lowcurve.study.method_options import LowCurvature
from lowcurve.study.presets import preset, shorten

SIDE = 200
SCALE = 0.02
"""h of the boundary's curvature: a twelfth of a moon's radius. The exact Hessian of a ReLU network's margin is zero."""
BLUE, ORANGE = (0.0, 0.447, 0.698), (0.902, 0.624, 0.0)
SHARPNESS = (1.0, 5.0, 20.0)


def make_two_moons_results(context: Context) -> dict[str, Result]:
    """Standard, gradient norm, LCNN and both: the regions as images, and the curvature of the boundary between them."""
    study = preset("two-moons")
    study = shorten(study) if context.scale == "smoke" else study
    methods = ("standard", "gradient-norm", "LCNN", "LCNN+gradient-norm")
    weights = LowCurvature(weight_of_beta=1e-2, weight_of_gamma=1e-2)
    study = replace(study, methods=methods, low_curvature=weights)
    made, data, models = context.load_or_train("two-moons", study)
    key = ("two moons", made, SCALE, SIDE)
    return dict(context.load_or_compute("two-moons", key, lambda: _regions(data, models)))


def make_softplus_curves() -> dict[str, Result]:
    """log(1 + exp(βx)) / β beside log((1 + exp(βx)) / 2) / β: the first moves away from 0 as β falls, the second does not."""
    x = torch.linspace(-2, 2, 201, dtype=torch.float64)
    lines = {}
    for beta in SHARPNESS:
        lines[f"softplus, β = {beta:g}"] = nn.functional.softplus(x, beta=beta)
        lines[f"centered, β = {beta:g}"] = CenteredSoftplus(beta, learn=False).double()(x)
    drawn = {name: Line(tuple(float(v) for v in y)) for name, y in lines.items()}
    caption = "At x = 0 softplus is log(2) / β and centered softplus 0; as β falls to 0 one diverges, the other becomes x / 2."
    return {
        "softplus": Curves("Softplus and centered softplus", "x", "s(x)", tuple(float(v) for v in x), drawn, caption)
    }


def _regions(data: DataSet, models: dict[str, nn.Module]) -> dict[str, Result]:
    pictures = np.stack([_picture(model, data.test)[None] for model in models.values()])
    rows = tuple(_row(name, model, data.test) for name, model in models.items())
    headings = (
        NETWORK,
        Column("clean", "Share of the test points classified rightly.", ".1%"),
        Column(
            "|κ| mean",
            f"Mean |curvature| of the boundary, 1 / length, at the scale h = {SCALE:g}, where DeepFool meets it.",
        ),
        Column("|κ|", "Its median between the 10 and 90 % quantiles."),
        Column("C", "Median normalized curvature of the loss at test points, exact Hessian."),
        Column("crossed", "Share of the points whose nearest boundary was found.", ".1%"),
    )
    conditions = {"examples": f"{len(data.test)} test points", "plane": "the unit square; a moon's radius is 0.25"}
    gallery = Gallery(
        "Decision regions on two moons", tuple(models), ("regions and test points",), pictures, (),
        "The unit square, the first coordinate to the right and the second upwards. Blue is the upper moon.",
    )  # fmt: skip
    return {"regions": gallery, "boundary": Table("The boundary", headings, rows, conditions=conditions)}


@torch.no_grad()
def _picture(model: nn.Module, test: Examples) -> np.ndarray:
    """Each pixel in its class's color, lighter where the network is not sure, with the test points."""
    middles = (torch.arange(SIDE) + 0.5) / SIDE
    grid = torch.stack(torch.meshgrid(middles.flip(0), middles, indexing="ij"), -1).flip(-1).reshape(-1, 2)
    share = model(grid).softmax(1)[:, :1].view(SIDE, SIDE, 1).double()
    blue, orange = torch.tensor(BLUE, dtype=torch.float64), torch.tensor(ORANGE, dtype=torch.float64)
    strength = 0.25 + 0.35 * (2 * share - 1).abs()
    colors = torch.where(share >= 0.5, blue, orange) * strength + (1 - strength)
    columns = (test.x[:, 0] * (SIDE - 1)).round().long()
    lines = ((1 - test.x[:, 1]) * (SIDE - 1)).round().long()
    colors[lines, columns] = torch.where((test.y == 0)[:, None], 0.6 * blue, 0.75 * orange)
    found: np.ndarray = colors.permute(2, 0, 1).numpy()
    return found


def _row(name: str, model: nn.Module, test: Examples) -> tuple[Cell, ...]:
    right = evaluation.correct(model, test)
    kept = test.take(torch.from_numpy(right).nonzero()[:, 0])
    ratio = evaluation.measure(model, kept, {"C": Curvature(2)})["normalized curvature"]
    bent = _bends(model, kept.pixels(slice(None)), kept.y)
    bent = bent[np.isfinite(bent)]
    middle = summarize(bent) if len(bent) else None
    spread = None if middle is None else (middle.median, middle.low, middle.high)
    mean = None if middle is None else middle.mean
    return (name, float(right.mean()), mean, spread, float(np.median(ratio)), len(bent) / max(1, len(kept)))


def _bends(model: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """|κ| where the boundary is nearest, NaN where it was not found."""
    with frozen(model):
        across = DeepFool(L2)(model, x, y, generator=stream(0, "boundary"))
        decision = logit_difference(model, y, 1 - y)
        boundary = find_boundary_point(decision, x, across)
        columns = NormalCurvatures(steps=2, h=SCALE)(decision, boundary.point)
    found: np.ndarray = torch.where(boundary.crossed, columns["mean curvature"].abs(), torch.nan).cpu().numpy()
    return found
