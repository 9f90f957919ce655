"""Restore a network's state after an audit, whatever its forward pass did."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from lowcurve.data.examples import Examples
from lowcurve.evaluation.measuring import logits_of, require_examples
from lowcurve.models.modes import keep_buffers
from lowcurve.network_calls import input_like


@contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Restore the gradients and buffers of the model afterwards; inside, no parameter requires a gradient.

    A faulty forward pass, one that trains, counts or optimizes, may change all of them.
    """
    gradients = [(parameter, parameter.grad, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _, _ in gradients:
        parameter.grad = None
        parameter.requires_grad_(False)
    try:
        with keep_buffers(model):
            yield
    finally:
        for parameter, gradient, required in gradients:
            parameter.requires_grad_(required)
            parameter.grad = gradient


def clean_logits(model: nn.Module, examples: Examples, batch_size: int) -> Tensor:
    """Return the logits of all examples, or refuse a network or examples that cannot be evaluated."""
    require_examples(model, examples)
    like = input_like(model)
    x, y = examples.pixels(slice(None)).to(like.dtype), examples.y
    parts = zip(torch.split(x, batch_size), torch.split(y, batch_size), strict=True)
    return torch.cat([logits_of(model, a.to(like.device), b.to(like.device)).cpu() for a, b in parts])
