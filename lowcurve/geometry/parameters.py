"""Compute surfaces of the mean loss in the space of parameters, along filter-normalized directions."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lowcurve import randomness
from lowcurve.analysis.chunks import in_chunks
from lowcurve.analysis.norms import L2, per_example
from lowcurve.errors import InputError
from lowcurve.losses import cross_entropy, evaluate_loss, require_eval
from lowcurve.types import Inputs, Labels, Loss, Progress, silent

Direction = Mapping[str, Tensor]
"""Changes of parameters, by name."""


def filter_normalized_direction(model: nn.Module, *, seed: int = 0) -> dict[str, Tensor]:
    """Draw a Gaussian direction in parameter space in which each filter is as long as the network's own.

    A filter is a slice along the first axis of a parameter with two axes or more: an output channel of a
    convolution or a row of a linear layer. Parameters with fewer axes, such as biases and BatchNorm weights, and
    running statistics are left out. Directions of two seeds are nearly orthogonal, with a cosine of about 1 /
    sqrt(number of weights).

    Args:
        model: The network.
        seed: Seed of the direction.

    Returns:
        The changes of the parameters, by name.

    Raises:
        InputError: If the model has no such parameter.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> _ = layer.weight.data.copy_(torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
        >>> {name: L2.length(change) for name, change in filter_normalized_direction(layer).items()}
        {'weight': tensor([5., 2.])}

    Reference: Li et al. 2018 (visualizing the loss landscape), section 4; yu2018interpreting, section 2.1.
    """
    weights = {name: weight.detach() for name, weight in model.named_parameters() if weight.ndim > 1}
    if not weights:
        raise InputError("a model with weights of two axes or more", "none", "give a network with a linear layer")
    generator = randomness.stream(seed, "filter-normalized direction")
    draws = {name: randomness.normal(weight, generator=generator) for name, weight in weights.items()}
    return {name: L2.unit(draws[name]) * per_example(L2.length(weight), weight) for name, weight in weights.items()}


def parameter_surface(
    model: nn.Module,
    x: Inputs,
    y: Labels,
    first: Direction,
    second: Direction,
    a: Tensor,
    b: Tensor,
    *,
    loss: Loss = cross_entropy,
    chunk: int = 128,
    progress: Progress[int] = silent,
) -> Tensor:
    """Compute the mean over the examples of loss(model(x; w + a_i first + b_j second), y).

    BatchNorm keeps the running statistics of the weights at (0, 0), and the model is unchanged afterwards. The mean
    is over a fixed set of examples; report which and how many.

    Args:
        model: The network, in eval mode.
        x: Inputs, shape (batch, ...).
        y: Labels.
        first: The first direction. It has parameter names; see `filter_normalized_direction`.
        second: The second direction.
        a: Coordinates along `first`, shape (n,). At 1 a filter has moved by its own length.
        b: Coordinates along `second`, shape (m,).
        loss: Loss per example.
        chunk: Batch size.
        progress: Display of the progress.

    Returns:
        Mean losses of shape (len(a), len(b)), in float64.

    Raises:
        InputError: If the model is in training mode, a name or shape is not the model's, or the coordinates have
            another shape.

    Cost: len(a) len(b) forward passes of all examples.

    Example:
        >>> layer, square = nn.Linear(1, 2, bias=False), lambda z, y: z.square().sum(1)
        >>> _ = layer.weight.data.copy_(torch.tensor([[1.0], [0.0]]))
        >>> first, second = {"weight": torch.tensor([[1.0], [0.0]])}, {"weight": torch.tensor([[0.0], [1.0]])}
        >>> x, y, a, b = torch.ones(1, 1), torch.tensor([0]), torch.tensor([-1.0, 1.0]), torch.tensor([0.0, 3.0])
        >>> parameter_surface(layer.eval(), x, y, first, second, a, b, loss=square)  # (1 + a)^2 + b^2
        tensor([[ 0.,  9.],
                [ 4., 13.]], dtype=torch.float64)

    Reference: yu2018interpreting, Eq. (1), Figs. 1 and 2; Li et al. 2018, section 4.
    """
    require_eval(model)
    if a.ndim != 1 or b.ndim != 1 or not len(x) or not a.numel() or not b.numel():
        received = (tuple(a.shape), tuple(b.shape), f"{len(x)} examples")
        raise InputError(
            "coordinates of shape (n,) and examples, one of each at least", received, "write torch.zeros(1)"
        )
    weights = dict(model.named_parameters())
    _require_directions(weights, first, second)
    places = torch.cartesian_prod(a.double().cpu(), b.double().cpu()).tolist()
    found = []
    with torch.no_grad():
        for number in progress(range(len(places)), "loss surface"):
            shifted = _shift_weights(weights, (first, second), places[number])

            def total(part: slice, weights: Mapping[str, Tensor] = shifted) -> Tensor:
                return (
                    evaluate_loss(loss, functional_call(model, dict(weights), (x[part].clone(),)), y[part])
                    .double()
                    .sum()
                )

            found.append(torch.stack(in_chunks(total, len(x), chunk)).sum() / len(x))
    return torch.stack(found).view(len(a), len(b))


def _shift_weights(
    weights: Direction, directions: tuple[Direction, ...], coordinates: tuple[float, ...]
) -> dict[str, Tensor]:
    moved: dict[str, Tensor] = {}
    for direction, coordinate in zip(directions, coordinates, strict=True):
        for name, change in direction.items():
            moved[name] = moved.get(name, weights[name]) + coordinate * change
    return moved


def _require_directions(weights: Direction, *directions: Direction) -> None:
    for direction in directions:
        for name, change in direction.items():
            if name not in weights or weights[name].shape != change.shape:
                expected = "changes of the model's own parameters, each of its shape"
                raise InputError(expected, f"{name!r} of shape {tuple(change.shape)}", "write filter_normalized(model)")
