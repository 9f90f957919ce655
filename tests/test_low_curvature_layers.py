"""Layers with a norm bound: their laws and their behavior as torch modules."""

import copy
import io
import math
import pickle
import re

import pytest
import safetensors.torch
import torch
from bounded_layers import KINDS, jacobian_norm, made
from torch import nn
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from lowcurve.models import (
    CenteredSoftplus,
    Interval,
    prepare_norms,
    summary,
    update_norms,
)
from lowcurve.models.lipschitz import (
    LipschitzBatchNorm2d,
    LipschitzConv2d,
    LipschitzLinear,
)
from lowcurve.randomness import normal, stream, temporary_seed

every_kind = pytest.mark.parametrize("kind", KINDS)


def bounded(layer: nn.Module) -> nn.Module:
    return layer[1] if isinstance(layer, nn.Sequential) else layer


def plain(layer: nn.Module) -> nn.Module:
    """Return the plain torch layer with the same state, without a bound."""
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


@every_kind
def test_the_norm_of_a_layer_that_clips_is_gamma(kind):
    layer, x = made(kind)
    own = bounded(layer)
    assert bool(own.factor < 1)
    found, gamma = jacobian_norm(layer, x), float(own.gamma.detach())
    if kind.endswith("published"):  # an upper bound of the norm is clipped, so the norm is smaller
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
    digits = 2e-6 if kind == "bn2d without weights" else 0  # torch uses another formula without weights
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
    fresh = KINDS[kind][0]().eval()  # not prepared, so the vector takes the size in the state dict
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
    """W / ||W|| does not depend on the length of W, so its gradient is orthogonal to W, and it is exact."""
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
    """Power iteration approaches the norm of the dense matrix from below."""
    with temporary_seed(0, "layer"):
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
    """torch's backward pass of BatchNorm reads beyond a weight that is an expanded scalar."""
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
    """A mode in which no value may be read, because that would make a GPU wait."""

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


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # raised by torch._dynamo
def test_what_is_compiled_is_one_graph():
    conv = nn.Conv2d(2, 4, 3)
    model = nn.Sequential(conv, LipschitzBatchNorm2d(conv, gamma=1.0), CenteredSoftplus(), LipschitzConv2d(4, 2, 3))
    x = torch.rand(2, 2, 7, 7, generator=stream(0))
    prepare_norms(model, x)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert_close(compiled(x), copy.deepcopy(model)(x))


# Networks
