"""How well a network does on examples that it is not trained on, epoch by epoch."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.data.batches import Examples, in_order
from lowcurve.models.modes import set_training
from lowcurve.training.hardware import like_weights
from lowcurve.types import AttackFunction

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CLEAN, ROBUST = "validation accuracy", "validation robust accuracy"


def accuracies(
    model: nn.Module, examples: Examples, attack: AttackFunction | None, fabric: "Fabric", batch_size: int, seed: int
) -> dict[str, float]:
    """The shares of the examples that are classified rightly, and, if there is an attack, that stand under it.

    Each process looks at its share of the examples, and all have the whole result. The attack's random numbers are the same
    every time, so that one epoch can be compared with another. The model is in eval mode meanwhile. batch_size: of the
    attack, which then wants no more memory than a step of training.

    Cost: one forward pass an example, and the attack on those that are classified rightly.
    """
    mine = examples.take(range(fabric.global_rank, len(examples), fabric.world_size))
    counts = torch.zeros(2, dtype=torch.long)
    with set_training(model, training=False):
        for batch in in_order(mine, batch_size if attack is not None else max(batch_size, 512)):
            x, y = fabric.to_device(batch)
            x = like_weights(x, model)
            right = _right(model, x, y)
            x, y = x[right], y[right]
            counts[0] += len(y)
            if attack is not None and len(y):
                moved = attack(model, x, y, generator=randomness.stream(seed, "validation attack"))
                counts[1] += int(_right(model, moved, y).sum())
    correct, robust = torch.as_tensor(fabric.all_reduce(counts, reduce_op="sum")).tolist()
    found = {CLEAN: correct / len(examples), ROBUST: robust / len(examples)}
    return {CLEAN: found[CLEAN]} if attack is None else found


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(x).argmax(1) == y)
