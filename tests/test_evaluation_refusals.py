"""Evaluation of what cannot be evaluated, and of public networks as they are known."""

import math

import numpy as np
import pytest
import torch
from known_margins import UNIFORM, linear
from torch import nn
from trained import public

from lowcurve import evaluation
from lowcurve.analysis.norms import LINF, Ball
from lowcurve.attacks import FGSM, PGD
from lowcurve.data import Limits, load
from lowcurve.errors import InputError
from lowcurve.evaluation.audit import audit
from lowcurve.geometry import Curvature, gradient_norm

ACTS = {
    "measure": lambda model, data: evaluation.measure(model, data, {"g": gradient_norm}),
    "correct": evaluation.correct,
    "attack": lambda model, data: evaluation.attack(model, data, FGSM(Ball(LINF, 0.1))),
}


act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.function = linear(), function

    def forward(self, x):
        return self.function(self.inner(x))


def test_a_model_in_training_mode():
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    with pytest.raises(InputError, match=r"eval mode.* got Dropout '1' in training mode\. Write model.eval\(\)"):
        ACTS["measure"](model, UNIFORM)


@act
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(act, value):
    model = linear()
    model[1].bias.data[1] = value
    with pytest.raises(InputError, match=r"finite weights, got NaN or infinity in '1\.bias'"):
        act(model, UNIFORM)


@act
def test_logits_that_are_not_finite(act):
    with pytest.raises(InputError, match="finite logits, got NaN or infinity"):
        act(Through(lambda z: z / 0).eval(), UNIFORM)


@act
@pytest.mark.parametrize(
    "function",
    [lambda z: z.sum(1), lambda z: z[:, :, None], lambda z: z[:-1], lambda z: z.unbind(1), lambda z: z[:, :1]],
    ids=["a number an example", "a map", "too few rows", "a tuple", "one class"],
)
def test_logits_of_the_wrong_shape(act, function):
    with pytest.raises(InputError, match=r"logits of shape \(20, classes\)"):
        act(Through(function).eval(), UNIFORM)


@act
def test_fewer_logits_than_labels(act):
    with pytest.raises(InputError, match="labels from 0 to 1"):
        act(Through(lambda z: z[:, :2]).eval(), UNIFORM)


def test_a_batch_without_images():
    model, attack = linear(), FGSM(Ball(LINF, 0.1))
    for call in (
        lambda size: evaluation.measure(model, UNIFORM, gradient_norm, batch_size=size),
        lambda size: evaluation.correct(model, UNIFORM, batch_size=size),
        lambda size: evaluation.attack(model, UNIFORM, attack, batch_size=size),
        lambda size: evaluation.smallest_radius(model, UNIFORM, "linf", batch_size=size),
        lambda size: evaluation.transfer({"a": model, "b": model}, UNIFORM, attack, batch_size=size),
        lambda size: audit(model, UNIFORM, "linf", 0.1, batch_size=size),
    ):
        for size in (0, -1):
            with pytest.raises(InputError, match=rf"at least one image in a batch, got batch_size={size}\. Write"):
                call(size)


def test_images_without_a_channel():
    pictures, convolution = torch.rand(2, 8, 8), nn.Sequential(nn.Conv2d(1, 2, 8), nn.Flatten()).eval()
    with pytest.raises(
        InputError, match=r"shape \(8, 8\), got an error .*Write images\[:, None\] if the network takes"
    ):
        evaluation.correct(convolution, pictures, [0, 1])
    assert len(evaluation.correct(convolution, pictures[:, None], [0, 1])) == 2


def test_a_single_image_without_a_batch():
    with pytest.raises(InputError, match=r"one label for each input, got 1 for 3\. Write x\[None\] for a single image"):
        evaluation.correct(linear(), UNIFORM.x[0].expand(3, -1, -1), 0)


@act
def test_no_examples(act):
    with pytest.raises(InputError, match="at least one example, got none"):
        act(linear(), UNIFORM.take([]))


# --- public networks on real images


@pytest.fixture(scope="module")
def mnist(data_dir):
    return load("mnist", data_dir=data_dir, limits=Limits(train=1, validation=1, test=500)).test


def test_the_public_lenet5_is_as_accurate_as_it_is_known(networks, mnist, weights_dir):
    for kind, known in (("cln", 0.989), ("adv", 0.986)):
        model = public(networks.lenet5, weights_dir / f"mnist_lenet5_{kind}trained.pt")
        accuracy = evaluation.correct(model, mnist).mean()
        assert abs(accuracy - known) < 3 * math.sqrt(known * (1 - known) / 500)


def test_the_public_lenet5_is_fooled_and_the_adversarially_trained_one_is_robust(networks, mnist, weights_dir):
    few = mnist.take(slice(200))

    def robust(kind):
        model = public(networks.lenet5, weights_dir / f"mnist_lenet5_{kind}trained.pt")
        return evaluation.attack(model, few, PGD(Ball(LINF, 0.3), steps=20)).robust.mean()

    assert robust("cln") < 0.02
    assert 0.85 < robust("adv") < 0.98


def test_the_adversarially_trained_lenet5_is_the_flatter_one(networks, mnist, weights_dir):
    few = mnist.take(slice(50))
    columns = [
        evaluation.measure(
            public(networks.lenet5, weights_dir / f"mnist_lenet5_{kind}trained.pt"), few, {"all": Curvature(6)}
        )
        for kind in ("cln", "adv")
    ]
    standard, robust = (np.median(c["normalized curvature"]) for c in columns)
    assert robust < standard


def test_the_public_resnet20_is_as_accurate_as_it_is_known(networks, data_dir, weights_dir):
    data = load("cifar10", data_dir=data_dir, limits=Limits(train=1, validation=1, test=200))
    model = public(networks.resnet20, weights_dir / "resnet20-12fca82f.th")
    accuracy = evaluation.correct(model, data.test).mean()
    assert abs(accuracy - 0.915) < 3 * math.sqrt(0.915 * 0.085 / 200)
