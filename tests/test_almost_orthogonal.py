"""Almost-orthogonal layers: no operator norm exceeds 1, and a trained network of them is certified by its margins."""

import pytest
import torch
from torch import nn

import lowcurve as lc
from lowcurve.analysis.norms import L2
from lowcurve.models import Network
from lowcurve.models.almost_orthogonal import AOLConv2d, AOLLinear
from lowcurve.models.smoothness import lipschitz_constant, smoothness
from lowcurve.randomness import temporary_seed
from lowcurve.study.certified_results import global_radii


@pytest.mark.parametrize("spread", [0.1, 1.0, 10.0])
def test_norms_are_at_most_one_and_are_one_for_orthogonal_weights(spread):
    with temporary_seed(int(10 * spread), "weights"):
        layers = AOLConv2d(3, 5, 3), AOLConv2d(4, 4, 1), nn.Sequential(nn.Flatten(), AOLLinear(32, 40))
        for layer, shape in zip(layers, ((3, 6, 6), (4, 2, 2), (2, 4, 4)), strict=True):
            start = lipschitz_constant(layer.double().eval(), torch.zeros(1, *shape, dtype=torch.double))
            assert start == pytest.approx(1, abs=2e-4)
            for parameter in layer.parameters():
                parameter.data.normal_(0, spread)
            layer.double()
            assert 0.3 < lipschitz_constant(layer, torch.zeros(1, *shape, dtype=torch.double)) <= 1 + 2e-4


def test_the_network_is_as_steep_as_its_scale_at_most():
    model = Network("aol-convnet", (1, 10, 9), 4, (0.5,), (0.5,), width=3).build(seed=0).eval()
    bound = smoothness(model, torch.zeros(1, 1, 10, 9)).lipschitz
    assert float(bound.max()) <= 4 / 0.5 * 2**0.5 * (1 + 1e-4)
    x = torch.rand(4, 1, 10, 9, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        change = (model(x) - model(x + 0.01)).norm(dim=1)
    assert float(change.max()) <= 8 * 0.01 * 90**0.5


@pytest.mark.slow
def test_training_certifies_most_images_at_36_of_255():
    data = lc.load("digits")
    model = Network("aol-convnet", data.shape, 10, *data.statistics(), width=8).build(seed=0)
    lc.fit(
        model, lc.Objective(), data.train, lc.Optimization(epochs=6, batch_size=64, learning_rate=5e-3), progress=False
    )
    radii = global_radii(model.eval(), data.test, L2, progress=False)
    assert float((radii > 0).mean()) > 0.75
    assert float((radii >= 36 / 255).mean()) > 0.5
