"""Bounds in a ball: no point of the ball violates them, and they are exact where they should be."""

import collections

import pytest
import torch
from random_networks import RandomNetwork
from torch import nn
from torch.nn import functional as F

import lowcurve as lc
from lowcurve.analysis.norms import L1, L2, LINF, Ball, Norm
from lowcurve.attacks import PGD, MinimalNorm
from lowcurve.errors import InputError, NotAvailable
from lowcurve.geometry import LocalCertificate
from lowcurve.losses import loss_field
from lowcurve.models.jacobians.recording import record
from lowcurve.models.layers import CenteredSoftplus
from lowcurve.models.local.bounds import LocalBounds
from lowcurve.models.local.elementwise import Elementwise
from lowcurve.models.local.regions import Region, bound_top_eigenvalue
from lowcurve.models.local.relaxations import prepare
from lowcurve.randomness import stream, temporary_seed, uniform

CURVES = (
    nn.ReLU(), nn.LeakyReLU(0.2), nn.Hardtanh(), nn.ReLU6(), nn.Softshrink(), nn.Hardsigmoid(), nn.Softplus(0.3),
    nn.Softplus(20.0), CenteredSoftplus(3.0), nn.LogSigmoid(), nn.Sigmoid(), nn.Tanh(), nn.GELU(), nn.GELU("tanh"),
    nn.SiLU(), nn.Mish(), nn.ELU(), nn.CELU(0.5), nn.Hardswish(),
)  # fmt: skip


class Plain(nn.Module):
    """Every plain layer once."""

    def __init__(self, act: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.norm, self.act, self.head = nn.BatchNorm2d(3), act, nn.Linear(24, 3)
        self.norm.running_mean.uniform_(-0.5, 0.5)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = self.act(self.norm(self.first((x - 0.5) / 0.25)))
        h = F.max_pool2d(self.act(self.second(h)) + h, 2)
        both = torch.cat([F.avg_pool2d(h, 2), F.adaptive_avg_pool2d(h, 2)], 1)
        return self.head(both.flatten(1))


class Floor(nn.Module):
    def forward(self, x):
        return torch.div(x, 2.0, rounding_mode="floor")


def make(act: nn.Module, seed: int = 0) -> Plain:
    with temporary_seed(seed, "plain"):
        return Plain(act).double().eval()


def margins_at(model, points, y):
    logits = model(points)
    others = torch.arange(logits.shape[1] - 1) + (torch.arange(logits.shape[1] - 1) >= y[:, None])
    return logits.gather(1, y[:, None]) - logits.gather(1, others)


def into(x, point, norm: Norm, radius):
    """Shorten a change to the radius."""
    share = (radius / norm.length(point - x).clamp(min=1e-30)).clamp(max=1)
    return x + (point - x) * share.view(-1, *[1] * (x.ndim - 1))


def points_in(model, x, y, norm: Norm, radius, generator, steps: int = 8):
    """Yield random points of the balls, and points that an attack reaches, all inside the pixel box."""
    size = radius.view(-1, *[1] * (x.ndim - 1))
    for k in range(6):
        d = uniform(torch.zeros_like(x), -1, 1, generator=generator)
        d = d.sign() if k % 2 else d
        yield x + (d * size if norm == LINF else norm.unit(d) * size)
    point = x
    for _ in range(steps):
        leaf = point.clone().requires_grad_()
        (g,) = torch.autograd.grad(margins_at(model, leaf, y).amin(1).sum(), leaf, materialize_grads=True)
        point = into(x, (point - norm.steepest(g) * size / 3).clamp(0, 1), norm, radius)
        yield point


def violations(model, bounds: LocalBounds, x, y, norm: Norm, radius, generator) -> list[tuple[str, float]]:
    found = bounds.margins(bounds.at(x, y), x, radius, norm)
    bad = []
    for point in points_in(model, x, y, norm, radius, generator):
        inside = into(x, point.clamp(0, 1), norm, radius)
        true = margins_at(model, inside, y).detach()
        bad += [
            (order, float((low - true).max()))
            for order, low in found.items()
            if (true < low - 1e-9 * (1 + true.abs())).any()
        ]
    return bad


@pytest.mark.parametrize("act", CURVES, ids=lambda act: repr(act))
def test_ranges_contain_the_values_of_a_nonlinearity(act):
    graph = record(nn.Sequential(act).double().eval(), torch.zeros(1, 2, dtype=torch.double))
    curve = prepare(graph.nodes[1])
    ends = torch.linspace(-7, 7, 15, dtype=torch.double)
    low, high = (values.flatten()[:, None] for values in torch.meshgrid(ends, ends, indexing="ij"))
    low, high = low[low <= high][:, None], high[low <= high][:, None]
    shares = torch.linspace(0, 1, 401, dtype=torch.double)
    grid = (low + shares * (high - low)).requires_grad_()
    (slopes,) = torch.autograd.grad(curve.value(grid).sum(), grid, create_graph=True)
    slope_range = curve.slopes(low, high)
    assert bool((slopes >= slope_range[0] - 1e-9).all() and (slopes <= slope_range[1] + 1e-9).all())
    points, error = curve.sample(low, high)
    with torch.no_grad():
        for slope in (0.0, 0.5, 1.0):
            rest, sampled = curve.value(grid) - slope * grid, curve.value(points) - slope * points
            assert bool((rest.amax(1, keepdim=True) <= sampled.amax(0) + error + 1e-9).all())
            assert bool((rest.amin(1, keepdim=True) >= sampled.amin(0) - error - 1e-9).all())
    if curve.bend is None:
        return
    (bends,) = torch.autograd.grad(slopes.sum(), grid)
    bend_range = curve.bends(low, high)
    assert bool((bends >= bend_range[0] - 1e-7).all() and (bends <= bend_range[1] + 1e-7).all())
    wide = slope_range[1] - slope_range[0]
    assert (
        float((slopes.detach().amax(1, keepdim=True) - slope_range[1])[wide > 0.1].min()) > -0.01
    )  # the ranges are reached


@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 400), marks=pytest.mark.slow)], ids=str)
@pytest.mark.filterwarnings("ignore:Using padding='same'")
def test_no_point_of_the_ball_violates_the_bounds_of_a_random_network(seeds):
    bad, refused = [], collections.Counter()
    for seed in seeds:
        model = RandomNetwork(seed).requires_grad_(requires_grad=False)
        g = stream(seed, "local bounds")
        x = uniform(torch.zeros(4, *model.shape, dtype=torch.double), 0, 1, generator=g)
        x[0] = x[0].round()
        try:
            bounds = LocalBounds(model, x[:1])
        except NotAvailable as error:
            refused[str(error).split(" in layer")[0]] += 1
            continue
        radius = torch.tensor([0.02, 0.1, 0.3, 1.0], dtype=torch.double)
        for norm, size in ((L2, 3), (LINF, 1), (L1, 9)):
            bad += [
                (seed, norm.name, *one)
                for one in violations(model, bounds, x, model(x).argmax(1), norm, size * radius, g)
            ]
    assert bad == []
    assert sum(refused.values()) < 0.4 * len(seeds), refused


@pytest.mark.parametrize("act", [nn.ReLU(), nn.Softplus(4.0), nn.GELU(), nn.Tanh()], ids=repr)
def test_plain_layers_are_bounded_and_exact_to_first_order(act):
    model, g = make(act), stream(3, "plain images")
    x = uniform(torch.zeros(6, 1, 8, 8, dtype=torch.double), 0.2, 0.8, generator=g)
    y = model(x).argmax(1)
    bounds = LocalBounds(model, x[:1])
    for norm, radius in ((L2, 0.4), (LINF, 0.04)):
        radii = torch.linspace(0.1, 1, 6, dtype=torch.double) * radius
        assert violations(model, bounds, x, y, norm, radii, g) == []
        tiny = torch.full((6,), 1e-6, dtype=torch.double)
        leaf = x.clone().requires_grad_()
        true = margins_at(model, leaf, y)
        for column in range(2):
            (gradient,) = torch.autograd.grad(true[:, column].sum(), leaf, retain_graph=True)
            fall = norm.dual.length(gradient) * tiny
            found = bounds.margins(bounds.at(x, y), x, tiny, norm)
            for low in list(found.values())[: 3 if bounds.is_smooth else 2]:
                assert low[:, column] == pytest.approx(true[:, column].detach() - fall, abs=3e-6)


class Residual(nn.Module):
    """Two branches with other windows, pooling with padding, and products with constants."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.wide = nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.narrow, self.last = nn.Conv2d(3, 4, 1, stride=2), nn.Conv2d(4, 2, 3, padding=2, dilation=2, groups=2)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(18, 3)
        self.norm.running_var.uniform_(0.5, 2)

    def forward(self, x):
        h = F.max_pool2d(F.relu(self.first(x / 0.3)), 3, 2, 1)
        h = F.relu(self.norm(self.wide(h) - 0.5 * self.narrow(h)))
        h = F.avg_pool2d(F.softplus(self.last(2 * h)), 2, 1, ceil_mode=True)
        return self.head(h.flatten(1))


@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=lambda norm: norm.name)
def test_windows_change_no_bound(norm, monkeypatch):
    with temporary_seed(0, "residual"):
        model = Residual().double().eval()
    x = uniform(torch.zeros(3, 1, 16, 16, dtype=torch.double), 0, 1, generator=stream(0, "residual images"))
    y, radius = model(x).argmax(1), norm.length(torch.full_like(x, 0.01))
    found = {}
    for share in (0.0, 0.5, 100.0):
        monkeypatch.setattr("lowcurve.models.local.windows.LARGEST_SHARE", share)
        bounds = LocalBounds(model, x[:1])
        sizes = [len(windows) for windows in bounds.passes.windows.values()]
        assert (max(sizes) > 3) == (share > 0)
        found[share] = bounds.margins(bounds.at(x, y), x, radius, norm)
    for order, plain in found[0.0].items():
        assert found[0.5][order] == pytest.approx(plain, abs=1e-5)
        assert found[100.0][order] == pytest.approx(plain, abs=1e-5)
    assert violations(model, bounds, x, y, norm, radius, stream(1, "residual points")) == []


def test_the_second_order_is_the_best_for_a_smooth_network_at_a_moderate_radius():
    with temporary_seed(0, "smooth"):
        model = nn.Sequential(
            nn.Linear(64, 96), nn.Softplus(2.0), nn.Linear(96, 96), nn.Softplus(2.0), nn.Linear(96, 4)
        )
    model = model.double().eval()
    for layer in (model[0], model[2], model[4]):
        layer.weight.data.mul_(2)
    x = uniform(torch.zeros(6, 64, dtype=torch.double), 0, 1, generator=stream(0, "smooth images"))
    bounds, y = LocalBounds(model, x[:1]), model(x).argmax(1)
    point = bounds.at(x, y)
    found = bounds.margins(point, x, torch.full((6,), 0.4, dtype=torch.double), L2)
    fall = {order: float((point.margins - low).mean()) for order, low in found.items()}
    assert fall["second"] < 0.97 * fall["zero"]
    assert fall["zero"] < 0.5 * fall["first"]


def test_units_of_a_layer_do_not_all_take_their_worst_change_in_l_2():
    model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2)).double().eval()
    for layer, weight, bias in ((model[0], torch.eye(64), -0.5), (model[2], torch.zeros(2, 64), 0.0)):
        layer.weight.data.copy_(weight)
        layer.bias.data.fill_(bias)
    model[2].weight.data[1], model[2].bias.data[0] = 1.0, 5.0  # the margin is 5 - sum_i relu(x_i - 0.5)
    x, y, radius = torch.full((2, 64), 0.5).double(), torch.zeros(2).long(), torch.tensor([0.1, 0.3]).double()
    bounds = LocalBounds(model, x[:1])
    found = bounds.margins(bounds.at(x, y), x, radius, L2)["zero"][:, 0]
    assert found.tolist() == pytest.approx((5 - 8 * radius).tolist(), abs=0.02)  # 5 - 36 radius if they all could
    assert bool((found <= 5 - 8 * radius).all())
    assert (bounds.work_in(L2), bounds.work_in(LINF)) == (bounds.work + 100 * 64**2, bounds.work)


def lengths_of(bounds: LocalBounds, x, y, region: Region):
    with torch.no_grad():
        relaxations = bounds._enter(bounds.at(x, y), region, keep=False).relaxations
    return {node: one for node, one in relaxations.items() if isinstance(one, Elementwise)}


def test_the_length_of_a_layers_change_has_its_closed_form():
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2)).double().eval()
    turned = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).double())[0]
    for layer, weight, bias in ((model[0], torch.eye(16), -0.5), (model[2], 3 * turned, 0.0)):
        layer.weight.data.copy_(weight)
        layer.bias.data.fill_(bias)
    x, y, r = torch.full((1, 16), 0.5).double(), torch.zeros(1).long(), 0.1
    region = Region(x, torch.tensor([r]).double(), L2)
    first, second = lengths_of(LocalBounds(model, x), x, y, region).values()
    assert first.deviation.flatten().tolist() == pytest.approx(
        [0.5] * 16, abs=1e-5
    )  # from 0, secants have slopes 0 to 1
    assert first.length.item() == pytest.approx(0.5**0.5 * r, rel=1e-3)
    # Both the straight part and the error of the first layer have half the length of the change.
    assert 0.99 < second.length.item() / (0.5**0.5 * 3 * (0.5 * r + 0.5 * r)) < 1.001


@pytest.mark.parametrize("norm", [L1, L2], ids=lambda norm: norm.name)
@pytest.mark.parametrize("make_model", [Residual, lambda: Plain(nn.ReLU()), lambda: Plain(nn.Softplus(3.0))])
def test_no_change_within_a_network_is_longer_than_its_bound(make_model, norm):
    with temporary_seed(2, "lengths"):
        model = make_model().double().eval()
    size, g = (16 if isinstance(model, Residual) else 8), stream(2, "length images")
    x = uniform(torch.zeros(4, 1, size, size, dtype=torch.double), 0, 1, generator=g)
    y, radius = model(x).argmax(1), torch.tensor([0.01, 0.1, 0.5, 3.0], dtype=torch.double)
    bounds = LocalBounds(model, x[:1])
    before, tightest = bounds.at(x, y).values, 0.0
    for node, one in lengths_of(bounds, x, y, Region(x, radius, norm)).items():
        assert bool(one.length.isfinite().all())
        for point in points_in(model, x, y, norm, radius, g):
            ((_, parent),) = node.parents
            now = bounds.at(into(x, point.clamp(0, 1), norm, radius), y).values
            change, moved = now[parent] - before[parent], now[node] - before[node]
            sizes = (one.deviation * change.square()).flatten(1).sum(1).sqrt()
            assert bool((sizes <= one.length + 1e-9).all())
            tightest = max(tightest, float((sizes / one.length).max()))
            assert bool(((moved - one.center * change).abs() <= one.deviation * change.abs() + 1e-9).all())
    assert tightest > 0.3


def test_the_largest_eigenvalue_is_bounded():
    rows = torch.randn(20, 30, 12, generator=torch.Generator().manual_seed(0)).double()
    matrices = (rows.mT @ rows).float()
    found, true = bound_top_eigenvalue(matrices), torch.linalg.eigvalsh(matrices.double())[:, -1]
    assert bool((found >= true).all())
    assert bool((found <= 2.5 * true).all())
    positive = (rows.abs().mT @ rows.abs()).float()
    assert bound_top_eigenvalue(positive) == pytest.approx(torch.linalg.eigvalsh(positive.double())[:, -1], rel=0.02)
    assert bound_top_eigenvalue(torch.zeros(1, 3, 3)).item() == 0
    assert bound_top_eigenvalue(torch.full((1, 3, 3), torch.nan)).isnan().all()


class Functional(nn.Module):
    """Maxima and minima of two values, with a constant and over axes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(1, 4, 3), nn.Linear(12, 3)
        self.floor = nn.Parameter(torch.randn(4, 1, 1))

    def forward(self, x):
        a, b = self.first(x), self.second(x)
        low, high = torch.minimum(a, b), torch.maximum(a, b)
        wide = torch.maximum(high[:, :1], torch.minimum(self.floor, low) + a)
        parts = high.amax((2, 3)), low.amin((-1, -2)), torch.amax(wide, dim=(2, 3), keepdim=True).flatten(1)
        return self.head(torch.cat(parts, 1))


@pytest.mark.parametrize("norm", [L1, L2, LINF], ids=lambda norm: norm.name)
def test_maxima_and_minima_of_two_values_and_over_axes_are_bounded(norm):
    with temporary_seed(0, "functional"):
        model = Functional().double().eval()
    x = uniform(torch.zeros(4, 1, 6, 6, dtype=torch.double), 0, 1, generator=stream(0, "functional images"))
    y, bounds = model(x).argmax(1), LocalBounds(model, x[:1])
    for size in (1e-4, 0.02, 0.2):
        radius = norm.length(torch.full_like(x, size))
        assert violations(model, bounds, x, y, norm, radius, stream(1, "functional points")) == []
    small = torch.full((4,), 1e-6, dtype=torch.double)
    found = bounds.margins(bounds.at(x, y), x, small, norm)["zero"]
    slopes = torch.func.vmap(torch.func.jacrev(lambda x, y: margins_at(model, x[None], y[None])[0]))(x, y).flatten(2)
    true = margins_at(model, x, y) - 1e-6 * norm.dual.length(slopes.flatten(0, 1)).view(4, 2)
    assert found == pytest.approx(true.detach(), abs=2e-5)


def test_no_attack_fools_a_certified_image():
    model, data = lc.load_pretrained("cure-small-convnet-digits"), lc.load("digits").test.take(slice(12))
    bounds = LocalBounds(model, data.pixels(slice(0, 1)))
    for norm in (L2, LINF):
        certificate = LocalCertificate(bounds, norm, steps=4, orders=("zero",))
        radius = torch.from_numpy(lc.measure(model, data, certificate)["certified radius"])
        assert float((radius > 0).float().mean()) > 0.8
        attacked = lc.attack(model, data, PGD(Ball(norm, 1.0), steps=20), radius=radius)
        assert not (attacked.fooled & (radius > 0).numpy()).any()
        found = lc.smallest_radius(model, data, MinimalNorm(norm, steps=50))
        assert bool((torch.from_numpy(found.radius) >= radius).all())
        assert float((radius / torch.from_numpy(found.radius)).nan_to_num(0).median()) > 0.25


def test_the_pixel_box_enlarges_the_radius():
    model = nn.Linear(4, 2, bias=False).double().eval()
    model.weight.data.copy_(torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]]))
    x, y = torch.tensor([[0.5, 0.0, 0.0, 0.0]], dtype=torch.double), torch.tensor([0])
    field = loss_field(model, y)
    for norm in (L2, LINF):  # only the first pixel can fall
        found = LocalCertificate(LocalBounds(model, x), norm, (0.49,), steps=10)(field, x)
        assert found["verified at 0.49"].item() == 1
        assert found["certified radius"].item() == pytest.approx(0.5, abs=0.01)


def test_radii_of_a_misclassified_image_are_zero_and_each_order_has_a_column():
    model, x = (
        make(nn.Softplus(2.0)),
        torch.rand(4, 1, 8, 8, dtype=torch.double, generator=torch.Generator().manual_seed(1)),
    )
    y = model(x).argmax(1)
    y[0] = (y[0] + 1) % 3
    columns = LocalCertificate(LocalBounds(model, x[:1]), L2, (0.01,), each=True)(loss_field(model, y), x)
    orders = [columns[f"certified radius, {order} order"] for order in ("zero", "first", "second")]
    assert columns["certified radius"][0] == 0
    assert columns["verified at 0.01"].tolist()[0] == 0
    assert bool((columns["certified radius"][1:] > 0.8 * torch.stack(orders).amax(0)[1:]).all())


def test_what_cannot_be_bounded_is_refused_with_its_layer():
    attention = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 2)).eval()
    with pytest.raises(NotAvailable, match=r"native_layer_norm in layer '1'"):
        LocalBounds(attention, torch.zeros(1, 4))
    floor = nn.Sequential(nn.Linear(4, 4), Floor(), nn.Linear(4, 2)).eval()
    with pytest.raises(NotAvailable, match="div with rounding_mode in layer '1'"):
        LocalBounds(floor, torch.zeros(1, 4))
    model = make(nn.ReLU())
    bounds = LocalBounds(model, torch.zeros(1, 1, 8, 8))
    with pytest.raises(InputError, match=r"Expected inputs of shape \(1, 8, 8\)"):
        bounds.at(torch.zeros(1, 1, 9, 9), torch.zeros(1, dtype=torch.long))
    with pytest.raises(InputError, match="orders among zero, first, second"):
        LocalCertificate(bounds, orders=("third",))
