"""Transfer of attacks between networks, and the loss that an attack reaches."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.attacks.acceptance import accept
from lowcurve.data.coercion import Data
from lowcurve.data.examples import Examples
from lowcurve.data.labels import Labels
from lowcurve.errors import InputError
from lowcurve.evaluation.arguments import require_attack, require_batch_size, split_arguments
from lowcurve.evaluation.independence import warn_of_dependence
from lowcurve.evaluation.measuring import logits_of, on_device, require_examples
from lowcurve.evaluation.parts import Piece, Share, evaluate_parts, part_size
from lowcurve.losses import cross_entropy, evaluate_loss
from lowcurve.models.modes import frozen
from lowcurve.network_calls import call, gradients_enabled, input_like, require_module
from lowcurve.progress import choose_progress
from lowcurve.types import AttackFunction, Loss, Progress


@gradients_enabled()
def transfer(
    models: Mapping[str, nn.Module],
    images: Data,
    labels: Labels | AttackFunction | None = None,
    method: AttackFunction | None = None,
    *,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] | bool | None = None,
    fabric: Any = None,
) -> np.ndarray:
    """Attack each network and evaluate all networks on the attacked images.

    Called as transfer(models, images, labels, method) or transfer(models, data, method). The attack does not stop early:
    an image that only just fools its own network rarely fools another.

    Args:
        models: Networks by name.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        method: The attack.
        seed: Seed of the attack's random numbers.
        batch_size: Images in a batch.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.
        fabric: Lightning Fabric whose processes share the images. Each process returns the whole result.

    Returns:
        robust[s, t, i], shape (networks, networks, images): whether network t is correct on image i, clean and as attacked
        on network s. The diagonal is the attack on the network itself.

    Raises:
        InputError: If there are no networks, or they cannot be evaluated on the images.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import FGSM
        >>> two = {"same": nn.Identity(), "other": nn.Identity()}
        >>> transfer(two, torch.tensor([[0.6, 0.4]]), [0], FGSM(Ball(LINF, 0.2))).squeeze(2)
        array([[False, False],
               [False, False]])
    """
    if not isinstance(models, Mapping) or not models:
        received = "none" if isinstance(models, Mapping) else type(models).__name__
        raise InputError(
            "at least one network, by name", received, "write transfer({'name': model}, images, labels, attack)"
        )
    for model in models.values():
        require_module(model)
    require_batch_size(batch_size)
    data, chosen = split_arguments(next(iter(models.values())), images, labels, method)
    method = require_attack(chosen)
    for model in models.values():
        warn_of_dependence(model, require_examples(model, data))
    bars = choose_progress(progress, fabric)

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        return {"robust": _transfer(models, piece, method, seed, batch_size, bars)}

    robust = evaluate_parts(data, part_size(data, batch_size), columns_of, Share(fabric))["robust"]
    return np.asarray(robust.numpy()).transpose(1, 2, 0)


def _transfer(
    models: Mapping[str, nn.Module],
    piece: Piece,
    method: AttackFunction,
    seed: int,
    batch_size: int,
    progress: Progress[int],
) -> Tensor:
    """Return robust[i, s, t], the images first."""
    examples = piece.examples
    clean = [_correct(model, examples, examples.pixels(slice(None)), batch_size) for model in models.values()]
    rows = []
    for name, source in models.items():
        heading = f"attacking {name}{piece.title}"
        found, _ = _attack_fully(source, examples, method, seed, batch_size, progress, heading)
        right = [_correct(model, examples, found, batch_size) for model in models.values()]
        rows.append(np.stack([a & b for a, b in zip(clean, right, strict=True)]))
    return torch.from_numpy(np.stack(rows)).movedim(2, 0)


@gradients_enabled()
def adversarial_loss(
    model: nn.Module,
    images: Data,
    labels: Labels | AttackFunction | None = None,
    method: AttackFunction | None = None,
    *,
    loss: Loss = cross_entropy,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] | bool | None = None,
) -> np.ndarray:
    """Return the loss of each attacked image: a lower bound of the largest loss in the ball.

    Called as adversarial_loss(model, images, labels, method) or adversarial_loss(model, data, method). The attack does
    not stop early.

    Args:
        model: Network. It maps pixels in [0, 1] to logits.
        images: Images, with or without labels. See `as_examples`.
        labels: True labels, unless `images` has them.
        method: The attack.
        loss: Loss that is evaluated. The attack has its own.
        seed: Seed of the attack's random numbers.
        batch_size: Images in a batch.
        progress: None shows a progress bar in a terminal or a notebook. False shows none.

    Raises:
        InputError: If the network cannot be evaluated on the images.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import FGSM
        >>> x = torch.tensor([[0.6, 0.4]])
        >>> adversarial_loss(nn.Identity(), x, [0], FGSM(Ball(LINF, 0.1))).round(4)  # log(1 + exp(0))
        array([0.6931], dtype=float32)
    """
    require_batch_size(batch_size)
    data, chosen = split_arguments(model, images, labels, method)
    attack, bars = require_attack(chosen), choose_progress(progress)
    warn_of_dependence(model, require_examples(model, data))

    def columns_of(piece: Piece) -> dict[str, Tensor]:
        heading = f"attacking{piece.title}"
        return {"loss": _attack_fully(model, piece.examples, attack, seed, batch_size, bars, heading, loss)[1]}

    return np.asarray(evaluate_parts(data, part_size(data, batch_size), columns_of, Share())["loss"].numpy())


def _attack_fully(
    model: nn.Module,
    examples: Examples,
    method: AttackFunction,
    seed: int,
    batch_size: int,
    progress: Progress[int],
    heading: str,
    loss: Loss = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """Return the attacked images and the loss there."""
    found, values = [], []
    with frozen(model):
        for start in progress(range(0, len(examples), batch_size), heading):
            x, y = on_device(model, examples, slice(start, start + batch_size))
            logits_of(model, x, y)
            answer = method(model, x, y, generator=randomness.stream(seed, "attack", type(method).__name__))
            point, _ = accept(method, x, answer)
            with torch.no_grad():
                values.append(evaluate_loss(loss, call(model, point), y).cpu())
            found.append(point.cpu())
    return torch.cat(found), torch.cat(values)


def _correct(model: nn.Module, examples: Examples, x: Tensor, batch_size: int) -> np.ndarray:
    like = input_like(model)
    with frozen(model):
        parts = zip(x.split(batch_size), examples.y.split(batch_size), strict=True)  # type: ignore[no-untyped-call]
        found = [logits_of(model, a.to(like), b.to(like.device)).argmax(1).cpu() == b for a, b in parts]
    return np.asarray(torch.cat(found).numpy())
