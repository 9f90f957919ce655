"""Show input gradients, adversarial images and their perturbations, one row per network."""

import torch
from torch import Tensor

from lowcurve.analysis.calculus import gradient
from lowcurve.attacks import PGD
from lowcurve.errors import InputError
from lowcurve.figures.same_images import SameImages
from lowcurve.losses import cross_entropy, loss_field, margin
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call
from lowcurve.randomness import stream
from lowcurve.results import Gallery, Result
from lowcurve.types import Loss

GRAY = "0 is gray; each picture is scaled by its largest absolute entry, printed below it"

CONDITIONS = {"images": "test images, by class and number", "units": "pixel range [0, 1]", "BatchNorm": "eval mode"}


def jacobians(shared: SameImages) -> dict[str, Result]:
    """Show the images, the input gradients of margin and loss, and adversarial images, one row per network.

    A gradient is drawn as 1/2 + g / (2 max|g|): 0 is gray and each picture has its own scale. A zero gradient is
    all gray.

    Args:
        shared: Networks and images.

    Returns:
        Galleries "margin", "loss" and "adversarial".

    Raises:
        InputError: If the inputs are not images of one or three channels.

    Reference: yu2018interpreting, Figs. 8, 10, 15; moosavi2019cure, Fig. 11.
    """
    shape = shared.examples.shape
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise InputError(
            "images of one or three channels", f"inputs of shape {shape}", "draw a cross-section or a surface"
        )
    return {
        "margin": _gradient_gallery(shared, margin, "margin", "Bright: more light raises the margin."),
        "loss": _gradient_gallery(
            shared, cross_entropy, "loss", "Gradients of cross-entropy. Bright: more light raises the loss."
        ),
        "adversarial": _adversarial_gallery(shared),
    }


def _gradient_gallery(shared: SameImages, loss: Loss, what: str, meaning: str) -> Gallery:
    rows, notes = _first_row(shared)
    names = ["image"]
    for name, model in shared.models.items():
        x = shared.inputs(model)
        with frozen(model):
            gradients = gradient(loss_field(model, shared.y.to(x.device), loss), x).cpu()
        names.append(name)
        pictures, scales = _around_gray(gradients)
        rows.append(pictures)
        notes.append(scales)
    conditions = {**CONDITIONS, "scale": GRAY}
    return _gallery(shared, f"Input gradients of the {what}", names, rows, notes, meaning, conditions)


def _adversarial_gallery(shared: SameImages) -> Gallery:
    """Show PGD's images with the networks' predictions, and the perturbations below them."""
    attack = PGD(shared.ball, steps=shared.steps)
    rows, notes = _first_row(shared)
    names = ["image"]
    for name, model in shared.models.items():
        x = shared.inputs(model)
        found = attack(model, x, shared.y.to(x.device), generator=stream(shared.seed, "jacobian"))
        with frozen(model), torch.no_grad():
            seen = [shared.examples.classes[int(k)] for k in call(model, found).argmax(1)]
        pictures, scales = _around_gray((found - x).cpu())
        names += [name, f"{name}, what was added"]
        rows += [found.cpu(), pictures]
        notes += [tuple(f"seen as {c}" for c in seen), scales]
    ball = shared.attack_conditions
    conditions = {**CONDITIONS, "attack": f"PGD-{attack.steps}, {ball}, to its end", "scale": GRAY}
    title = "Adversarial images and what was added"
    return _gallery(shared, title, names, rows, notes, "Perturbations: bright for more light.", conditions)


def _first_row(shared: SameImages) -> tuple[list[Tensor], list[tuple[str, ...]]]:
    return [shared.examples.pixels(slice(None))], [("",) * len(shared.numbers)]


def _around_gray(values: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """Return 1/2 + v / (2 max|v|), and the scales as text."""
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
    columns = tuple(map(shared.short_name, range(len(shared.numbers))))
    pixels = torch.stack([row.double() for row in rows]).numpy()
    return Gallery(title, tuple(names), columns, pixels, tuple(notes), caption, conditions)
