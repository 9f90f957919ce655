"""Instances for a verifier: the network as ONNX, and for each image a VNN-LIB file of what must not happen near it."""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lowcurve.analysis.norms import LINF, Ball, Norm, as_ball
from lowcurve.data.coercion import Data, are_labels, as_examples
from lowcurve.data.labels import Labels
from lowcurve.errors import InputError
from lowcurve.evaluation.measuring import logits_of
from lowcurve.integrations.exporting import export_onnx
from lowcurve.models.modes import frozen
from lowcurve.network_calls import input_like
from lowcurve.store.files import write_bytes

log = logging.getLogger("lowcurve")
NETWORK, PROPERTIES, INSTANCES = "onnx/network.onnx", "vnnlib", "instances.csv"


@dataclass(frozen=True)
class Instances:
    """The files of a verification problem, in the form of the competition VNN-COMP.

    Attributes:
        folder: The folder. Its instances.csv has a line "network,property,timeout" for each image.
        images: Numbers of the images that have a property. Misclassified ones have none.
    """

    folder: Path
    images: tuple[int, ...]

    def property_of(self, image: int) -> Path:
        """Return the property file of an image."""
        return self.folder / PROPERTIES / f"image-{image}.vnnlib"


def property_text(x: Any, label: int, classes: int, ball: Ball) -> str:
    """Return the VNN-LIB text whose solutions are adversarial images: in the ball, with another logit at least as large.

    min(high, x_i + radius) and max(low, x_i - radius) bound the input X_i, in the order of the flattened image. A verifier
    that finds no solution ("unsat") has proved that the image is robust.

    Args:
        x: One image, tensor or array, pixel units.
        label: Its class.
        classes: Number of classes.
        ball: Ball in l_inf, the norm whose balls VNN-LIB can write.

    Raises:
        InputError: If the ball is not in l_inf.

    Example:
        >>> print(property_text(np.array([0.25]), 1, 2, Ball(LINF, 0.5)))
        ; image of class 1 of 2, l_inf radius 0.5, pixels in [0, 1]
        (declare-const X_0 Real)
        (declare-const Y_0 Real)
        (declare-const Y_1 Real)
        (assert (>= X_0 0.0))
        (assert (<= X_0 0.75))
        (assert (or
            (and (>= Y_0 Y_1))
        ))
        <BLANKLINE>

    Reference: the VNN-LIB standard 1.0; Brix et al. 2023 (VNN-COMP).
    """
    if ball.norm != LINF:
        hint = "write the instances in l_inf, or use lowcurve.geometry's certificates for l_2"
        raise InputError("a ball in l_inf, whose bounds VNN-LIB can write", ball.norm.name, hint)
    return "".join(f"{line}\n" for line in _lines(np.asarray(x, dtype=np.float64).ravel(), label, classes, ball))


def _lines(x: np.ndarray, label: int, classes: int, ball: Ball) -> Iterator[str]:
    low, high = ball.box
    yield f"; image of class {label} of {classes}, l_inf radius {ball.radius:g}, pixels in [{low:g}, {high:g}]"
    yield from (f"(declare-const X_{i} Real)" for i in range(x.size))
    yield from (f"(declare-const Y_{k} Real)" for k in range(classes))
    for i, value in enumerate(x.tolist()):
        yield f"(assert (>= X_{i} {_decimal(max(low, value - ball.radius))}))"
        yield f"(assert (<= X_{i} {_decimal(min(high, value + ball.radius))}))"
    yield "(assert (or"
    yield from (f"    (and (>= Y_{k} Y_{label}))" for k in range(classes) if k != label)
    yield "))"


def _decimal(value: float) -> str:
    """Return a number with all its digits and without an exponent, which not every verifier reads."""
    return np.format_float_positional(value, unique=True, trim="0")


def write_instances(
    model: nn.Module,
    images: Data,
    labels: Labels | Norm | str | Ball | None = None,
    norm: Norm | str | Ball | float | None = None,
    radius: float | None = None,
    *,
    folder: str | Path,
    timeout: float = 300.0,
) -> Instances:
    """Write a network and properties of its images for a verifier such as alpha-beta-CROWN, Marabou or NNV.

    Called as write_instances(model, images, labels, "linf", 8/255, folder=...) or without labels for data that has them.

    The folder gets onnx/network.onnx (for one image, pixels -> logits), vnnlib/image-N.vnnlib and instances.csv. Images that
    are misclassified without an attack get no property.

    Args:
        model: The network. A converted one is folded.
        images: Images, with or without labels. See `lc.attack`.
        labels: True labels, unless `images` has them.
        norm: "linf", or a `Ball` in l_inf.
        radius: Radius in pixel units. Leave it out with a `Ball`.
        folder: Folder of the files, which is made.
        timeout: Seconds that instances.csv gives the verifier for each property.

    Returns:
        The folder, and which images have a property.

    Raises:
        InputError: If the norm is not l_inf, if the network cannot be exported, or if no image is classified correctly.

    Cost: an export, a forward pass for each image, and some 30 bytes for each pixel.
    """
    if not are_labels(labels) and labels is not None:  # called without labels: the other arguments move up
        labels, norm, radius = None, labels, norm if radius is None else radius
    ball, place = as_ball(LINF if norm is None else norm, radius), Path(folder)  # type: ignore[arg-type]
    if ball.norm != LINF:
        property_text(np.zeros(1), 0, 2, ball)
    data = as_examples(images, labels)  # type: ignore[arg-type]
    like = input_like(model)
    x = data.pixels(slice(None)).to(like.dtype)
    ball.require_inside_box(x)
    with frozen(model), torch.no_grad():
        logits = logits_of(model, x.to(like.device), data.y.to(like.device)).cpu()
    right = torch.nonzero(logits.argmax(1) == data.y).flatten().tolist()
    if not right:
        raise InputError("an image that the network classifies correctly", f"none of {len(x)}", "check the labels")
    export_onnx(model, place / NETWORK, x[:1].to(like.device), any_batch=False)
    found = Instances(place, tuple(right))
    lines = []
    for image in right:
        text = property_text(x[image].numpy(), int(data.y[image]), logits.shape[1], ball)
        name = write_bytes(found.property_of(image), text.encode()).relative_to(place).as_posix()
        lines.append(f"{NETWORK},{name},{timeout:g}\n")
    write_bytes(place / INSTANCES, "".join(lines).encode())
    log.info("%d of %d images have a property in %s", len(right), len(x), place)
    return found
