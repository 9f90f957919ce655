"""An adversarial training set: training images moved until the network predicts their runner-up class.

The report that describes this calls it defensive distillation. It has no teacher and no temperature: it is fine-tuning on
adversarial images. Distillation is in `penalties.distillation`.
"""

import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.attacks import RunnerUp
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.types import AttackFunction, Progress, silent

RUNNER_UP = RunnerUp()


def adversarial_set(
    model: nn.Module,
    examples: Examples,
    *,
    per_class: int = 50,
    method: AttackFunction = RUNNER_UP,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] = silent,
) -> Examples:
    """Attack correctly classified images and return those that the network then misclassifies, with their true labels.

    The set is made from the first `per_class` correctly classified images of each class, or from all if there are fewer. An
    image that the attack does not change successfully is left out. So the network has an accuracy of 0 on the set, as long
    as the pixels are not rounded to grey levels.

    Args:
        model: Network in eval mode.
        examples: Training examples.
        per_class: Largest number of images of each class.
        method: Attack.
        seed: Seed of the attack.
        batch_size: Images attacked at once.
        progress: Progress display.

    Returns:
        Adversarial examples, in the order of the originals.

    Raises:
        InputError: If `per_class` is below 1.

    Cost: one forward pass for each example, and the attack on the chosen ones.

    Example:
        >>> points = Examples(torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.1, 0.2]]), torch.tensor([0, 1, 0]), ("a", "b"))
        >>> found = adversarial_set(nn.Identity(), points)
        >>> (found.x * 1000).round().tolist(), found.y.tolist()  # just across the diagonal; the third was misclassified
        ([[498.0, 502.0], [504.0, 496.0]], [0, 1])

    Reference: bardusco_report, section 2.1.1 (50 images of each of 200 classes).
    """
    if per_class < 1:
        raise InputError("at least one image of each class", per_class, "write per_class=50")
    correct = torch.from_numpy(evaluation.correct(model, examples, batch_size=batch_size))
    firsts = [torch.nonzero(correct & (examples.y == label))[:per_class] for label in range(len(examples.classes))]
    chosen = examples.take(torch.cat(firsts).flatten().sort().values)
    found = evaluation.attack(model, chosen, method, seed=seed, batch_size=batch_size, progress=progress)
    misclassified = torch.from_numpy(~found.robust)
    return Examples(found.inputs[misclassified], chosen.y[misclassified], examples.classes)


def mix(first: Examples, second: Examples) -> Examples:
    """Concatenate two sets of examples, such as clean and adversarial ones; training shuffles them.

    If only one set has grey levels, both become floating-point pixels, which need four times the memory.

    Args:
        first: Examples.
        second: Examples of the same shape and classes.

    Raises:
        InputError: If shapes or classes differ.

    Example:
        >>> part = Examples(torch.tensor([[0, 255]], dtype=torch.uint8), torch.tensor([0]), ("a",))
        >>> moved = Examples(torch.tensor([[0.1, 0.9]]), torch.tensor([0]), ("a",))
        >>> mix(part, part).x.dtype, mix(part, moved).x
        (torch.uint8, tensor([[0.0000, 1.0000],
                [0.1000, 0.9000]]))
    """
    parts = (first, second)
    if (first.shape, first.classes) != (second.shape, second.classes):
        received = " and ".join(f"{part.shape} with {len(part.classes)} classes" for part in parts)
        raise InputError("examples of one shape and the same classes to mix", received, "prepare both alike")
    alike = first.x.dtype == second.x.dtype
    x = torch.cat([part.x[:] if alike else part.pixels(slice(None)) for part in parts])
    return Examples(x, torch.cat([part.y for part in parts]), first.classes)
