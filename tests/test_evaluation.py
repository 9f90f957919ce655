"""Evaluation: columns of numbers, what attacks leave, closed forms of linear networks, public networks as they are known."""

import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve import evaluation
from lowcurve.analysis.norms import L2, LINF, Ball
from lowcurve.attacks import FGSM, PGD
from lowcurve.data import Examples, Limits, load
from lowcurve.errors import InputError
from lowcurve.geometry import Curvature, Profile, gradient_norm
from lowcurve.losses import margin, margin_loss
from lowcurve.randomness import isolated, stream
from lowcurve.store import load_weights

CLASSES = ("a", "b", "c")


def linear() -> nn.Sequential:
    with isolated(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 3)).eval()


def perceptron() -> nn.Sequential:
    with isolated(0, "network"):
        return nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.Softplus(), nn.Linear(16, 3)).eval()


def inner(count: int = 50) -> Examples:
    """Examples far enough from the pixel box that balls are whole; mostly classified right by `linear`."""
    x = 0.3 + 0.4 * torch.rand(count, 3, 2, 2, generator=stream(0, "images"))
    with torch.no_grad():
        y = linear()(x).argmax(1)
    y[::10] = (y[::10] + 1) % 3
    return Examples(x, y, CLASSES)


EXAMPLES = inner()
UNIFORM = Examples(torch.rand(20, 3, 2, 2, generator=stream(1, "images")), torch.arange(20) % 3, CLASSES)


def boundary_distance(model: nn.Sequential, examples: Examples, norm) -> np.ndarray:
    """min_k (z_y - z_k) / ||w_y - w_k||_dual, negative where wrong: exact for a linear network inside the box."""
    weight = model[1].weight.detach()
    logits = model(examples.x).detach()
    gaps = logits.gather(1, examples.y[:, None]) - logits
    slopes = weight[examples.y][:, None] - weight[None]
    lengths = norm.dual.length(slopes.flatten(0, 1)).view(len(examples), 3)
    return torch.where(lengths > 0, gaps / lengths, math.inf).amin(1).numpy()


# --- measure


def test_columns_of_one_and_of_several_names():
    measures = {"slope": gradient_norm, "all": Curvature(steps=6)}
    columns = evaluation.measure(perceptron(), UNIFORM, measures)
    several = ("gradient norm", "Hessian norm", "largest eigenvalue", "normalized curvature", "alignment", "residual")
    assert tuple(columns) == ("slope", *several)
    assert all(column.shape == (20,) for column in columns.values())
    np.testing.assert_allclose(columns["slope"], columns["gradient norm"], rtol=1e-5)


def test_a_column_may_hold_a_vector_an_example():
    assert evaluation.measure(perceptron(), UNIFORM, {"profile": Profile()}, batch_size=7)["profile"].shape == (20, 12)


def test_columns_follow_the_order_of_the_examples():
    found = evaluation.measure(linear(), UNIFORM, {"brightness": lambda _, x: x.flatten(1).sum(1)}, batch_size=3)
    np.testing.assert_allclose(found["brightness"], UNIFORM.x.flatten(1).sum(1).numpy(), rtol=1e-6)


def test_the_label_is_the_examples_own():
    found = evaluation.measure(linear(), UNIFORM, {"loss": lambda field, x: field(x)}, loss=margin_loss, batch_size=6)
    expected = -margin(linear()(UNIFORM.x), UNIFORM.y).detach()
    assert_close(torch.from_numpy(found["loss"]), expected)


@pytest.mark.parametrize("size", [1, 3, 128])
def test_numbers_do_not_depend_on_the_batch_size(size):
    measures = {"all": Curvature(steps=12, tolerance=0)}
    once = evaluation.measure(perceptron(), UNIFORM, measures, batch_size=20)
    again = evaluation.measure(perceptron(), UNIFORM, measures, batch_size=size)
    for name in ("gradient norm", "Hessian norm", "largest eigenvalue", "alignment"):
        np.testing.assert_allclose(again[name], once[name], rtol=2e-3, atol=1e-6)


def test_progress_sees_every_batch():
    seen = []

    def progress(iterable, heading):
        seen.append((len(iterable), heading))
        return iterable

    evaluation.measure(linear(), UNIFORM, {"g": gradient_norm}, batch_size=8, progress=progress, heading="here")
    assert seen == [(3, "here")]


def test_parameters_receive_nothing_and_the_mode_stays():
    model = perceptron()
    evaluation.measure(model, UNIFORM, {"all": Curvature(steps=2)})
    evaluation.attack(model, UNIFORM, PGD(Ball(LINF, 0.1), steps=2), LINF)
    assert all(p.grad is None for p in model.parameters())
    assert not model.training


def test_bytes_are_read_as_pixels():
    levels = Examples((UNIFORM.x * 255).round().to(torch.uint8), UNIFORM.y, CLASSES)
    found = evaluation.measure(linear(), levels, {"largest": lambda _, x: x.flatten(1).amax(1)})["largest"]
    np.testing.assert_allclose(found, levels.x.flatten(1).amax(1).numpy() / 255, rtol=1e-6)


# --- correct, attack


@pytest.mark.parametrize("size", [7, 512])
def test_correct(size):
    found = evaluation.correct(linear(), EXAMPLES, batch_size=size)
    assert found.tolist() == [k % 10 != 0 for k in range(50)]


@pytest.mark.parametrize("norm", [L2, LINF])
def test_what_stands_is_what_is_farther_from_the_boundary_than_the_radius(norm):
    distance = boundary_distance(linear(), EXAMPLES, norm)
    radius = float(np.quantile(distance[distance > 0], 0.5))
    method = PGD(Ball(norm, radius), steps=100, loss=margin_loss, restarts=2)
    found = evaluation.attack(linear(), EXAMPLES, method, norm, batch_size=16)
    clear = np.abs(distance / radius - 1) > 0.02
    assert clear.sum() > 40
    assert (found.standing == (distance > radius))[clear].all()
    assert 0.2 < found.standing.mean() < 0.8


@pytest.mark.parametrize("norm", [L2, LINF])
def test_distances_are_measured_on_the_inputs_that_were_found(norm):
    found = evaluation.attack(linear(), EXAMPLES, PGD(Ball(norm, 0.05), steps=5), norm)
    assert_close(torch.from_numpy(found.distance), norm.length(found.inputs - EXAMPLES.x))
    assert found.distance.max() <= 0.05 * (1 + 1e-5)
    assert found.distance.min() > 0.02
    assert found.inputs.shape == EXAMPLES.x.shape
    after = linear()(found.inputs).argmax(1) == EXAMPLES.y
    assert (found.standing == (after.numpy() & evaluation.correct(linear(), EXAMPLES))).all()


def test_a_seed_decides_an_attack():
    method = PGD(Ball(LINF, 0.05), steps=1, step_size=0.01)
    first, again = (evaluation.attack(perceptron(), UNIFORM, method, LINF, seed=3) for _ in range(2))
    other = evaluation.attack(perceptron(), UNIFORM, method, LINF, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_the_global_chance_is_untouched():
    before = torch.get_rng_state()
    evaluation.attack(perceptron(), UNIFORM, PGD(Ball(L2, 0.05), steps=1), L2)
    assert torch.equal(torch.get_rng_state(), before)


def test_who_was_wrong_does_not_stand_even_if_the_attack_mends_it():
    found = evaluation.attack(linear(), EXAMPLES, lambda _model, x, _y, **_: x.flip(0), LINF)
    assert not found.standing[::10].any()


# --- against the radius


@pytest.mark.parametrize("norm", [L2, LINF])
def test_standing_against_radius_of_a_linear_network(norm):
    distance = boundary_distance(linear(), EXAMPLES, norm)
    radii = [0.0, *np.quantile(distance[distance > 0], [0.2, 0.5, 0.8]).tolist()]

    def attack_at(radius):
        return PGD(Ball(norm, radius), steps=100, loss=margin_loss)

    standing = evaluation.standing_against_radius(linear(), EXAMPLES, attack_at, norm, radii)
    assert standing.shape == (4, 50)
    assert (standing[0] == evaluation.correct(linear(), EXAMPLES)).all()
    assert (standing[1:] <= standing[:-1]).all()
    for radius, row in zip(radii[1:], standing[1:], strict=True):
        clear = np.abs(distance / radius - 1) > 0.02
        assert (row == (distance > radius))[clear].all()


def test_who_has_fallen_is_not_attacked_again():
    seen = []

    def attack_at(radius):
        def method(model, x, y, *, generator):
            seen.append((radius, len(x)))
            return FGSM(Ball(LINF, radius))(model, x, y, generator=generator)

        return method

    standing = evaluation.standing_against_radius(linear(), EXAMPLES, attack_at, LINF, [0.0, 0.02, 0.3, 0.3])
    left = standing.sum(1).tolist()
    expected = [(radius, count) for radius, count in ((0.02, left[0]), (0.3, left[1]), (0.3, left[2])) if count]
    assert seen == expected


def test_radii_that_do_not_rise():
    with pytest.raises(InputError, match="radii of 0 or more in rising order"):
        evaluation.standing_against_radius(linear(), EXAMPLES, lambda r: FGSM(Ball(LINF, r)), LINF, [0.1, 0.0])


def test_radii_below_zero():
    with pytest.raises(InputError, match="radii of 0 or more in rising order"):
        evaluation.standing_against_radius(linear(), EXAMPLES, lambda r: FGSM(Ball(LINF, r)), LINF, [-0.1, 0.1])


# --- what cannot be evaluated

ACTS = {
    "measure": lambda model, data: evaluation.measure(model, data, {"g": gradient_norm}),
    "correct": evaluation.correct,
    "attack": lambda model, data: evaluation.attack(model, data, FGSM(Ball(LINF, 0.1)), LINF),
}
act = pytest.mark.parametrize("act", ACTS.values(), ids=ACTS)


class Through(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.inner, self.function = linear(), function

    def forward(self, x):
        return self.function(self.inner(x))


@act
def test_a_model_in_training_mode(act):
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(12, 3))
    with pytest.raises(InputError, match=r"eval mode.* received Dropout '1' in training mode; write model.eval\(\)"):
        act(model, UNIFORM)


@act
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(act, value):
    model = linear()
    model[1].bias.data[1] = value
    with pytest.raises(InputError, match=r"finite weights, received NaN or infinity in '1\.bias'"):
        act(model, UNIFORM)


@act
def test_logits_that_are_not_finite(act):
    with pytest.raises(InputError, match="finite logits, received NaN or infinity"):
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


@act
def test_no_examples(act):
    with pytest.raises(InputError, match="at least one example, received none"):
        act(linear(), UNIFORM.take([]))


def test_a_measure_that_is_not_finite_is_named():
    with pytest.raises(InputError, match="numbers for slope, received NaN"):
        evaluation.measure(linear(), UNIFORM, {"slope": lambda field, x: field(x) * math.nan})


# --- public networks on real images


@pytest.fixture(scope="module")
def networks():
    path = Path(__file__).parents[1] / "examples" / "public_networks.py"
    spec = importlib.util.spec_from_file_location("public_networks", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public(build, path):
    model = build()
    load_weights(model, path)
    return model.eval()


@pytest.fixture(scope="module")
def mnist(data_dir):
    return load("mnist", data_dir=data_dir, limits=Limits(train=1, validation=1, test=500)).test


def test_the_public_lenet5_is_as_accurate_as_it_is_known(networks, mnist, weights_dir):
    for kind, known in (("cln", 0.989), ("adv", 0.986)):
        model = public(networks.lenet5, weights_dir / f"mnist_lenet5_{kind}trained.pt")
        accuracy = evaluation.correct(model, mnist).mean()
        assert abs(accuracy - known) < 3 * math.sqrt(known * (1 - known) / 500)


def test_the_public_lenet5_falls_and_the_adversarially_trained_one_stands(networks, mnist, weights_dir):
    few = mnist.take(slice(200))

    def robust(kind):
        model = public(networks.lenet5, weights_dir / f"mnist_lenet5_{kind}trained.pt")
        return evaluation.attack(model, few, PGD(Ball(LINF, 0.3), steps=20), LINF).standing.mean()

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
