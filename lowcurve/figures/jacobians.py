"""Pictures of input gradients, and of adversarial images beside what was added to them, networks below one another."""

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.attacks import PGD
from lowcurve.errors import InputError
from lowcurve.figures.same_images import SameImages
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.models.modes import frozen
from lowcurve.randomness import stream
from lowcurve.results import Gallery, Result
from lowcurve.types import Loss

GRAY = "0 is gray; each picture's scale is its own largest absolute entry, which stands below it"

CONDITIONS = {"images": "test images, by class and number", "units": "pixel range [0, 1]", "BatchNorm": "eval mode"}


def jacobians(shared: SameImages) -> dict[str, Result]:
    """The images, the input gradients of margin and of loss, and what an attack makes of the images, a row a network.

    Gradients are drawn as 1/2 + g / (2 max|g|), so that 0 is gray and no picture's scale is another's; a gradient of 0 is all
    gray. Errors: InputError for inputs that are no images of one or three channels.

    Reference: yu2018interpreting, Figs. 8, 10, 15; moosavi2019cure, Fig. 11.
    """
    shape = shared.examples.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            "images of one or three channels", f"inputs of shape {shape}", "draw a cross-section or a surface"
        )
    return {
        "margin": _gradients(shared, margin, "margin", "Where it is bright, more light makes the network surer."),
        "loss": _gradients(
            shared, cross_entropy, "loss", "Of cross-entropy: where it is bright, more light raises it."
        ),
        "adversarial": _adversarial(shared),
    }


def _gradients(shared: SameImages, loss: Loss, what: str, meaning: str) -> Gallery:
    rows, notes = _images(shared)
    names = ["image"]
    for name, model in shared.models.items():
        x = shared.x(model)
        with frozen(model):
            slopes = gradient(loss_field(model, shared.y.to(x.device), loss), x).cpu()
        names.append(name)
        drawn, said = _around_gray(slopes)
        rows.append(drawn)
        notes.append(said)
    conditions = {**CONDITIONS, "scale": GRAY}
    return _gallery(shared, f"Input gradients of the {what}", names, rows, notes, meaning, conditions)


def _adversarial(shared: SameImages) -> Gallery:
    """What the networks then see, and below it what was added."""
    attack = PGD(shared.ball, steps=shared.steps)
    rows, notes = _images(shared)
    names = ["image"]
    for name, model in shared.models.items():
        x = shared.x(model)
        found = attack(model, x, shared.y.to(x.device), generator=stream(shared.seed, "jacobian"))
        with frozen(model), torch.no_grad():
            seen = [shared.examples.classes[int(k)] for k in model(found).argmax(1)]
        drawn, said = _around_gray((found - x).cpu())
        names += [name, f"{name}, what was added"]
        rows += [found.cpu(), drawn]
        notes += [tuple(f"seen as {c}" for c in seen), said]
    ball = shared.attack_conditions
    conditions = {**CONDITIONS, "attack": f"PGD-{attack.steps}, {ball}, to its end", "scale": GRAY}
    title = "Adversarial images and what was added"
    return _gallery(shared, title, names, rows, notes, "Of what was added: bright for more light.", conditions)


def _images(shared: SameImages) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    return [shared.examples.pixels(slice(None))], [("",) * len(shared.numbers)]


def _around_gray(values: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """1/2 + v / (2 max|v|), and the scales."""
    largest = values.abs().flatten(1).amax(1)
    scale = torch.where(largest > 0, largest, 1).view(-1, 1, 1, 1)
    return 0.5 + values / (2 * scale), tuple(f"±{float(v):.3g}" for v in largest)


def _gallery(
    shared: SameImages,
    title: str,
    names: list[str],
    rows: list[Tensor],
    notes: list[tuple[str, ...]],
    caption: str,
    conditions: dict[str, str],
) -> Gallery:
    columns = tuple(map(shared.short, range(len(shared.numbers))))
    pixels = torch.stack([row.double() for row in rows]).numpy()
    return Gallery(title, tuple(names), columns, pixels, tuple(notes), caption, conditions)
