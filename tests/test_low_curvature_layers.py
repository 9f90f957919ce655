"""Centered softplus and layers with a bound: their laws, what they are to torch, and the networks made of them."""

import copy
import io
import itertools
import math
import pickle
import re

import pytest
import safetensors.torch
import torch
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lowcurve.analysis.hessians import REPLAYED, hessian
from lowcurve.errors import InputError
from lowcurve.losses import loss_field
from lowcurve.models import (
    ARCHITECTURES,
    CenteredSoftplus,
    Interval,
    Network,
    prepare_norms,
    summary,
    update_norms,
)
from lowcurve.models.composition import curvature_summands
from lowcurve.models.layers import centered_softplus
from lowcurve.models.lcnn import ScaledBlock
from lowcurve.models.lipschitz import (
    LipschitzBatchNorm1d,
    LipschitzBatchNorm2d,
    LipschitzBatchNorm3d,
    LipschitzConv1d,
    LipschitzConv2d,
    LipschitzConv3d,
    LipschitzLinear,
)
from lowcurve.randomness import isolated, normal, stream

BETAS = (1e-3, 0.1, 1.0, 10.0, 1e4)


def points(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """Numbers of all sizes and both signs, and zero."""
    sizes = torch.logspace(-8, 2, 41, dtype=torch.float64)
    return torch.cat([sizes, -sizes, torch.zeros(1, dtype=torch.float64)]).to(dtype)


def derivatives(x: torch.Tensor, beta: float) -> list[torch.Tensor]:
    """s0, s0' and s0'' as torch differentiates them."""
    leaf = x.clone().requires_grad_()
    value = centered_softplus(leaf, torch.tensor(beta, dtype=torch.float64))
    slope = torch.autograd.grad(value.sum(), leaf, create_graph=True)[0]
    return [value.detach(), slope.detach(), torch.autograd.grad(slope.sum(), leaf)[0]]


def expected(x: torch.Tensor, beta: float) -> list[torch.Tensor]:
    """The same in closed form, s0 from log cosh by its series where it would cancel."""
    x = x.double()
    half = beta * x / 2
    series = half.square() / 2 - half**4 / 12
    log_cosh = torch.where(half.abs() < 1e-3, series, half.abs() + (-2 * half.abs()).exp().log1p() - math.log(2))
    s = torch.sigmoid(beta * x)
    return [x / 2 + log_cosh / beta, s, beta * s * torch.sigmoid(-beta * x)]


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize(
    ("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 3e-7), (torch.float16, 1e-3), (torch.bfloat16, 1e-2)]
)
def test_centered_softplus_and_both_derivatives_in_every_precision(beta, dtype, digits):
    x = points(dtype)
    for found, true, size in zip(derivatives(x, beta), expected(x, beta), (x.double().abs(), 1, beta), strict=True):
        assert found.dtype == dtype
        tiny = torch.finfo(dtype).smallest_normal
        assert bool(((found.double() - true).abs() <= digits * size + tiny).all())


@pytest.mark.parametrize("beta", BETAS)
def test_the_laws_of_centered_softplus(beta):
    x = points()
    value, slope, bend = derivatives(x, beta)
    assert value[-1] == 0
    assert bool((slope >= 0).all())
    assert bool((slope <= 1).all())
    assert bool((bend >= 0).all())
    assert bool((bend <= beta / 4 * (1 + 1e-12)).all())
    assert bool((bend <= beta * slope * (1 + 1e-12)).all())
    assert bool((value >= x / 2).all())


def test_its_ends_are_half_the_identity_and_relu():
    x = points()
    assert_close(centered_softplus(x, torch.tensor(1e-12, dtype=torch.float64)), x / 2, rtol=1e-9, atol=0)
    assert_close(centered_softplus(x, torch.tensor(1e12, dtype=torch.float64)), x.relu(), rtol=0, atol=1e-12)


def test_beta_is_learned_by_its_true_derivative():
    act, x = CenteredSoftplus(3.0, floor=0.5).double(), points()[20:60]
    assert_close(act.beta.item(), 3.0, rtol=1e-6, atol=0)
    act(x).sum().backward()
    step = 1e-5
    with torch.no_grad():
        ends = [centered_softplus(x, (act.log_beta + s).exp() + 0.5).sum() for s in (step, -step)]
    assert_close(act.log_beta.grad, (ends[0] - ends[1]) / (2 * step), rtol=1e-7, atol=1e-9)
    assert [name for name, _ in CenteredSoftplus(learn=False).named_buffers()] == ["log_beta"]
    assert list(CenteredSoftplus(learn=False).parameters()) == []
    assert repr(CenteredSoftplus()) == "CenteredSoftplus(beta=5)"
    assert repr(CenteredSoftplus(learn=False)) == "CenteredSoftplus(beta=5, learn=False)"


def test_torch_differentiates_it_in_every_way():
    x, beta = points()[10:30], torch.tensor(2.0, dtype=torch.float64)
    mapped = torch.func.vmap(torch.func.grad(lambda x: centered_softplus(x, beta)))(x)
    twice = torch.func.jacrev(torch.func.jacrev(lambda x: centered_softplus(x, beta).sum()))(x).diagonal()
    assert_close([mapped, twice], [torch.sigmoid(2 * x), 2 * torch.sigmoid(2 * x) * torch.sigmoid(-2 * x)])
    assert torch.autograd.gradgradcheck(centered_softplus, (x.clone().requires_grad_(), beta.clone().requires_grad_()))


# A small layer of each kind behind which stands what makes logits of it, and the shape of its inputs.
KINDS = {
    "linear": (lambda: LipschitzLinear(6, 5, gamma=1.0), (6,)),
    "conv1d": (lambda: LipschitzConv1d(2, 4, 3, stride=2, gamma=1.0), (2, 9)),
    "conv2d": (lambda: LipschitzConv2d(2, 4, 3, padding=1, groups=2, gamma=1.0), (2, 5, 6)),
    "conv3d": (lambda: LipschitzConv3d(2, 3, 2, gamma=1.0), (2, 4, 3, 3)),
    "learned": (lambda: LipschitzConv2d(2, 4, 3, gamma=1.5, learn=True), (2, 5, 6)),
    "always divided": (lambda: LipschitzLinear(6, 5, gamma=2.0, clips=False), (6,)),
    "bn1d": (lambda: behind(nn.Linear(6, 5), LipschitzBatchNorm1d), (6,)),
    "bn2d": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d), (2, 5, 6)),
    "bn3d": (lambda: behind(nn.Conv3d(2, 3, 2), LipschitzBatchNorm3d), (2, 4, 3, 3)),
    "bn2d without weights": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d, affine=False), (2, 5, 6)),
    "bn2d, published": (lambda: behind(nn.Conv2d(2, 4, 3), LipschitzBatchNorm2d, published=True), (2, 5, 6)),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def behind(before: nn.Module, kind: type, gamma: float = 1.2, **settings) -> nn.Sequential:
    return nn.Sequential(before, kind(before, gamma=gamma, **settings))


def made(kind: str, scale: float = 3.0) -> tuple[nn.Module, torch.Tensor]:
    """The layer, its weights so large that it clips, in eval mode, and a batch of inputs."""
    build, shape = KINDS[kind]
    with isolated(0, kind):
        layer = build()
        for module in layer.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.uniform_(module.running_var, 0.1, 1)
                nn.init.uniform_(module.running_mean)
                if module.affine:
                    nn.init.uniform_(module.weight, -1.5, 1.5)
                    nn.init.uniform_(module.bias)
            elif hasattr(module, "weight"):
                module.weight.data *= scale
    x = normal(torch.zeros(3, *shape), generator=stream(0, "inputs", kind))
    prepare_norms(layer, x, steps=200)
    return layer.eval(), x


def bounded(layer: nn.Module) -> nn.Module:
    return layer[1] if isinstance(layer, nn.Sequential) else layer


def plain(layer: nn.Module) -> nn.Module:
    """The same without a bound: a layer of torch's own with the same state."""
    known = {"LipschitzLinear": nn.Linear, "LipschitzConv1d": nn.Conv1d, "LipschitzConv2d": nn.Conv2d}
    known |= {
        "LipschitzConv3d": nn.Conv3d,
        "LipschitzBatchNorm1d": nn.BatchNorm1d,
        "LipschitzBatchNorm2d": nn.BatchNorm2d,
    }
    known |= {"LipschitzBatchNorm3d": nn.BatchNorm3d}
    if isinstance(layer, nn.Sequential):
        return nn.Sequential(*map(plain, layer)).eval()
    if type(layer).__name__ not in known:
        return copy.deepcopy(layer)
    twin = known[type(layer).__name__].__new__(known[type(layer).__name__])
    twin.__dict__.update(copy.deepcopy({k: v for k, v in layer.__dict__.items() if k != "before"}))
    for name in ("log_gamma", "sigma", "vector"):
        twin._parameters.pop(name, None)
        twin._buffers.pop(name, None)
    return twin


def jacobian_norm(layer: nn.Module, x: torch.Tensor) -> float:
    matrix = torch.func.jacrev(lambda x: layer(x[None])[0].flatten())(x[0]).flatten(1).detach()
    return float(torch.linalg.matrix_norm(matrix.double(), 2))


@every_kind
def test_the_norm_of_a_layer_that_clips_is_gamma(kind):
    layer, x = made(kind)
    own = bounded(layer)
    assert bool(own.factor < 1)
    found, gamma = jacobian_norm(layer, x), float(own.gamma.detach())
    if kind.endswith("published"):  # a bound of the norm is clipped, so it is less
        assert found < gamma
        assert float(own.sigma) > jacobian_norm(plain(layer), x)
    else:
        assert_close(found, gamma, rtol=1e-4, atol=0)
    assert_close(layer(x) - layer(x * 0), (plain(layer)(x) - plain(layer)(x * 0)) * own.factor, rtol=1e-4, atol=1e-5)


@every_kind
def test_a_layer_that_does_not_clip_is_the_plain_one_to_the_bit(kind):
    layer, x = made(kind, scale=0.01)
    own = bounded(layer)
    own.log_gamma.data.fill_(5.0)
    if not own.clips:
        return
    assert own.factor == 1
    twin = plain(layer).train()
    digits = 2e-6 if kind == "bn2d without weights" else 0  # torch has another formula where there are none
    assert_close(layer.train()(x), twin(x), rtol=digits, atol=digits)
    layer(x).square().sum().backward()
    gradients = dict(layer.named_parameters())
    assert [float(p.grad.abs().max()) for name, p in gradients.items() if name.endswith("log_gamma")] in ([], [0.0])
    kept = [own.running_var] if hasattr(own, "running_var") else []
    twin(x)
    assert_close(kept, [twin[1].running_var] if kept else [], rtol=0, atol=0)


@every_kind
def test_what_torch_does_to_modules_can_be_done(kind, tmp_path):
    layer, x = made(kind)
    whole = io.BytesIO()
    torch.save(layer, whole)
    whole.seek(0)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(whole, weights_only=False)):
        assert_close(twin(x), layer(x), rtol=0, atol=0)
        own = bounded(twin)
        assert own.linear is (twin[0] if isinstance(twin, nn.Sequential) else twin)
        own.linear.weight.data *= 2
        update_norms(twin, 1)
        assert_close(own.sigma, 2 * bounded(layer).sigma, rtol=1e-4, atol=0)
    safetensors.torch.save_file(layer.state_dict(), tmp_path / "it.safetensors")
    fresh = KINDS[kind][0]().eval()  # not prepared: the vector comes in its size
    fresh.load_state_dict(safetensors.torch.load_file(tmp_path / "it.safetensors"))
    assert_close(fresh(x), layer(x), rtol=0, atol=0)


@every_kind
def test_the_state_of_a_plain_layer_loads(kind):
    layer, x = made(kind)
    twin = plain(layer)
    weights = {name: value * 2 if name.endswith("weight") else value for name, value in twin.state_dict().items()}
    assert {name: v.shape for name, v in weights.items()}.items() <= {
        n: v.shape for n, v in layer.state_dict().items()
    }.items()
    before = bounded(layer).log_gamma.clone()
    layer.load_state_dict(weights, strict=True)
    update_norms(layer, 50)
    assert_close(bounded(layer).log_gamma, before, rtol=0, atol=0)
    assert jacobian_norm(layer, x) <= float(bounded(layer).gamma.detach()) * (1 + 1e-4)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        layer.load_state_dict(weights | {"other": torch.ones(1)})


def test_a_plain_layer_gets_a_bound_and_keeps_its_tensors():
    conv, norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
    made_of = LipschitzConv2d.of(conv, gamma=2.0), LipschitzBatchNorm2d.of(conv, norm, gamma=3.0)
    assert made_of[0].weight is conv.weight
    assert made_of[1].running_var is norm.running_var
    assert made_of[1].linear is conv
    assert [type(layer.log_gamma) for layer in made_of] == [torch.Tensor, nn.Parameter]
    assert not hasattr(conv, "log_gamma")
    assert set(norm.state_dict()) == {"weight", "bias", "running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("at_least_one", [True, False])
def test_gamma(at_least_one):
    layer = LipschitzLinear(2, 2, gamma=4.0, learn=True, at_least_one=at_least_one)
    assert_close(layer.gamma.item(), 4.0)
    layer.log_gamma.data.fill_(-1.0)
    assert_close(layer.gamma.item(), math.exp(1.0 if at_least_one else -1.0))
    layer.log_of_gamma.backward()
    assert layer.log_gamma.grad == (-1 if at_least_one else 1)


def test_without_batchnorm_the_weights_have_the_derivative_of_the_norm():
    """W / ||W|| does not change with the length of W, so its gradient is across it; and it is the true one."""
    layer = LipschitzLinear(4, 3, bias=False, gamma=1.0).double()
    nn.init.normal_(layer.weight, std=2.0, generator=stream(0))
    x = normal(torch.zeros(5, 4, dtype=torch.float64), generator=stream(1))
    prepare_norms(layer, x, steps=500)
    found = torch.autograd.grad(layer(x).square().sum(), layer.weight)[0]
    assert abs(float((found * layer.weight.detach()).sum())) < 1e-6
    exact = torch.func.grad(lambda w: (x @ (w / torch.linalg.matrix_norm(w, 2)).T).square().sum())(
        layer.weight.detach()
    )
    assert_close(found, exact, rtol=1e-5, atol=1e-6)


def test_a_batchnorm_alone_is_as_steep_as_its_steepest_channel():
    """max |a| / std = 3 / 2, clipped to gamma = 1.2; without weights 1 / std, not clipped."""
    plain = nn.BatchNorm2d(2, eps=0.0).double().eval()
    plain.weight.data = torch.tensor([3.0, -1.0], dtype=torch.float64)
    plain.running_var = torch.tensor([4.0, 1.0], dtype=torch.float64)
    layer = LipschitzBatchNorm2d.of(None, plain, gamma=1.2)
    model = nn.Sequential(layer).double().eval()
    prepare_norms(model, torch.zeros(1, 2, 1, 1, dtype=torch.float64))
    (row,) = summary(model)
    assert (row.norm, row.clipped) == (Interval(1.5, 1.5), True)
    x = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    assert_close((model(x) - model(0 * x)).flatten(), torch.tensor([1.2, -0.8], dtype=torch.float64), rtol=1e-6, atol=0)
    bare = nn.BatchNorm2d(2, eps=0.0, affine=False).eval()
    bare.running_var = torch.tensor([4.0, 1.0])
    alone = LipschitzBatchNorm2d.of(None, bare, gamma=1.2)
    update_norms(alone)
    assert float(alone.sigma) == float(alone.factor.detach()) == 1.0


def test_one_step_of_power_iteration_a_step_follows_moving_weights():
    """From below, since power iteration is; against the dense matrix."""
    with isolated(0, "layer"):
        layer = LipschitzConv2d(3, 8, 3, padding=1)
    prepare_norms(layer, torch.zeros(1, 3, 8, 8))
    basis, errors = torch.eye(192, dtype=torch.float64).view(192, 3, 8, 8), []
    for step in range(61):
        with torch.no_grad():
            layer.weight += 0.003 * normal(layer.weight, generator=stream(step))
        update_norms(layer)
        if step % 10 == 0:
            matrix = nn.functional.conv2d(basis, layer.weight.detach().double(), padding=1).flatten(1)
            errors.append(float(torch.linalg.matrix_norm(matrix, 2)) / float(layer.sigma) - 1)
    assert max(errors) < 0.06
    assert min(errors) > -1e-6


def test_batchnorm_with_a_mean_over_all_batches_and_in_half_precision():
    layer, x = made("bn2d")
    layer[1].momentum = None
    twin = plain(layer).train()
    layer.train()
    for _ in range(3):
        layer(x), twin(x)
    assert_close(layer[1].running_var, twin[1].running_var)
    exact = layer.eval()(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(layer(x).float(), exact, rtol=0.05, atol=0.05)


@every_kind
def test_images_whose_channels_stand_last(kind):
    """torch's own backward pass of BatchNorm reads beyond a weight that is one number stretched to all channels."""
    layer, x = made(kind)
    if x.ndim == 4:
        found = []
        for laid_out in (torch.contiguous_format, torch.channels_last):
            leaf = x.clone(memory_format=laid_out).requires_grad_()
            layer.zero_grad()
            layer(leaf).square().sum().backward()
            found.append([leaf.grad, *(p.grad.clone() for p in layer.parameters())])
        assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


class Unread(TorchDispatchMode):
    """While it is on, nobody looks at a value, which would make a GPU wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        assert not re.search(r"local_scalar|nonzero|is_nonzero|aten\.equal|unique", str(func)), func
        return func(*args, **(kwargs or {}))


@every_kind
def test_a_step_of_training_looks_at_no_value(kind):
    layer, x = made(kind)
    layer.train()
    act = CenteredSoftplus()
    parameters = [*layer.parameters(), *act.parameters()]
    with Unread():
        act(layer(x)).square().sum().backward()
        with torch.no_grad():
            for p in parameters:
                p -= 0.01 * p.grad
        update_norms(layer)
    with pytest.raises(AssertionError, match="local_scalar"), Unread():
        float(x.sum())


@every_kind
def test_weights_in_half_precision(kind):
    layer, x = made(kind)
    exact, sigma = layer(x), bounded(layer).sigma.clone()
    layer.bfloat16()
    assert layer(x.bfloat16()).dtype == torch.bfloat16
    assert_close(layer(x.bfloat16()).float(), exact, rtol=0.05, atol=0.05)
    update_norms(layer, 3)
    assert_close(bounded(layer).sigma.float(), sigma, rtol=0.02, atol=0)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # which dynamo does
def test_what_is_compiled_is_one_graph():
    conv = nn.Conv2d(2, 4, 3)
    model = nn.Sequential(conv, LipschitzBatchNorm2d(conv, gamma=1.0), CenteredSoftplus(), LipschitzConv2d(4, 2, 3))
    x = torch.rand(2, 2, 7, 7, generator=stream(0))
    prepare_norms(model, x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(x), copy.deepcopy(model)(x))


# Networks


def network(name: str, act: str = "centered-softplus", shape: tuple[int, ...] = (3, 16, 16)) -> nn.Sequential:
    return Network(name, shape, 5, (0.5,) * shape[0], (0.25,) * shape[0], act, 4).build(seed=0)


@pytest.mark.parametrize(
    ("name", "act", "count", "betas", "gammas"),
    [
        ("lcnn-resnet18", "centered-softplus", 11_210_569, 17, 20),
        ("lcnn-resnet18", "softplus-1000", 11_210_552, 0, 20),
        ("lcnn-resnet18-plain", "softplus-1000", 11_210_532, 0, 0),  # the paper's has 20 gammas that it does not use
        ("lcnn-vgg11", "centered-softplus", 9_456_312, 10, 10),
    ],
)
def test_parameters_at_full_width(name, act, count, betas, gammas):
    with torch.device("meta"):
        model = ARCHITECTURES[name]((3, 32, 32), 100, act)
    names = [name for name, _ in model.named_parameters()]
    assert sum(p.numel() for p in model.parameters()) == count
    assert [sum(n.endswith(end) for n in names) for end in ("log_beta", "log_gamma")] == [betas, gammas]


@pytest.mark.parametrize("name", ["lcnn-resnet18", "lcnn-resnet18-plain", "lcnn-vgg11"])
def test_hessians_of_these_networks_are_replayed(name):
    model = network(name).double().eval()
    for module in model.modules():
        if hasattr(module, "log_gamma"):
            module.log_gamma.data.fill_(0.0)
    x, y = torch.rand(2, 3, 16, 16, generator=stream(0)).double(), torch.tensor([0, 3])
    field = loss_field(model, y)
    operator = hessian(field, x)
    assert operator.way == REPLAYED
    v = normal(x, generator=stream(1))
    leaf = x.clone().requires_grad_()
    slope = torch.autograd.grad(field(leaf).sum(), leaf, create_graph=True)[0]
    assert_close(operator(v), torch.autograd.grad((slope * v).sum(), leaf)[0], rtol=1e-9, atol=1e-15)
    assert float(operator(v).abs().max()) > 0


def test_a_network_whose_gammas_are_high_is_one_without_them():
    clipped, without = network("lcnn-resnet18"), network("lcnn-resnet18-plain")
    missing = without.load_state_dict(clipped.state_dict(), strict=False)
    assert missing.missing_keys == []
    x = torch.rand(4, 3, 16, 16, generator=stream(0))
    for training in (True, False):
        assert_close(clipped.train(training)(x), without.train(training)(x), rtol=1e-4, atol=1e-5)


def test_the_mean_of_two_arms_does_not_lengthen():
    block = ScaledBlock(4, 4, 1, "centered-softplus", clipped=True)
    for layer in (block.norm1, block.norm2):
        layer.log_gamma.data.fill_(0.0)
        layer.running_var.fill_(1e-4)
    x = torch.rand(2, 4, 5, 5, generator=stream(0))
    prepare_norms(block, x, steps=300)
    assert 0.1 < jacobian_norm(block.eval(), x) <= 1 + 1e-4


def test_a_summary_has_a_row_for_every_beta_and_gamma():
    model = network("lcnn-resnet18")
    rows = summary(model)
    assert [sum(row.beta is not None for row in rows), sum(row.gamma is not None for row in rows)] == [17, 21]
    assert {row.beta for row in rows} == {None, 5.0}
    assert [row.name for row in rows if row.clipped] == ["1.13"]  # the head, whose norm is always one
    own = {name: module for name, module in model.named_modules() if hasattr(module, "sigma")}
    for row in rows:
        if row.norm is not None:
            assert row.norm.lower * 0.9 < float(own[row.name].sigma) <= row.norm.upper
    published, _ = made("bn2d, published")
    (row,) = summary(published)
    assert row.clipped
    assert row.norm.lower <= float(published[1].sigma) * 1.001 <= row.norm.upper * 1.002


def test_the_bound_of_theorem_1_holds_and_has_a_summand_for_every_nonlinearity():
    """On a network with one output, whose normalized curvature is known; and the network of the paper can be asked."""
    with isolated(0, "weights"):
        model = nn.Sequential(
            nn.Linear(3, 4), CenteredSoftplus(2.0), LipschitzLinear(4, 3), nn.Softplus(3), nn.Linear(3, 1)
        )
    prepare_norms(model, torch.zeros(1, 3))
    bound = sum(one.value for one in curvature_summands(model, torch.zeros(1, 3)))
    for x in normal(torch.zeros(20, 3), generator=stream(0)):
        slope = torch.func.grad(lambda x: model(x)[0])(x).detach()
        bend = torch.autograd.functional.hessian(lambda x: model(x)[0], x)
        assert float(torch.linalg.matrix_norm(bend, 2) / slope.norm()) <= bound
    found = curvature_summands(network("lcnn-resnet18"), torch.zeros(1, 3, 16, 16))
    assert len(found) == 17
    assert [one.width for one in found[:3]] == [4 * 256, 8 * 256, 4 * 256]
    assert all(one.curvature == pytest.approx(5) for one in found)
    assert all(0 < b.reach / a.reach < 3 for a, b in itertools.pairwise(found))
    kinks = curvature_summands(network("lcnn-vgg11", "relu"), torch.zeros(1, 3, 16, 16))
    assert {one.curvature for one in kinks} == {math.inf}


def test_the_maps_of_the_bound():
    folded = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0), CenteredSoftplus(1.0))
    folded[0].weight.data.fill_(3.0)
    folded[1].running_var.fill_(4.0)
    folded[1].weight.data.fill_(5.0)
    alone = nn.Sequential(nn.AvgPool2d(2), copy.deepcopy(folded[1]), nn.Identity(), nn.Softplus(2))
    x = torch.zeros(1, 1, 4, 4)
    assert [(one.width, round(one.value, 3)) for one in curvature_summands(folded, x)] == [(16, 16 * 7.5)]
    assert [(one.width, round(one.value, 3)) for one in curvature_summands(alone, x)] == [(4, 4 * 2 * 2.5 / 2)]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CenteredSoftplus(0.0), r"a beta above its floor, which is at least 0, received \(0.0, 0.001\)"),
        (lambda: CenteredSoftplus(math.nan), "a beta above its floor"),
        (
            lambda: LipschitzLinear(2, 2, gamma=0.5),
            "a gamma of at least 1, or above 0 where not at_least_one, received 0.5",
        ),
        (lambda: LipschitzLinear(2, 2, gamma=0.0, at_least_one=False), "a gamma of at least 1, or above 0"),
        (
            lambda: update_norms(LipschitzConv2d(1, 1, 1)),
            "a layer that knows the size of its input, received LipschitzConv2d",
        ),
        (
            lambda: LipschitzBatchNorm2d(nn.Conv2d(1, 1, 1), track_running_stats=False),
            "a BatchNorm with running statistics, received none; write track_running_stats=True",
        ),
        (
            lambda: curvature_summands(
                nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False)), torch.zeros(1, 2, 3)
            ),
            "a BatchNorm with running statistics",
        ),
        (
            lambda: curvature_summands(nn.Sequential(nn.Tanh()), torch.zeros(1, 2)),
            "a network in a row of linear layers, BatchNorm, pooling, softplus and scaled blocks, received Tanh",
        ),
    ],
)
def test_errors_name_the_mend(make, message):
    with pytest.raises(InputError, match=message):
        make()
