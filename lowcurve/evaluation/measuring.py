"""Measures of a network over a data set: columns of numbers, one entry an example, never reduced."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve.analysis.chunks import in_chunks
from lowcurve.attacks.state import require_logits
from lowcurve.data.batches import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.sharing import Ticker, gathered, share_of
from lowcurve.losses import cross_entropy, loss_field, require_eval
from lowcurve.models.modes import frozen
from lowcurve.results.statistics import Proportion, proportion
from lowcurve.types import Loss, Measure, Progress, silent

Columns = dict[str, np.ndarray]


def measure(
    model: nn.Module,
    examples: Examples,
    measures: Mapping[str, Measure],
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    fabric: Any = None,
    progress: Progress[int] = silent,
    heading: str = "measuring",
) -> Columns:
    """columns = {name: measure(field, x)} over all examples, each number that of one example.

    A measure that returns several columns gives each its own name and leaves the key aside. The model must be in eval
    mode with finite weights. Where memory does not suffice for a batch, it is halved. fabric: the examples are shared out
    over its processes, and each gets all columns. `analysis.hessians.record_backends()` around it tells how Hessians were had.
    Errors: InputError, also where a measure gives NaN.

    Example:
        >>> from lowcurve.geometry import gradient_norm
        >>> model = nn.Linear(2, 2).eval()
        >>> points = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.long), ("a", "b"))
        >>> measure(model, points, {"gradient norm": gradient_norm})["gradient norm"].shape
        (5,)
    """
    require_eval(model)
    require_examples(model, examples)
    mine = share_of(fabric, len(examples))
    columns: dict[str, Tensor] = {}
    ticker = Ticker(progress, heading, len(mine) * len(measures))

    def ticking(numbers: Iterable[int], _: str) -> Iterator[int]:
        for number in numbers:
            yield number
            ticker.advance(1)

    with frozen(model):
        for name, one in measures.items():
            # A measure with a matrix for each example says itself how many fit.
            size = min(batch_size, getattr(one, "at_once", batch_size))
            part = _Part(model, examples, mine, name, one, loss)
            found = in_chunks(part, len(mine), size, progress=ticking)
            columns |= {column: torch.cat([values[column] for values in found]) for column in found[0]}
    if len(mine) < len(examples):
        columns = gathered(columns, mine)
    return {column: values.numpy() for column, values in columns.items()}


@dataclass(frozen=True)
class _Part:
    """One measure of some of the examples."""

    model: nn.Module
    examples: Examples
    rows: Tensor
    name: str
    measure: Measure
    loss: Loss

    def __call__(self, part: slice) -> dict[str, Tensor]:
        x, y = on_device(self.model, self.examples, self.rows[part])
        logits_of(self.model, x, y)
        result = self.measure(loss_field(self.model, y, self.loss), x)
        columns = dict(result) if isinstance(result, Mapping) else {self.name: result}
        for column, values in columns.items():
            # Infinity is a number: the normalized curvature where the gradient is 0 and the Hessian is not.
            if bool(torch.isnan(values).any()):
                raise InputError(f"numbers for {column}", "NaN", "look at the network's logits on this data")
        return {column: values.detach().cpu() for column, values in columns.items()}


def correct(model: nn.Module, examples: Examples, *, batch_size: int = 512) -> np.ndarray:
    """Whether each example is classified as its label: `proportion(correct.sum(), len(correct))` is the clean accuracy.

    Example:
        >>> points = Examples(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), ("a", "b"))
        >>> correct(nn.Identity().eval(), points)
        array([ True, False])
    """
    require_eval(model)
    require_examples(model, examples)
    starts = range(0, len(examples), batch_size)
    batches = (on_device(model, examples, slice(start, start + batch_size)) for start in starts)
    return torch.cat([_right(model, x, y) for x, y in batches]).cpu().numpy()


def accuracy(model: nn.Module, examples: Examples, *, batch_size: int = 512) -> Proportion:
    """Return the share of examples that the model classifies as labeled, with its 95 % interval.

    Example:
        >>> points = Examples(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), ("a", "b"))
        >>> accuracy(nn.Identity().eval(), points).value
        0.5
    """
    right = correct(model, examples, batch_size=batch_size)
    return proportion(int(right.sum()), len(right))


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.as_tensor(logits_of(model, x, y).argmax(1) == y)


def logits_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The logits, once they are known to be finite numbers, a row an example and a column for each label."""
    with torch.no_grad():
        logits = model(x)
    require_logits(logits, y)
    return torch.as_tensor(logits)


def are_probabilities(logits: Tensor) -> bool:
    """Whether what should be logits lies in [0, 1] and sums to 1 in every row.

    Example:
        >>> are_probabilities(torch.tensor([[0.2, 0.8]])), are_probabilities(torch.tensor([[0.2, 0.9]]))
        (True, False)

    Reference: Croce and Hein 2020, AutoAttack's check of the output's range.
    """
    near, sums = 1e-5, logits.sum(1)
    inside = float(logits.min()) > -near and float(logits.max()) < 1 + near
    return inside and float((sums - 1).abs().max()) < near


def require_finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinity among its weights, by the weight's name."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            found, hint = f"NaN or infinity in {name!r}", "load weights of a training that converged"
            raise InputError("finite weights", found, hint)


def on_device(model: nn.Module, examples: Examples, rows: Any) -> tuple[Tensor, Tensor]:
    """Pixels and labels of these examples where the model is, in its precision."""
    like = next((p for p in model.parameters()), torch.zeros(()))
    return examples.pixels(rows).to(like), examples.y[rows].to(like.device)


def require_examples(model: nn.Module, examples: Examples) -> None:
    """Refuse what cannot be evaluated: weights that are not finite, no examples."""
    require_finite(model)
    if not len(examples):
        raise InputError("at least one example", "none", "give a data set that is not empty")
