"""Cross-entropy whose derivatives are right at every loss, against float64."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2
from lowcurve.errors import InputError
from lowcurve.losses import TemperatureCrossEntropy, cross_entropy, least_likely, loss_field, margin, margin_loss
from lowcurve.results import describe

LOSSES = [10.0, 3.0, 0.7, 0.1, 1e-2, 1e-4, 1e-6, 1e-8]


def network_at(level: float) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A small smooth network in float64 whose last bias is set so that each example's loss is `level`."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(6, 8), nn.Softplus(beta=5), nn.Linear(8, 4)).double()
        x = torch.rand(3, 6, dtype=torch.float64).float().double()
    y = torch.tensor([0, 1, 2])
    net = net.float().double().eval()

    class At(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net
            with torch.no_grad():
                z = net(x)
                others = z.scatter(1, y[:, None], -torch.inf).logsumexp(1)
                wanted = others - torch.log(torch.expm1(torch.tensor(level, dtype=torch.float64)))
                shift = (wanted - z.gather(1, y[:, None]).squeeze(1)).float().double()
            self.register_buffer("shift", F.one_hot(y, 4) * shift[:, None])

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) + self.shift

    return At(), x, y


def relative_error(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((L2.length(a.double() - b.double()) / L2.length(b.double())).max())


@pytest.mark.parametrize("level", LOSSES)
def test_gradient_and_hessian_product_in_float32_agree_with_float64(level):
    model, x, y = network_at(level)
    v = torch.linspace(-1, 1, x.numel(), dtype=torch.float64).reshape(x.shape)
    field = loss_field(model, y)
    values, exact, product = field(x).detach(), gradient(field, x), hessian(field, x)(v)
    assert_close(values, torch.full_like(values, level), rtol=1e-5, atol=0)
    model.float()
    assert relative_error(gradient(field, x.float()), exact) < 1e-5
    assert relative_error(hessian(field, x.float())(v.float()), product) < 1e-5


@pytest.mark.parametrize(("level", "least"), [(1e-6, 0.03), (1e-8, 0.5)])
def test_the_usual_form_does_fail_where_ours_holds(level, least):
    model, x, y = network_at(level)
    right = gradient(loss_field(model, y), x)
    model.float()
    usual = gradient(loss_field(model, y, lambda z, t: F.cross_entropy(z, t, reduction="none")), x.float())
    assert relative_error(usual, right) > least


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_it_is_cross_entropy(classes):
    z = torch.linspace(-9, 9, 5 * classes, dtype=torch.float64).reshape(5, classes).roll(3)
    y = torch.arange(5) % classes
    assert_close(cross_entropy(z, y), F.cross_entropy(z, y, reduction="none"))


@pytest.mark.parametrize("scale", [1.0, 100.0, 1e4])
def test_derivatives_stay_finite_for_extreme_logits(scale):
    z = scale * torch.tensor([[1.0, -1.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    y = torch.tensor([0, 0, 0])
    product = hessian(lambda z: cross_entropy(z, y), z)(torch.ones_like(z))
    assert bool(torch.isfinite(product).all() & torch.isfinite(gradient(lambda z: cross_entropy(z, y), z)).all())


def test_the_paper_example_of_margin_and_cross_entropy():
    z = torch.ones(10, 10)
    z[:, 0] = torch.arange(10.0)
    y = torch.zeros(10, dtype=torch.long)
    listed = [3.2373, 2.3026, 1.4612, 0.7966, 0.3702, 0.1526, 0.0589, 0.0221, 0.0082, 0.0030]
    assert_close(cross_entropy(z, y), torch.tensor(listed), atol=6e-5, rtol=0)
    assert_close(margin(z, y), torch.arange(10.0) - 1)
    assert_close(margin_loss(z, y), 1 - torch.arange(10.0))


def test_cross_entropy_at_a_temperature():
    z, y = torch.linspace(-9, 9, 20, dtype=torch.float64).reshape(5, 4).roll(3), torch.arange(5) % 4
    assert_close(TemperatureCrossEntropy(1.0)(z, y), cross_entropy(z, y), rtol=0, atol=0)
    assert_close(TemperatureCrossEntropy(7.0)(7 * z, y), cross_entropy(z, y))
    cooled, plain = (
        gradient(lambda at: TemperatureCrossEntropy(7.0)(at, y), 7 * z),
        gradient(lambda at: cross_entropy(at, y), z),
    )
    assert_close(7 * cooled, plain)
    assert describe(TemperatureCrossEntropy(50.0)) == "TemperatureCrossEntropy(temperature=50.0)"


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none(temperature):
    with pytest.raises(InputError, match=r"a temperature above 0, got .*\. Write temperature=1\.0"):
        TemperatureCrossEntropy(temperature)


def test_targets():
    assert_close(least_likely(torch.tensor([[3.0, 1.0, 2.0], [0.0, 5.0, -1.0]])), torch.tensor([1, 2]))


def test_logits_and_loss_compose_to_the_field():
    model, x, y = network_at(0.1)
    field = loss_field(model, y)
    assert_close(field.from_logits(field.logits(x)), field(x))


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(6), nn.Dropout(0.5)])
def test_a_model_in_training_mode_is_refused_unless_it_is_meant(layer):
    model = nn.Sequential(layer, nn.Linear(6, 2)).train()
    y = torch.zeros(3, dtype=torch.long)
    with pytest.raises(InputError, match=r"in training mode\. Write model\.eval\(\) first"):
        loss_field(model, y)
    assert loss_field(model, y, batch_statistics=True)(torch.rand(3, 6)).shape == (3,)
    assert loss_field(model.eval(), y)(torch.rand(3, 6)).shape == (3,)


@pytest.mark.parametrize("shape", [(3,), (2, 4), (3, 1), (3, 4, 1)])
def test_logits_of_the_wrong_shape(shape):
    with pytest.raises(InputError, match=r"logits of shape \(3, classes\) with at least 2 classes"):
        cross_entropy(torch.zeros(shape), torch.zeros(3, dtype=torch.long))


@pytest.mark.parametrize(("label", "named"), [(4, "4"), (-1, "-1")])
def test_labels_out_of_range(label, named):
    with pytest.raises(InputError, match=f"labels from 0 to 3, got {named}. Give labels that count"):
        cross_entropy(torch.zeros(2, 4), torch.tensor([0, label]))
