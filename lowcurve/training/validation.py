"""Accuracy on validation examples after each epoch."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.attacks.acceptance import accept
from lowcurve.data.batches import ordered_batches
from lowcurve.data.examples import Examples
from lowcurve.models.modes import set_training
from lowcurve.network_calls import call
from lowcurve.training.hardware import match_precision
from lowcurve.types import AttackFunction

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CLEAN, ROBUST = "validation accuracy", "validation robust accuracy"


def validation_accuracies(
    model: nn.Module,
    examples: Examples,
    attack: AttackFunction | None,
    fabric: "Fabric",
    batch_size: int,
    seed: int,
) -> dict[str, float]:
    """Compute the shares of examples that are classified correctly, without and under an attack, in eval mode.

    Each process evaluates its share of the examples, and all return the whole result. The random numbers of the attack are
    the same in every epoch, so that epochs can be compared.

    Args:
        model: Network.
        examples: Validation examples.
        attack: Attack, or None.
        fabric: Processes that share the examples.
        batch_size: Batch size of the attack. With that of training it needs no more memory than a training step.
        seed: Seed of the attack.

    Returns:
        "validation accuracy" and, with an attack, "validation robust accuracy".

    Cost: one forward pass per example, and the attack on the correctly classified ones.
    """
    own = examples.take(range(fabric.global_rank, len(examples), fabric.world_size))
    counts = torch.zeros(2, dtype=torch.long)
    with set_training(model, training=False):
        for batch in ordered_batches(own, batch_size if attack is not None else max(batch_size, 512)):
            x, y = fabric.to_device(batch)
            x = match_precision(x, model)
            correct = _correct(model, x, y)
            x, y = x[correct], y[correct]
            counts[0] += len(y)
            if attack is not None and len(y):
                answer = attack(model, x, y, generator=randomness.stream(seed, "validation attack"))
                adversarial, _ = accept(attack, x, answer)
                counts[1] += int(_correct(model, adversarial, y).sum())
    clean, robust = torch.as_tensor(fabric.all_reduce(counts, reduce_op="sum")).tolist()
    if attack is None:
        return {CLEAN: clean / len(examples)}
    return {CLEAN: clean / len(examples), ROBUST: robust / len(examples)}


def _correct(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    with torch.no_grad():
        logits = call(model, x)
        return (logits.argmax(1) == y) & torch.isfinite(logits).all(1)  # argmax takes NaN for the largest
