"""Try the computations of a command on two images before its run is made, so that no error waits until training is done."""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lowcurve import evaluation
from lowcurve.analysis.calculus import explain_failures
from lowcurve.analysis.hessians import hessian
from lowcurve.attacks import PGD
from lowcurve.data import Examples
from lowcurve.errors import InputError
from lowcurve.evaluation.measuring import on_device
from lowcurve.losses import loss_field
from lowcurve.models.failing_layers import name_failing_layer
from lowcurve.models.modes import frozen, keep_buffers
from lowcurve.randomness import stream, temporary_seed
from lowcurve.study.settings import Study
from lowcurve.training import Objective
from lowcurve.training.hardware import match_precision, require_weight_gradients

log = logging.getLogger("lowcurve")


def rehearse_evaluation(model: nn.Module, few: Examples, study: Study, steps: Sequence[str]) -> int:
    """Try a forward pass, a step of an attack and a Hessian product on two images and on one.

    The model is restored afterwards.

    Args:
        model: The network.
        few: Two images.
        study: Settings, of which the ball is used.
        steps: Steps of the command. "attack" needs a gradient, and "measure" a product. Without a product, there is a
            warning: the other measurements are possible.

    Returns:
        The number of logits.

    Raises:
        InputError: If the network fails on the images, or has no gradient.

    Cost: about six gradients at two images.
    """
    evaluation.require_finite(model)
    product, classes = None, 0
    for count in (2, 1):
        x, y = on_device(model, few, slice(count))
        with _restored(model), frozen(model), name_failing_layer(model, x):
            classes = evaluation.logits_of(model, x, y).shape[1]
            if {"attack", "measure"} & {*steps}:
                PGD(study.ball(), steps=1)(model, x, y)
            if "measure" in steps:
                try:
                    with name_failing_layer(model, x):
                        hessian(loss_field(model, y), x)(torch.ones_like(x))
                except InputError as error:
                    product = error
    if product is not None:
        log.warning("The network's curvature cannot be measured. %s", product)
    return classes


def rehearse_training(model: nn.Module, objective: Objective, few: Examples) -> None:
    """Try a step of training, without changing a weight.

    Args:
        model: The network.
        objective: Objective to minimize.
        few: Two images, or one where the batches hold one.

    Raises:
        InputError: If the objective cannot be computed or differentiated for the network.

    Cost: one step of training at two images.
    """
    x, y = on_device(model, few, slice(2))
    x = match_precision(x, model)
    with _restored(model), name_failing_layer(model, x):
        objective.check_network(model, x, y)
        values = objective.term_values(model, x, y, generator=stream(0, "rehearsal"))
        total = torch.stack([value.weight * value.mean for value in values.values()]).sum()
        if total.requires_grad:
            with explain_failures():
                total.backward()  # type: ignore[no-untyped-call]
            require_weight_gradients(model)


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Restore buffers, gradients and the random state afterwards."""
    gradients = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in gradients:
        parameter.grad = None  # a backward pass adds to it in place
    with keep_buffers(model), temporary_seed(0, "rehearsal"):
        try:
            yield
        finally:
            for parameter, gradient in gradients:
                parameter.grad = gradient
