"""What a change of color does to networks: numbers over test images, margins along the hue circle, the worst pictures."""

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
from lowcurve.randomness import stream
from lowcurve.results import Cell, Column, Curves, Gallery, Line, Result, Table, merge, proportion
from lowcurve.results.cells import CELLS, NETWORK, counted, spread
from lowcurve.types import AttackFunction, Measure, Progress, silent

ATTACKS: Mapping[str, AttackFunction] = {"hue": HueShift(), "color box": ColorBox(), "recoloring": Recoloring()}
MEANINGS = {
    "hue": "Accuracy at each image's worst hue, of the whole circle.",
    "color box": "Accuracy under hue, saturation, brightness, contrast, gamma and rotation together.",
    "recoloring": f"Accuracy where any color may move by {Recoloring().bound:g} (CIEDE2000), smoothly.",
}
DEGREES = tuple(float(d) for d in range(-180, 181, 5))


def colors(shared: SameImages) -> dict[str, Result]:
    """The table of `color_table` at the sitting's images, the margin all around the hue circle, and the worst pictures.

    Errors: InputError for images without three channels.

    Reference: bardusco_report, Fig. 9; Hosseini and Poovendran 2018 (hue).
    """
    rows = [
        color_table(name, model, shared.examples, seed=shared.seed, progress=shared.progress)
        for name, model in shared.models.items()
    ]
    return {"colors": merge(rows), **_circles(shared), "recolored": _recolored(shared)}


def color_table(
    name: str, model: nn.Module, examples: Examples, *, seed: int = 0, progress: Progress[int] = silent
) -> Table:
    """One network's row: accuracy under changes of color, how far hues keep the label, and how the margin bends along them."""
    clean = evaluation.correct(model, examples)
    shares: list[tuple[Column, np.ndarray]] = [(Column("clean", "", ".1%"), clean)]
    for key, attack in ATTACKS.items():
        left = evaluation.attack(model, examples, attack, seed=seed, progress=progress, heading=f"{key} on {name}")
        shares.append((Column(key, MEANINGS[key], ".1%"), left.robust))
    pepper, measures = PepperTest(), dict[str, Measure](circle=HueCircle(), pepper=PepperTest(), floor=HueFloor())
    found = evaluation.measure(model, examples, measures, progress=progress, heading=f"colors of {name}")
    low, high = pepper.allowance
    kept = Column("pepper test", f"Share with the right label at every hue from {low:g} to {high:g} degrees.", ".1%")
    shares.append((kept, found["pepper test"] > 0))
    sure = Column("no hue between", "Share whose estimated floor of the margin along the circle is above 0.", ".1%")
    shares.append((sure, found["estimated floor of the hue margin"] > 0))
    hue = Column("hue range", "Degrees over which the label is kept, of images that are right.")
    bend = Column("|m″| along hue", "Largest second derivative of the margin on the circle, per square degree.", ".2g")
    spreads = ((hue, found["hue range"]), (bend, found["largest hue curvature"]))
    proportions = [proportion(int(values.sum()), len(values)) for _, values in shares]
    row: list[Cell] = [(share.value, share.low, share.high) for share in proportions]
    row += [spread(values[clean]) if clean.any() else None for _, values in spreads]
    headings = [column for column, _ in (*shares, *spreads)]
    conditions = {
        **counted(examples, "test"),
        "hue": "in HSV; a circle of 36 angles, refined where the margin is low",
        "shares": "with 95 % interval",
        "BatchNorm": "eval mode",
    }
    return Table("Changes of color", (NETWORK, *headings), ((name, *row),), f"Ranges: {CELLS}", conditions)


def _circles(shared: SameImages) -> dict[str, Result]:
    """Each image's margin at every hue."""
    lines: list[dict[str, Line]] = [{} for _ in shared.numbers]
    for name, model in shared.models.items():
        x = shared.x(model)
        with frozen(model):
            logits = hue_logits(model, x, torch.tensor(DEGREES).to(x))
        labels = shared.y.to(x.device).repeat_interleave(len(DEGREES))
        margins = margin(logits.flatten(0, 1), labels).view(len(x), -1)
        for i, values in enumerate(margins.tolist()):
            lines[i][name] = Line(tuple(values))
    caption = "Below 0 the network takes the image for another class; at 0 degrees it is as it was."
    return {
        f"hues {i + 1}": Curves(
            f"The margin around the hue circle, {shared.image(i)}",
            "hue shift (degrees)",
            "margin z_y − max z_k",
            DEGREES,
            line,
            caption,
            {**shared.conditions, "hue": "in HSV, saturation and value kept"},
        )
        for i, line in enumerate(lines)
    }


def _recolored(shared: SameImages) -> Gallery:
    """What each attack makes of the images, and what the networks then see."""
    images = shared.examples.pixels(slice(None))
    names, rows, notes = ["image"], [images], [("",) * len(shared.numbers)]
    for name, model in shared.models.items():
        x = shared.x(model)
        for key, attack in ATTACKS.items():
            generator = stream(shared.seed, "colors", key)
            found = attack(model, x, shared.y.to(x.device), generator=generator)
            names.append(f"{name}, {key}")
            rows.append(found.cpu())
            notes.append(_seen(shared, model, found))
    columns = tuple(map(shared.short, range(len(shared.numbers))))
    conditions = {**shared.conditions, **{key: MEANINGS[key].removeprefix("Accuracy ").rstrip(".") for key in ATTACKS}}
    pixels = torch.stack([row.double() for row in rows]).numpy()
    return Gallery("The most damaging colors", tuple(names), columns, pixels, tuple(notes), "", conditions)


def _seen(shared: SameImages, model: nn.Module, x: Tensor) -> tuple[str, ...]:
    with frozen(model), torch.no_grad():
        return tuple(f"seen as {shared.examples.classes[int(k)]}" for k in model(x).argmax(1))
