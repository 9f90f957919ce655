"""What an attack on one network does to others, and how high it drives the loss."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.data.batches import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.measuring import logits_of, require_examples
from lowcurve.evaluation.sharing import gathered, share_of
from lowcurve.losses import cross_entropy
from lowcurve.models.modes import frozen
from lowcurve.types import AttackFunction, Loss, Progress, silent


def transfer(
    models: Mapping[str, nn.Module],
    examples: Examples,
    method: AttackFunction,
    *,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] = silent,
    fabric: Any = None,
) -> np.ndarray:
    """standing[s, t, i]: whether network t is right about example i as the attack on network s has changed it.

    Shape (networks, networks, examples), in the order of `models`; the diagonal is the attack on the network itself. An
    example that network t gets wrong without an attack counts as fallen. The attack goes to its end on every example,
    since what only just fools the source seldom fools another. fabric: the examples are shared out over its processes, and
    each has the answer of all.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import FGSM
        >>> class Reversed(nn.Module):
        ...     def forward(self, x):
        ...         return x.flip(1)
        >>> points = Examples(torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ("a", "b"))
        >>> transfer({"same": nn.Identity(), "other": nn.Identity()}, points, FGSM(Ball(LINF, 0.2))).squeeze(2)
        array([[False, False],
               [False, False]])
    """
    if not models:
        raise InputError("at least one network", "none", "write transfer({'name': model}, examples, attack)")
    mine = share_of(fabric, len(examples))
    robust = _standing(models, examples.take(mine), method, seed, batch_size, progress)
    if len(mine) < len(examples):
        robust = gathered({"robust": robust}, mine)["robust"]
    return np.asarray(robust.numpy()).transpose(1, 2, 0)


def _standing(
    models: Mapping[str, nn.Module],
    examples: Examples,
    method: AttackFunction,
    seed: int,
    batch_size: int,
    progress: Progress[int],
) -> Tensor:
    """The answer with the examples first."""
    clean = [_right(model, examples, examples.pixels(slice(None)), batch_size) for model in models.values()]
    rows = []
    for name, source in models.items():
        found, _ = _to_the_end(source, examples, method, seed, batch_size, progress, f"attacking {name}")
        right = [_right(model, examples, found, batch_size) for model in models.values()]
        rows.append(np.stack([a & b for a, b in zip(clean, right, strict=True)]))
    return torch.from_numpy(np.stack(rows)).movedim(2, 0)


def adversarial_loss(
    model: nn.Module,
    examples: Examples,
    method: AttackFunction,
    *,
    loss: Loss = cross_entropy,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] = silent,
) -> np.ndarray:
    """l(x') for every example, the attack going to its end on each: a lower bound of the largest loss in the ball.

    Example:
        >>> from lowcurve.analysis.norms import LINF, Ball
        >>> from lowcurve.attacks import FGSM
        >>> points = Examples(torch.tensor([[0.6, 0.4]]), torch.tensor([0]), ("a", "b"))
        >>> adversarial_loss(nn.Identity(), points, FGSM(Ball(LINF, 0.1))).round(4)  # log(1 + exp(0))
        array([0.6931], dtype=float32)
    """
    _, values = _to_the_end(model, examples, method, seed, batch_size, progress, "attacking", loss)
    return np.asarray(values.numpy())


def _to_the_end(
    model: nn.Module,
    examples: Examples,
    method: AttackFunction,
    seed: int,
    batch_size: int,
    progress: Progress[int],
    heading: str,
    loss: Loss = cross_entropy,
) -> tuple[Tensor, Tensor]:
    """The attacked inputs and the loss there."""
    require_examples(model, examples)
    like = next(model.parameters(), torch.zeros(()))
    found, values = [], []
    with frozen(model):
        for x, y in _parts(examples, batch_size, like, progress, heading):
            logits_of(model, x, y)
            point = method(model, x, y, generator=randomness.stream(seed, "attack", type(method).__name__))
            with torch.no_grad():
                values.append(loss(model(point), y).cpu())
            found.append(point.cpu())
    return torch.cat(found), torch.cat(values)


def _right(model: nn.Module, examples: Examples, x: Tensor, batch_size: int) -> np.ndarray:
    require_examples(model, examples)
    like = next(model.parameters(), torch.zeros(()))
    with frozen(model):
        parts = zip(x.split(batch_size), examples.y.split(batch_size), strict=True)  # type: ignore[no-untyped-call]
        found = [logits_of(model, a.to(like), b.to(like.device)).argmax(1).cpu() == b for a, b in parts]
    return np.asarray(torch.cat(found).numpy())


def _parts(
    examples: Examples, size: int, like: Tensor, progress: Progress[int], heading: str
) -> Iterator[tuple[Tensor, Tensor]]:
    for start in progress(range(0, len(examples), size), heading):
        rows = slice(start, start + size)
        yield examples.pixels(rows).to(like), examples.y[rows].to(like.device)
