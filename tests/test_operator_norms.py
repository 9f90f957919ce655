"""Operator norms of random layers of every kind, compared with the singular values of their dense matrices."""

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from lowcurve.errors import InputError
from lowcurve.models import gram
from lowcurve.models.gram import norm_bound
from lowcurve.models.spectral import (
    Interval,
    LinearMap,
    apply_linear,
    input_channels,
    norm_interval,
    power_iteration,
)
from lowcurve.randomness import integers, stream, temporary_seed

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
MODES = ("zeros", "circular", "reflect", "replicate")


def chosen(generator: torch.Generator, low: int, high: int, count: int = 1) -> tuple[int, ...]:
    return tuple(integers((count,), low, high + 1, generator=generator).tolist())


def random_layer(seed: int, mode: str) -> tuple[nn.Module, tuple[int, ...]]:
    """Draw a convolution and its image size: one to three axes, not square, any stride, dilation, padding and groups."""
    g = stream(seed, "layer", mode)
    (axes,) = chosen(g, 1, 3)
    (groups,), (before,), (after,) = chosen(g, 1, 3), chosen(g, 1, 3), chosen(g, 1, 3)
    size = chosen(g, 7, 11, axes) if axes < 3 else chosen(g, 5, 6, axes)
    strides = chosen(g, 1, 4, axes) if seed % 2 else (1,) * axes
    dilation = chosen(g, 1, 2, axes) if seed % 3 == 0 else (1,) * axes
    kernel, padding = chosen(g, 1, 3, axes), chosen(g, 0, 3, axes)
    words = {"stride": strides, "padding": padding, "dilation": dilation, "groups": groups, "padding_mode": mode}
    with temporary_seed(seed, "weights"):
        return CONVOLUTIONS[axes](groups * before, groups * after, kernel, **words), size


def dense(layer, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the matrix of a layer on images of this shape, without its bias."""
    size = input_channels(layer) * math.prod(shape)
    basis = torch.eye(size, dtype=torch.float64).view(size, input_channels(layer), *shape)
    return apply_linear(layer, basis, layer.weight.detach().double()).flatten(1).T


def true_norm(layer, shape: tuple[int, ...]) -> float:
    """Compute the norm from the smaller Gram matrix, in a quarter of the time of all singular values."""
    matrix = dense(layer, shape)
    matrix = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
    return float(torch.linalg.eigvalsh(matrix @ matrix.T)[-1].clamp(min=0).sqrt())


# For each padding: the largest slack of the lower end over 60 layers, and the median and the largest of the upper end. The
# slack comes from the border, where zeros reduce the norm, and for reflect and replicate from the repeated pixels.
SLACK = {
    "zeros": (0.004, 0.02, 0.5),
    "circular": (0.004, 0.2, 1.5),
    "reflect": (0.004, 0.35, 2.0),
    "replicate": (0.004, 0.45, 3.0),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_the_interval_holds_the_norm_of_any_convolution(mode, count):
    below, above = [], []
    for seed in range(count):
        layer, shape = random_layer(seed, mode)
        found, true = norm_interval(layer, shape), true_norm(layer, shape)
        assert found.lower <= true <= found.upper, (layer, shape)
        assert true <= norm_bound(layer, shape) <= found.upper
        below.append(true / found.lower - 1)
        above.append(found.upper / true - 1)
    lower, median, upper = SLACK[mode]
    assert max(below) < lower
    assert sorted(above)[count // 2] < median
    assert max(above) < upper


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (9, 4), (40, 60)])
def test_of_a_linear_layer_it_is_as_good_as_exact(shape):
    with temporary_seed(0, "weights"):
        layer = nn.Linear(*shape)
    found, true = norm_interval(layer, steps=300), float(torch.linalg.matrix_norm(layer.weight.detach().double(), 2))
    assert found.lower <= true <= found.upper
    assert found.slack < 1e-3


def test_large_images_need_no_more_frequencies():
    """Above GRID frequencies the bound still holds for any image size, since larger images have larger norms."""
    with temporary_seed(0, "weights"):
        layer = nn.Conv1d(2, 3, 5, padding=2)
    shapes = (10, 47, 60, 200, 400)
    found = [norm_interval(layer, (size,), steps=300) for size in shapes]
    for size, interval in zip(shapes, found, strict=True):
        assert interval.lower <= true_norm(layer, (size,)) <= interval.upper
    assert found[-1].slack < 0.02
    assert found[-1].upper == found[-2].upper


def test_a_network_of_usual_size_is_known_to_three_percent():
    with temporary_seed(0, "weights"):
        layers = [(nn.Conv2d(16, 16, 3, padding=1), (32, 32)), (nn.Conv2d(16, 32, 3, 2, 1), (32, 32))]
        layers += [(nn.Conv2d(32, 64, 1, 2), (16, 16)), (nn.Conv2d(3, 16, 7, 2, 3), (64, 48))]
    assert max(norm_interval(layer, shape).slack for layer, shape in layers) < 0.03


@pytest.mark.parametrize("seed", range(6))
def test_a_scale_of_the_channels_is_that_of_the_rows(seed):
    layer, shape = random_layer(seed, "zeros")
    scale = torch.linspace(-2, 3, layer.out_channels)
    found = norm_interval(layer, shape, scale=scale)
    rows = dense(layer, shape).view(layer.out_channels, -1, input_channels(layer) * math.prod(shape))
    true = float(torch.linalg.matrix_norm((rows * scale.double()[:, None, None]).flatten(0, 1), 2))
    assert found.lower <= true <= found.upper


def test_homogeneous_over_every_scale_that_numbers_have():
    with temporary_seed(0, "weights"):
        layer = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    one = norm_interval(layer, (6, 7))
    for factor in (1e-30, 1e-12, 1e12, 1e30):
        other = norm_interval(layer, (6, 7), scale=torch.full((3,), factor, dtype=torch.float64))
        assert_close([other.lower / factor, other.upper / factor], [one.lower, one.upper], rtol=1e-6, atol=0)


def test_zeros_and_identities():
    layer = nn.Conv2d(2, 2, 3, padding=1)
    nn.init.zeros_(layer.weight)
    assert norm_interval(layer, (5, 5)) == Interval(0.0, 0.0)
    assert Interval(0.0, 0.0).slack == 0
    assert Interval(0.0, 1.0).slack == math.inf
    nn.init.dirac_(layer.weight)
    found = norm_interval(layer, (5, 5))
    assert_close([found.lower, found.upper], [1.0, 1.0], rtol=1e-4, atol=0)


def test_many_channels_are_squared_in_parts(monkeypatch):
    with temporary_seed(0, "weights"):
        layer = nn.Conv2d(4, 6, 3, padding=1)
    whole = norm_bound(layer, (8, 8))
    monkeypatch.setattr(gram, "AT_ONCE", 24 * 7)
    assert_close(norm_bound(layer, (8, 8)), whole, rtol=1e-4, atol=0)


def test_power_iteration_only_rises_and_a_vector_that_vanishes_stays():
    matrix = torch.tensor([[2.0, 1.0], [0.0, 1.0]], dtype=torch.float64)
    start = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    of = LinearMap(lambda v: v @ matrix.T, lambda u, _: u @ matrix)
    lengths = [float(power_iteration(of, start, steps).length) for steps in (0, 1, 2, 5, 50)]
    assert lengths == sorted(lengths)
    assert_close(lengths[-1], float(torch.linalg.matrix_norm(matrix, 2)))
    nothing = power_iteration(LinearMap(lambda v: v * 0, lambda u, _: u * 0), start, 3)
    assert_close(nothing.direction, start)
    assert nothing.length == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: norm_interval(nn.ReLU()), "a linear layer or a convolution of one to three dimensions, got ReLU"),
        (
            lambda: norm_interval(nn.Conv2d(1, 1, 1), (3,)),
            r"2 sizes of an image, got \(3,\)\. Write the image sizes without",
        ),
    ],
)
def test_errors_name_the_hint(make, message):
    with pytest.raises(InputError, match=message):
        make()
