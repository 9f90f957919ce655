"""A network over a data set: measures, accuracy, robust accuracy. Columns of numbers, one entry an example, never reduced."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from lowcurve import randomness
from lowcurve.analysis.norms import Norm
from lowcurve.data.batches import Examples
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, loss_field, require_eval
from lowcurve.types import Attack, Loss, Measure, Progress, silent

Columns = dict[str, np.ndarray]


def measure(
    model: nn.Module,
    examples: Examples,
    measures: Mapping[str, Measure],
    *,
    loss: Loss = cross_entropy,
    batch_size: int = 128,
    progress: Progress[int] = silent,
    heading: str = "measuring",
) -> Columns:
    """columns = {name: measure(field, x)} over all examples, each number that of one example.

    A measure that returns several columns gives each its own name and leaves the key aside. The model must be in eval
    mode with finite weights. Errors: InputError, also where a measure gives NaN.

    Example:
        >>> from lowcurve.geometry import gradient_norm
        >>> model = nn.Linear(2, 2).eval()
        >>> points = Examples(torch.rand(5, 2), torch.zeros(5, dtype=torch.long), ("a", "b"))
        >>> measure(model, points, {"gradient norm": gradient_norm})["gradient norm"].shape
        (5,)
    """
    parts: dict[str, list[Tensor]] = {}
    for x, y in _batches(model, examples, batch_size, progress, heading):
        logits_of(model, x, y)
        field = loss_field(model, y, loss)
        for name, one in measures.items():
            result = one(field, x)
            for column, values in result.items() if isinstance(result, Mapping) else [(name, result)]:
                # Infinity is a number: the normalized curvature where the gradient is 0 and the Hessian is not.
                if bool(torch.isnan(values).any()):
                    raise InputError(f"numbers for {column}", "NaN", "look at the network's logits on this data")
                parts.setdefault(column, []).append(values.detach().cpu())
    return {name: torch.cat(values).numpy() for name, values in parts.items()}


def correct(model: nn.Module, examples: Examples, *, batch_size: int = 512) -> np.ndarray:
    """Whether each example is classified as its label: `proportion(correct.sum(), len(correct))` is the clean accuracy.

    Example:
        >>> points = Examples(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([1, 1]), ("a", "b"))
        >>> correct(nn.Identity().eval(), points)
        array([ True, False])
    """
    parts = [_right(model, x, y) for x, y in _batches(model, examples, batch_size, silent, "")]
    return torch.cat(parts).cpu().numpy()


@dataclass(frozen=True)
class Attacked:
    """What an attack left: which examples still stand, how far each moved, and the inputs it found."""

    standing: np.ndarray
    distance: np.ndarray
    inputs: Tensor


def attack(
    model: nn.Module,
    examples: Examples,
    method: Attack,
    norm: Norm,
    *,
    seed: int = 0,
    batch_size: int = 256,
    progress: Progress[int] = silent,
    heading: str = "attacking",
) -> Attacked:
    """Attack every example; success and distance are measured here, on the inputs that the attack returned.

    standing: correct at the clean input and at the attacked one, so `standing.mean()` is robust accuracy: an upper bound,
    since a stronger attack may exist.
    """
    standing, distance, inputs = [], [], []
    for number, (x, y) in enumerate(_batches(model, examples, batch_size, progress, heading)):
        clean = _right(model, x, y)
        found = method(model, x, y, generator=randomness.stream(seed, "attack", number))
        standing.append(clean & _right(model, found, y))
        distance.append(norm.length(found - x))
        inputs.append(found)
    return Attacked(torch.cat(standing).cpu().numpy(), torch.cat(distance).cpu().numpy(), torch.cat(inputs).cpu())


def standing_against_radius(
    model: nn.Module,
    examples: Examples,
    attack_at: Callable[[float], Attack],
    norm: Norm,
    radii: Sequence[float],
    *,
    seed: int = 0,
    progress: Progress[int] = silent,
    heading: str = "attacking",
) -> np.ndarray:
    """Which examples stand at every radius, shape (radii, examples), for rising radii.

    Never rising along the radii: an input found within a smaller ball lies in the larger one too, so who has fallen
    stays fallen and is not attacked again.
    """
    if list(radii) != sorted(radii) or not all(radius >= 0 for radius in radii):
        raise InputError("radii of 0 or more in rising order", tuple(radii), "sort them")
    rows, alive = [], correct(model, examples)
    for k in progress(range(len(radii)), heading):
        left = np.flatnonzero(alive)
        if radii[k] > 0 and len(left):
            rest = examples.take(torch.from_numpy(left))
            alive = alive.copy()
            alive[left] = attack(model, rest, attack_at(radii[k]), norm, seed=seed).standing
        rows.append(alive)
    return np.stack(rows)


def _right(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return torch.as_tensor(logits_of(model, x, y).argmax(1) == y)


def logits_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The logits, once they are known to be finite numbers, a row an example and a column for each label."""
    with torch.no_grad():
        logits = model(x)
    shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(y) or logits.shape[1] < 2:
        expected = f"logits of shape ({len(y)}, classes) with at least 2 classes"
        raise InputError(expected, shape, "return one row of logits an example from the model")
    if int(y.max()) >= logits.shape[1]:
        mend = "give the data that the network was made for"
        raise InputError(f"labels from 0 to {logits.shape[1] - 1}, as the network has logits", int(y.max()), mend)
    if not bool(torch.isfinite(logits).all()):
        raise InputError("finite logits", "NaN or infinity", "look for NaN or overflow inside the network")
    return logits


def require_finite(model: nn.Module) -> None:
    """Refuse a model with NaN or infinity among its weights, by the weight's name."""
    for name, weight in model.state_dict().items():
        if weight.is_floating_point() and not bool(torch.isfinite(weight).all()):
            found, mend = f"NaN or infinity in {name!r}", "load weights of a training that converged"
            raise InputError("finite weights", found, mend)


def _batches(
    model: nn.Module, examples: Examples, size: int, progress: Progress[int], heading: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples on the model's device, once the model and they are fit to be evaluated."""
    require_eval(model)
    require_finite(model)
    if not len(examples):
        raise InputError("at least one example", "none", "give a data set that is not empty")
    like = next((p for p in model.parameters()), torch.zeros(()))
    for start in progress(range(0, len(examples), size), heading):
        rows = slice(start, start + size)
        yield examples.pixels(rows).to(like), examples.y[rows].to(like.device)
