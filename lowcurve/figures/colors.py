"""Show the effect of color changes: accuracies, margins along the hue circle, and the most damaging colors."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import evaluation
from lowcurve.attacks import ColorBox, HueCircle, HueFloor, HueShift, PepperTest, Recoloring, hue_logits
from lowcurve.data import Examples
from lowcurve.figures.same_images import SameImages
from lowcurve.losses import margin
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Result, Table, merge, proportion
from lowcurve.results.cells import CELLS, NETWORK, count_examples, spread
from lowcurve.types import AttackFunction, Measure, Progress, silent

ATTACKS: Mapping[str, AttackFunction] = {"hue": HueShift(), "color box": ColorBox(), "recoloring": Recoloring()}
MEANINGS = {
    "hue": "Accuracy at each image's worst hue, of the whole circle.",
    "color box": "Accuracy under hue, saturation, brightness, contrast, gamma and rotation together.",
    "recoloring": f"Accuracy where any color may move by {Recoloring().bound:g} (CIEDE2000), smoothly.",
}
DEGREES = tuple(float(d) for d in range(-180, 181, 5))


def colors(shared: SameImages) -> dict[str, Result]:
    """Compute the table of `color_table`, the margin around the hue circle, and the most damaging colors of each image.

    Args:
        shared: Networks and images.

    Returns:
        "colors", a table; "hues 1", ..., the margins of each image; "recolored", the images.

    Raises:
        InputError: If the images have not three channels.

    Reference: bardusco_report, Fig. 9; Hosseini and Poovendran 2018 (hue).
    """
    rows = [
        color_table(name, model, shared.examples, seed=shared.seed, progress=shared.progress)
        for name, model in shared.models.items()
    ]
    return {"colors": merge(rows), **_hue_figures(shared), "recolored": _color_gallery(shared)}


def color_table(
    name: str, model: nn.Module, examples: Examples, *, seed: int = 0, progress: Progress[int] = silent
) -> Table:
    """Measure one network's accuracy under color changes, its range of hues, and the margin's curvature along hue.

    Args:
        name: Name of the network.
        model: The network.
        examples: Images with their labels.
        seed: Seed of the attacks.
        progress: Receives the progress of attacks and measures.

    Returns:
        A table with one row.
    """
    clean = evaluation.correct(model, examples)
    shares: list[tuple[Column, np.ndarray]] = [(Column("clean", "", ".1%"), clean)]
    for key, attack in ATTACKS.items():
        attacked = evaluation.attack(model, examples, attack, seed=seed, progress=progress, heading=f"{key} on {name}")
        shares.append((Column(key, MEANINGS[key], ".1%"), attacked.robust))
    pepper, measures = PepperTest(), dict[str, Measure](circle=HueCircle(), pepper=PepperTest(), floor=HueFloor())
    found = evaluation.measure(model, examples, measures, progress=progress, heading=f"colors of {name}")
    low, high = pepper.allowance
    pepper_column = Column(
        "pepper test", f"Share with the right label at every hue from {low:g} to {high:g} degrees.", ".1%"
    )
    shares.append((pepper_column, found["pepper test"] > 0))
    floor_column = Column(
        "no hue between", "Share whose estimated floor of the margin along the circle is above 0.", ".1%"
    )
    shares.append((floor_column, found["estimated floor of the hue margin"] > 0))
    hue_column = Column("hue range", "Degrees over which the label stays correct, of correctly classified images.")
    curvature_column = Column(
        "|m″| along hue", "Largest second derivative of the margin on the circle, per square degree.", ".2g"
    )
    spreads = ((hue_column, found["hue range"]), (curvature_column, found["largest hue curvature"]))
    proportions = [proportion(int(values.sum()), len(values)) for _, values in shares]
    row: list[Cell] = [(share.value, share.low, share.high) for share in proportions]
    row += [spread(values[clean]) if clean.any() else None for _, values in spreads]
    headings = [column for column, _ in (*shares, *spreads)]
    conditions = {
        **count_examples(examples, "test"),
        "hue": "in HSV; a circle of 36 angles, refined where the margin is low",
        "shares": "with 95 % interval",
        "BatchNorm": "eval mode",
    }
    return Table("Changes of color", (NETWORK, *headings), ((name, *row),), f"Ranges: {CELLS}", conditions)


def _hue_figures(shared: SameImages) -> dict[str, Result]:
    """Plot each image's margin at every hue."""
    lines: list[dict[str, Line]] = [{} for _ in shared.numbers]
    for name, model in shared.models.items():
        x = shared.inputs(model)
        with frozen(model):
            logits = hue_logits(model, x, torch.tensor(DEGREES).to(x))
        labels = shared.y.to(x.device).repeat_interleave(len(DEGREES))
        margins = margin(logits.flatten(0, 1), labels).view(len(x), -1)
        for i, values in enumerate(margins.tolist()):
            lines[i][name] = Line(tuple(values))
    caption = "Below 0 the network takes the image for another class; 0 degrees is the image itself."
    return {
        f"hues {i + 1}": Curves(
            f"The margin around the hue circle, {shared.image_name(i)}",
            "hue shift (degrees)",
            "margin z_y − max z_k",
            DEGREES,
            line,
            caption,
            {**shared.conditions, "hue": "in HSV, saturation and value kept"},
        )
        for i, line in enumerate(lines)
    }


def _color_gallery(shared: SameImages) -> Gallery:
    """Show each attack's images with the networks' predictions."""
    images = shared.examples.pixels(slice(None))
    names, rows, notes = ["image"], [images], [("",) * len(shared.numbers)]
    for name, model in shared.models.items():
        x = shared.inputs(model)
        for key, attack in ATTACKS.items():
            generator = stream(shared.seed, "colors", key)
            found = attack(model, x, shared.y.to(x.device), generator=generator)
            names.append(f"{name}, {key}")
            rows.append(found.cpu())
            notes.append(_predictions(shared, model, found))
    columns = tuple(map(shared.short_name, range(len(shared.numbers))))
    conditions = {**shared.conditions, **{key: MEANINGS[key].removeprefix("Accuracy ").rstrip(".") for key in ATTACKS}}
    pixels = torch.stack([row.double() for row in rows]).numpy()
    return Gallery("The most damaging colors", tuple(names), columns, pixels, tuple(notes), "", conditions)


def _predictions(shared: SameImages, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    with frozen(model), torch.no_grad():
        return tuple(f"seen as {shared.examples.classes[int(k)]}" for k in call(model, x).argmax(1))
