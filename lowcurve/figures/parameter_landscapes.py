"""Compare the loss surface in parameter space with that in input space."""

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
from lowcurve.network_calls import input_like
from lowcurve.results import Column, Panel, Surface, Table
from lowcurve.results.cells import NETWORK
from lowcurve.types import Progress, silent

FILTER = "(share of each filter's length)"


def parameter_landscape(
    models: Mapping[str, nn.Module], examples: Examples, reach: float = 1.0, points: int = 15, seed: int = 0,
    progress: Progress[int] = silent,
) -> Surface:  # fmt: skip
    """Compute the mean loss over images along two filter-normalized directions of each network's parameters.

    Args:
        models: The networks by name.
        examples: Images with their labels.
        reach: Half width of the window. Its unit is the length of each filter.
        points: Grid points along a side.
        seed: Seed of the directions.
        progress: Display of the progress.

    Returns:
        A surface with one panel per network.

    Cost: points^2 passes of all images per network.

    Reference: yu2018interpreting, Eq. (1), Figs. 1 (a) and 2; Li et al. 2018, section 4.
    """
    axis = torch.linspace(-1, 1, points) * reach
    panels = {}
    for name, model in models.items():
        first, second = (filter_normalized_direction(model, seed=seed + k) for k in range(2))
        like = input_like(model)
        x, y = examples.pixels(slice(None)).to(like), examples.y.to(like.device)
        with frozen(model):
            values = parameter_surface(model, x, y, first, second, axis, axis, progress=progress)
        panels[name] = Panel(values.cpu().numpy(), marks={"network": (0.0, 0.0)})
    at = tuple(axis.tolist())
    conditions = {
        "images": f"mean over {examples.describe('test')}",
        "directions": "Gaussian, each filter as long as the network's; biases and BatchNorm stay",
        "BatchNorm": "eval mode",
    }
    return Surface(
        "Loss surface in parameter space", f"along a second random direction {FILTER}", f"along a random direction {FILTER}",
        at, at, panels, LOSSES["loss"][1], conditions=conditions,
    )  # fmt: skip


def loss_rises(parameters: Surface, shared: SameImages, reach: float, points: int = 11) -> Table:
    """Tabulate the rise of the mean loss over a window in parameter space and over one in input space.

    In input space the window is spanned by the sign of the margin's gradient and a random direction, and the mean
    is over the shared images. In parameter space the mean is over all images of the surface.

    Args:
        parameters: The surface of `parameter_landscape`.
        shared: Networks and images.
        reach: Half width of the window in input space, as the change of a pixel.
        points: Grid points along a side.

    Returns:
        A table with one row per network.
    """
    axis, few = torch.linspace(-1, 1, points) * reach, replace(shared, points=points)
    rows = []
    for name, panel in parameters.panels.items():
        grid, _ = evaluate_along_direction(few, name, "margin", axis)
        inputs = torch.zeros(points, points) if grid is None else grid.values(cross_entropy).double().mean(0).cpu()
        rows.append((name, *_rise(torch.from_numpy(panel.values)), *_rise(inputs)))
    columns = (
        NETWORK,
        Column("loss, parameters", "Loss of the network itself, mean over images."),
        Column("rise, parameters", "Mean over the window minus that loss."),
        Column("loss, inputs", "Loss at the images, mean over them."),
        Column("rise, inputs", "Mean over the window minus that loss."),
    )
    conditions = {
        **shared.conditions,
        "window of parameters": f"{max(parameters.x):g} of each filter's length to each side",
        "window of inputs": f"a change of {reach:.3g} a pixel to each side, {len(shared.numbers)} images",
    }
    return Table("How far the loss rises", columns, tuple(rows), conditions=conditions)


def _rise(values: Tensor) -> tuple[float, float]:
    """Return the middle value, and the mean minus that value."""
    middle = float(values[len(values) // 2, values.shape[1] // 2])
    return middle, float(values.mean()) - middle
