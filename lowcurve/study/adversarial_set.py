"""An adversarial training set: training images moved until the network takes them for their runner-up, made once.

The report that it follows calls this defensive distillation. There is no teacher in it and no temperature; it is fine-tuning on
adversarial images, and distillation stands in `penalties.distillation`.
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
    """Images that the network classified rightly and, moved by the attack, does not, under their true labels.

    They are made from the first `per_class` images of each class that are classified rightly, in their order; of a class with
    fewer of them there are fewer, and an image that never crosses is left out. So the network has an accuracy of 0 on the
    set, as long as its pixels are not rounded to grey levels. The model must be in eval mode.

    Cost: one forward pass for each of the examples, and the attack on those chosen.

    Example:
        >>> points = Examples(torch.tensor([[0.6, 0.4], [0.3, 0.7], [0.1, 0.2]]), torch.tensor([0, 1, 0]), ("a", "b"))
        >>> found = adversarial_set(nn.Identity(), points)
        >>> (found.x * 1000).round().tolist(), found.y.tolist()  # just across the diagonal; the third was wrong before
        ([[498.0, 502.0], [504.0, 496.0]], [0, 1])

    Reference: bardusco_report, section 2.1.1 (50 images of each of 200 classes).
    """
    if per_class < 1:
        raise InputError("at least one image of each class", per_class, "write per_class=50")
    right = torch.from_numpy(evaluation.correct(model, examples, batch_size=batch_size))
    firsts = [torch.nonzero(right & (examples.y == label))[:per_class] for label in range(len(examples.classes))]
    chosen = examples.take(torch.cat(firsts).flatten().sort().values)
    found = evaluation.attack(model, chosen, method, seed=seed, batch_size=batch_size, progress=progress)
    fallen = torch.from_numpy(~found.robust)
    return Examples(found.inputs[fallen], chosen.y[fallen], examples.classes)


def mix(first: Examples, second: Examples) -> Examples:
    """The examples of both, one after the other: clean and adversarial ones, to be shuffled in training.

    Where one part has grey levels and the other does not, both become floating-point pixels, which take four times the memory.

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
    x = torch.cat([part.x if alike else part.pixels(slice(None)) for part in parts])
    return Examples(x, torch.cat([part.y for part in parts]), first.classes)
