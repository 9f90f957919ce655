"""The loss around a network's parameters beside the loss around its inputs: two surfaces, and how much it rises on each."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from lowcurve.data import Examples
from lowcurve.figures.projections import LOSSES, evaluate_along_direction
from lowcurve.figures.same_images import SameImages
from lowcurve.geometry import filter_normalized_direction, parameter_surface
from lowcurve.losses import cross_entropy
from lowcurve.models.modes import frozen
from lowcurve.results import Column, Panel, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Progress, silent

FILTER = "(share of each filter's length)"


def parameter_landscape(
    models: Mapping[str, nn.Module], examples: Examples, reach: float = 1.0, points: int = 15, seed: int = 0,
    progress: Progress[int] = silent,
) -> Surface:  # fmt: skip
    """The mean loss over these images along two filter-normalized directions of each network's parameters.

    Cost: points^2 passes of all images, a network.

    Reference: yu2018interpreting, Eq. (1), Figs. 1 (a) and 2; Li et al. 2018, section 4.
    """
    axis = torch.linspace(-1, 1, points) * reach
    panels = {}
    for name, model in models.items():
        first, second = (filter_normalized_direction(model, seed=seed + k) for k in range(2))
        like = next(model.parameters())
        x, y = examples.pixels(slice(None)).to(like), examples.y.to(like.device)
        with frozen(model):
            values = parameter_surface(model, x, y, first, second, axis, axis, progress=progress)
        panels[name] = Panel(values.cpu().numpy(), marks={"network": (0.0, 0.0)})
    at = tuple(axis.tolist())
    conditions = {
        "images": f"mean over {len(examples)} of the test set",
        "directions": "Gaussian, each filter as long as the network's; biases and BatchNorm stay",
        "BatchNorm": "eval mode",
    }
    return Surface(
        "Loss surface in parameter space", f"along a second random direction {FILTER}", f"along a random direction {FILTER}",
        at, at, panels, LOSSES["loss"][1], conditions=conditions,
    )  # fmt: skip


def loss_rises(parameters: Surface, shared: SameImages, reach: float, points: int = 11) -> Table:
    """How far the mean loss rises, over the window of a surface and where it is from: in parameter space, and in input space.

    In input space the window is that of the margin's gradient sign and a random direction, `reach` to each side, and the loss
    a mean over the images of the sitting, which every network classifies rightly; in parameter space over all images.
    """
    axis, few = torch.linspace(-1, 1, points) * reach, replace(shared, points=points)
    rows = []
    for name, panel in parameters.panels.items():
        look, _ = evaluate_along_direction(few, name, "margin", axis)
        inputs = torch.zeros(points, points) if look is None else look.values(cross_entropy).double().mean(0).cpu()
        rows.append((name, *_rise(torch.from_numpy(panel.values)), *_rise(inputs)))
    columns = (
        NETWORK,
        Column("loss, parameters", "At the network, mean over images."),
        Column("rise, parameters", "Mean over the window, less that."),
        Column("loss, inputs", "At the images, mean over them."),
        Column("rise, inputs", "Mean over the window, less that."),
    )
    conditions = {
        **shared.conditions,
        "window of parameters": f"{max(parameters.x):g} of each filter's length to each side",
        "window of inputs": f"a change of {reach:.3g} a pixel to each side, {len(shared.numbers)} images",
    }
    return Table("How far the loss rises", columns, tuple(rows), conditions=conditions)


def _rise(values: Tensor) -> tuple[float, float]:
    """The middle value, and the mean less that."""
    middle = float(values[len(values) // 2, values.shape[1] // 2])
    return middle, float(values.mean()) - middle
