"""Global Lipschitz and curvature bounds and the radii that they certify: closed forms, and no violations."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from lowcurve import evaluation, randomness
from lowcurve.analysis.calculus import gradient
from lowcurve.analysis.hessians import hessian
from lowcurve.analysis.norms import L2, Ball
from lowcurve.analysis.spectra import dense
from lowcurve.attacks import APGD, PGD, Suite
from lowcurve.data import DataSet, Examples, load
from lowcurve.errors import InputError
from lowcurve.geometry import CertifiedRadius, logit_difference
from lowcurve.losses import loss_field, margin_loss
from lowcurve.models import Network
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.lipschitz import LipschitzBatchNorm2d, LipschitzLinear, prepare_norms
from lowcurve.models.smoothness import smoothness
from lowcurve.randomness import stream
from lowcurve.study.boundary_results import boundary_results
from lowcurve.study.settings import Study
from lowcurve.training import Objective, Optimization, fit
from lowcurve.types import silent


class Residual(nn.Module):
    """A network with two branches, a sum, and concatenated slices."""

    def __init__(self, act):
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), act()
        self.second, self.short = nn.Conv2d(4, 4, 3, padding=1, stride=2), nn.Conv2d(4, 4, 1, stride=2)
        self.last, self.head = act(), nn.Linear(8, 3)

    def forward(self, x):
        x = self.act(self.norm(self.first(x)))
        x = self.last(self.second(x) + self.short(x))
        return self.head(torch.cat([x.mean((2, 3)), F.pad(x, (1, 0))[:, :, 0, 1].flatten(1)], 1))


ACTS = {
    "tanh": nn.Tanh,
    "softplus": lambda: nn.Softplus(beta=4),
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}
NETWORKS = {
    "perceptron": lambda act: nn.Sequential(
        nn.Flatten(), nn.Linear(32, 8), act(), nn.Linear(8, 6), act(), nn.Linear(6, 3)
    ),
    "convolutions": lambda act: nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(4),
        act(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "dilated": lambda act: nn.Sequential(
        nn.Conv2d(2, 3, (3, 2), dilation=(1, 2)),
        act(),
        nn.Conv2d(3, 3, 1),
        act(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    ),
    "residual": Residual,
}


def network(kind: str, act: str, seed: int, gain: float = 1.5) -> nn.Module:
    with randomness.temporary_seed(seed, "bounded", kind, act):
        model = NETWORKS[kind](ACTS[act]).double().eval()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_var.uniform_(0.5, 2)
                module.weight.data.uniform_(-1, 1)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data *= gain
    return model


def points(count: int, seed: int) -> torch.Tensor:
    return randomness.normal(torch.zeros(count, 2, 4, 4, dtype=torch.double), generator=stream(seed, "points"))


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("act", ACTS)
def test_no_slope_and_no_curvature_exceeds_its_bound(kind, act):
    """The bounds hold at random points, and where an ascent finds the largest curvature."""
    for seed in range(4):
        model = network(kind, act, seed)
        found, x = smoothness(model, torch.zeros(1, 2, 4, 4)), points(24, seed)
        for i, j in ((0, 1), (1, 2), (2, 0)):
            labels = torch.full((24,), i), torch.full((24,), j)
            decision = logit_difference(model, *labels)
            steep = L2.length(gradient(decision, x))
            bend = torch.linalg.matrix_norm(dense(hessian(decision, x), x), 2)
            assert float(steep.max()) <= float(found.lipschitz[i, j])
            assert float(bend.max()) <= float(found.curvature[i, j])
            assert float(found.lipschitz[i, j]) < 200 * float(
                steep.max()
            )  # at random points; the bound holds everywhere
        assert_close(found.lipschitz, found.lipschitz.T)
        assert_close(found.curvature.diagonal(), torch.zeros(3, dtype=torch.double))


def test_closed_forms():
    """One hidden layer: m = w (sin-like phi)(A x): Lipschitz constant |w| |A|, curvature max|w| sup|phi''| |A|^2."""
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Softplus(beta=8), nn.Linear(2, 2, bias=False)).double().eval()
    model[0].weight.data = torch.tensor([[2.0, 0, 0], [0, 1, 0]], dtype=torch.double)
    model[2].weight.data = torch.tensor([[3.0, 4], [0, 0]], dtype=torch.double)
    found = smoothness(model, torch.zeros(1, 3))
    assert_close(found.lipschitz[0, 1].item(), 5 * 2.0, rtol=2e-5, atol=0)
    assert_close(found.curvature[0, 1].item(), 4 * (8 / 4) * 4.0, rtol=2e-5, atol=0)
    assert [term.name for term in found.terms] == ["1"]
    flat = smoothness(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval(), torch.zeros(1, 4))
    assert float(flat.curvature.abs().max()) == 0


@pytest.mark.parametrize("name", ["lcnn-resnet18", "small"])
def test_layers_with_a_bound_of_their_own_are_bounded_by_it(name):
    """The bounds support clipped factors and centered softplus, in LCNN's ResNet-18 and in a small chain of layers."""
    shape = (3, 8, 8)
    if name == "small":
        first = nn.Conv2d(3, 4, 3, bias=False)
        norm = LipschitzBatchNorm2d(first, gamma=1.5, affine=False)
        model = nn.Sequential(
            first, norm, CenteredSoftplus(3.0), nn.Flatten(), LipschitzLinear(144, 4, gamma=1.0)
        ).eval()
        prepare_norms(model, torch.zeros(1, *shape), steps=60)
    else:
        model = Network(name, shape, 4, (0.5,) * 3, (0.25,) * 3, "centered-softplus", width=2).build(seed=0).eval()
    found = smoothness(model, torch.zeros(1, *shape))
    x = torch.rand(12, *shape, generator=stream(0))
    decision = logit_difference(model, torch.zeros(12, dtype=torch.long), torch.ones(12, dtype=torch.long))
    assert float(L2.length(gradient(decision, x)).max()) <= float(found.lipschitz[0, 1])
    assert float(torch.linalg.matrix_norm(dense(hessian(decision, x), x), 2).max()) <= float(found.curvature[0, 1])
    assert math.isfinite(float(found.curvature[0, 1]))
    if name == "small":
        assert (
            float(found.lipschitz[0, 1]) <= 1.5 * math.sqrt(2) * 1.2
        )  # 1.5, then 1 times |e_0 - e_1|, and the norms' slack


def test_a_kink_has_no_curvature_bound_but_a_slope():
    model = Network("resnet20", (3, 8, 8), 4, (0.5,) * 3, (0.25,) * 3, width=2).build(seed=0).eval()
    found = smoothness(model, torch.zeros(1, 3, 8, 8))
    assert bool(torch.isinf(found.curvature[0, 1:]).all())
    assert bool(torch.isfinite(found.lipschitz).all())
    smooth = Network("resnet20", (3, 8, 8), 4, (0.5,) * 3, (0.25,) * 3, "softplus", width=2).build(seed=0).eval()
    assert bool(torch.isfinite(smoothness(smooth, torch.zeros(1, 3, 8, 8)).curvature).all())


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.slow)], ids=str)
def test_no_attack_succeeds_within_a_certified_radius_of_a_thousand_networks(seeds):
    """Each network is attacked at 0.9999 of its radii, where it must be robust."""
    attacked, certified = 0, []
    kinds = [(kind, act) for kind in NETWORKS for act in ACTS]
    for seed in seeds:
        kind, act = kinds[seed % len(kinds)]
        model, x = network(kind, act, seed, gain=1 + seed % 3), 0.5 + 0.2 * points(6, seed)
        y = model(x).argmax(1)
        radii = CertifiedRadius(smoothness(model, x))(loss_field(model, y), x)
        radius = radii["certified radius"] * 0.9999
        assert bool((radius >= 0).all())
        both = [radii[f"certified radius, {order} order"] for order in ("first", "second")]
        assert bool((radius >= torch.maximum(*both) * 0.999).all())  # each pair of classes uses the better of the two
        attack = PGD(Ball(L2, 1.0, box=(-99.0, 99.0)), steps=8, loss=margin_loss)
        found = attack(model, x, y, generator=stream(seed), radius=radius)
        assert bool((model(found).argmax(1) == y).all()), (kind, act, seed)
        attacked, certified = attacked + len(x), [*certified, *radius.tolist()]
    assert attacked == 6 * len(seeds)
    assert sum(radius > 1e-3 for radius in certified) > 14 / 15 * attacked


def test_certified_radius_true_distance_and_attack_distance_are_in_order():
    """A network with a known boundary: z_0 - z_1 = tanh(w x + b) is 0 on a plane."""
    model = nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Linear(1, 2, bias=False)).double().eval()
    model[0].weight.data = torch.tensor([[0.6, 0.8]], dtype=torch.double)
    model[0].bias.data = torch.tensor([-0.7], dtype=torch.double)
    model[2].weight.data = torch.tensor([[1.0], [0.0]], dtype=torch.double)
    x = torch.rand(40, 2, dtype=torch.double, generator=stream(0))
    y = model(x).argmax(1)
    true = (x @ model[0].weight[0] + model[0].bias).abs().detach()
    columns = CertifiedRadius(smoothness(model, x))(loss_field(model, y), x)
    found = evaluation.smallest_radius(
        model, Examples(x, y, ("a", "b")), Suite((("APGD", APGD(Ball(L2, 1.0, box=(-9.0, 9.0)), loss=margin_loss)),)),
        largest=1.0, rounds=12,
    )  # fmt: skip
    assert bool((columns["certified radius"] <= true + 1e-9).all())
    assert bool((true <= torch.from_numpy(found.radius) + 1e-9).all())
    assert float((columns["certified radius"] / true).min()) > 0.6
    wrong = CertifiedRadius(smoothness(model, x))(loss_field(model, 1 - y), x)["certified radius"]
    assert_close(wrong, torch.zeros_like(wrong))


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, DataSet]:
    data = load("digits")
    model = Network("small-convnet", data.shape, 10, *data.statistics(), "softplus", width=4).build(seed=0)
    fit(model, Objective(), data.train, Optimization(epochs=6, learning_rate=4e-3))
    return model, data


def test_of_a_trained_network_every_image_is_proved_nearer_than_it_is_fooled(trained):
    model, data = trained
    found = boundary_results(Study(), "soft", model, data.test.take(slice(40)), silent)
    (points,) = found["certified"].points.values()
    assert len(points.x) > 15
    assert all(0 < proved < fooled for proved, fooled in zip(points.x, points.y, strict=True))
    headings = [column.heading for column in found["boundary"].columns]
    row = dict(zip(headings, found["boundary"].rows[0], strict=True))
    assert row["certified, at least"][0] < row["found by DeepFool"][0]
    proof = found["boundary"].conditions["certificate"]
    assert proof.startswith(
        "CROWN and curvature in the ball around each image; Lipschitz and curvature bounds that hold"
    )


def test_a_network_that_cannot_be_bounded_has_its_boundary_measured_all_the_same(trained):
    model, data = trained
    few = data.test.take(slice(6))
    found = boundary_results(Study(), "odd", nn.Sequential(model, Doubling()).eval(), few, silent)
    assert "certified" not in found
    assert found["boundary"].rows[0][1] is None
    assert (
        found["boundary"]
        .conditions["certificate"]
        .startswith("none: Expected operations with known derivative bounds, got")
    )


class Doubling(nn.Module):
    def forward(self, x):
        return x.softmax(1) * 10


def test_softplus_as_a_function_bends_by_its_beta():
    class Written(nn.Sequential):
        def forward(self, x):
            return self[1](F.softplus(self[0](x), beta=8))

    with randomness.temporary_seed(0, "weights"):
        layers = nn.Linear(4, 4), nn.Linear(4, 3)
    written = smoothness(Written(*layers).eval(), torch.ones(1, 4))
    module = smoothness(nn.Sequential(layers[0], nn.Softplus(8), layers[1]).eval(), torch.ones(1, 4))
    assert_close(written.lipschitz, module.lipschitz)
    assert_close(written.curvature, module.curvature)
    assert bool(written.curvature.isfinite().all())


def test_an_example_of_another_shape_is_refused():
    with pytest.raises(
        InputError, match=r"one example of the network's inputs, got \(1, 5\) .*\. Write example=x\[:1\]"
    ):
        smoothness(nn.Linear(4, 2), torch.zeros(1, 5))


def test_bounds_hold_for_one_size_of_image():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    found = CertifiedRadius(smoothness(model, torch.zeros(1, 1, 5, 5)))
    x = torch.zeros(2, 1, 6, 6)
    with pytest.raises(InputError, match=r"inputs of shape \(1, 5, 5\), for which the bounds hold, got \(1, 6, 6\)"):
        found(loss_field(model, torch.tensor([0, 1])), x)


@pytest.mark.parametrize("broken", ["x", "gradient"])
def test_a_radius_of_nan_stays_nan(broken):
    class Rooted(nn.Linear):
        def forward(self, x):
            return super().forward(x) if broken == "x" or not x.requires_grad else super().forward(x) * x.log().mean()

    model = Rooted(2, 2).eval()
    bounds = smoothness(nn.Linear(2, 2), torch.zeros(1, 2))
    x = torch.full((1, 2), math.nan if broken == "x" else -1.0)
    radii = CertifiedRadius(bounds)(loss_field(model, model(x.detach()).argmax(1)), x)
    assert math.isnan(float(radii["certified radius"]))


def test_only_a_network_with_labels_is_certified():
    model = nn.Linear(2, 2)
    with pytest.raises(InputError, match="a field that shows its model and labels, got function"):
        CertifiedRadius(smoothness(model, torch.zeros(1, 2)))(lambda x: x[:, 0], torch.zeros(1, 2))
    assert math.isfinite(float(smoothness(model, torch.zeros(1, 2)).lipschitz[0, 1]))
