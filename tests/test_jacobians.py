"""Recorded operations and their rules: a bound holds, or the network is refused with a sentence that says why."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from lowcurve import randomness
from lowcurve.errors import InputError, NotAvailable
from lowcurve.models.jacobians.elementwise import ELEMENTWISE
from lowcurve.models.jacobians.graph import InputGraph
from lowcurve.models.jacobians.recording import record
from lowcurve.models.jacobians.rules import RULES, list_operations
from lowcurve.models.layers import centered_softplus
from lowcurve.models.lipschitz import LipschitzConv2d, prepare_norms
from lowcurve.models.smoothness import lipschitz_constant, smoothness
from lowcurve.randomness import stream


class Written(nn.Module):
    """A network whose forward pass is a function of its parts and its input."""

    def __init__(self, forward, **parts) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def written(forward, **parts) -> nn.Module:
    with randomness.temporary_seed(0, "weights"):
        for part in parts.values():
            for module in part.modules():
                if hasattr(module, "reset_parameters"):
                    module.reset_parameters()
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.running_var.copy_(torch.linspace(0.02, 3, module.num_features))
    return Written(forward, **parts).double().eval()


def linear(before=4, after=3) -> nn.Linear:
    return nn.Linear(before, after)


def steepest(model, shape, count=12) -> tuple[float, float]:
    """The largest norms of the Jacobian of z_0 - z_1 and of its Hessian at random points, and the slopes between far points."""
    x = 3 * randomness.normal(torch.zeros(count, *shape, dtype=torch.double), generator=stream(0, "points"))

    def margin(x):
        logits = model(x[None])
        return logits[0, 0] - logits[0, 1]

    model.requires_grad_(requires_grad=False)
    slopes = torch.stack([torch.func.jacrev(margin)(one).norm() for one in x])
    bends = [
        torch.linalg.matrix_norm(torch.func.jacrev(torch.func.jacrev(margin))(one).view(one.numel(), -1), 2)
        for one in x
    ]
    values = torch.stack([margin(one) for one in x])
    far = (values[1:] - values[:-1]).abs() / (x[1:] - x[:-1]).flatten(1).norm(dim=1)
    return max(float(slopes.max()), float(far.max())), float(torch.stack(bends).max())


IMAGE = (2, 5, 5)
ONES = torch.ones(9, 9, dtype=torch.double)
head = linear(50)
SOUND = {
    "the same twice": (lambda s, x: s.h(x + x), {"h": linear()}, (4,)),
    "alpha": (lambda s, x: s.h(torch.add(x, torch.tanh(x), alpha=5)), {"h": linear()}, (4,)),
    "subtracted, alpha": (lambda s, x: s.h(torch.sub(torch.tanh(x), other=x, alpha=3)), {"h": linear()}, (4,)),
    "from a constant": (lambda s, x: s.h(2 - 3 * x), {"h": linear()}, (4,)),
    "rsub, alpha": (lambda s, x: s.h(torch.rsub(x, torch.tanh(x), alpha=4)), {"h": linear()}, (4,)),
    "concatenated twice": (lambda s, x: torch.cat(tensors=[s.h(x), s.h(x)], dim=1), {"h": linear()}, (4,)),
    "stacked": (lambda s, x: s.h(torch.stack([x, x, x], 1).sum(1)), {"h": linear()}, (4,)),
    "broadcast map": (
        lambda s, x: s.h((F.softplus(x) + F.adaptive_avg_pool2d(x, 1)).flatten(1)),
        {"h": head},
        IMAGE,
    ),
    "broadcast into more": (lambda s, x: s.h((x[:, :, None] * torch.ones(3)).flatten(1)), {"h": linear(12)}, (4,)),
    "expand": (lambda s, x: s.h(x[:, :, None].expand(-1, -1, 3).reshape(1 * len(x), -1)), {"h": linear(12)}, (4,)),
    "repeat": (lambda s, x: s.h(x.repeat(1, 3)), {"h": linear(12)}, (4,)),
    "repeat_interleave": (lambda s, x: s.h(x.repeat_interleave(3, 1)), {"h": linear(12)}, (4,)),
    "an index with repeats": (lambda s, x: s.h(x[:, [0, 0, 0, 1]]), {"h": linear()}, (4,)),
    "index_select": (lambda s, x: s.h(x.index_select(1, torch.tensor([2, 2, 2, 2]))), {"h": linear()}, (4,)),
    "gather": (
        lambda s, x: s.h(x.gather(1, torch.tensor([[3, 3, 3, 0]]).expand(len(x), 4))),
        {"h": linear()},
        (4,),
    ),
    "flip and roll": (lambda s, x: s.h(x.flip(1) + x.roll(1, 1)), {"h": linear()}, (4,)),
    "chunks": (lambda s, x: s.h(torch.cat([*x.chunk(2, 1)] * 2, 1)), {"h": linear(8)}, (4,)),
    "unbind": (lambda s, x: s.h(torch.stack([*x.unbind(1)] * 2, 1)), {"h": linear(8)}, (4,)),
    "tokens": (
        lambda s, x: s.h(F.softplus(s.n(s.l(x))).flatten(1)),
        {"l": linear(5, 4), "n": nn.BatchNorm1d(4), "h": linear(16)},
        (4, 5),
    ),
    "tokens, written so that axis 1 is the features": (
        lambda s, x: s.h(F.softplus(s.n(s.l(x.flatten(0, 1)))).view(x.size(0), -1)),
        {"l": linear(5, 4), "n": nn.BatchNorm1d(4), "h": linear(16)},
        (4, 5),
    ),
    "reflect": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)[:, :50]),
        {"c": nn.Conv2d(2, 2, 3, padding=2, padding_mode="reflect"), "h": head},
        IMAGE,
    ),
    "replicate": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)[:, :50]),
        {"c": nn.Conv2d(2, 2, 3, padding=3, padding_mode="replicate"), "h": head},
        IMAGE,
    ),
    "circular": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)),
        {"c": nn.Conv2d(2, 2, 3, padding=1, padding_mode="circular"), "h": head},
        IMAGE,
    ),
    "padded with twos": (lambda s, x: s.h(F.pad(x, (1, 1, 1, 1), value=2.0).flatten(1)), {"h": linear(98)}, IMAGE),
    "same padding": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)),
        {"c": nn.Conv2d(2, 2, (1, 3), padding="same"), "h": head},
        IMAGE,
    ),
    "transposed": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)[:, :50]),
        {"c": nn.ConvTranspose2d(2, 4, 3, stride=2, padding=1, output_padding=1, groups=2), "h": head},
        IMAGE,
    ),
    "dilated": (
        lambda s, x: s.h(F.softplus(s.c(x)).flatten(1)),
        {"c": nn.Conv2d(2, 2, 3, padding=2, dilation=2, stride=(1, 2)), "h": linear(30)},
        IMAGE,
    ),
    "overlapping averages": (lambda s, x: s.h(F.avg_pool2d(x, 3, 1, 1, False, False).flatten(1)), {"h": head}, IMAGE),
    "averages that do not tile": (
        lambda s, x: s.h(F.avg_pool2d(x, 2, 3, ceil_mode=True).flatten(1)),
        {"h": linear(8)},
        IMAGE,
    ),
    "divisor": (
        lambda s, x: s.h(F.avg_pool2d(x, 2, divisor_override=1).flatten(1)),
        {"h": linear(8)},
        IMAGE,
    ),
    "adaptive averages": (lambda s, x: s.h(F.adaptive_avg_pool2d(x, 3).flatten(1)), {"h": linear(18)}, IMAGE),
    "bilinear": (lambda s, x: s.h(F.interpolate(x, (4, 8), mode="bilinear").flatten(1)), {"h": linear(64)}, IMAGE),
    "nearest": (lambda s, x: s.h(F.interpolate(x, scale_factor=2).flatten(1)), {"h": linear(200)}, IMAGE),
    "pixel_shuffle": (lambda s, x: s.h(F.pixel_shuffle(x.repeat(1, 2, 1, 1), 2).flatten(1)), {"h": linear(100)}, IMAGE),
    "where": (lambda s, x: s.h(torch.where(torch.arange(4) > 1, 3 * x, torch.tanh(x))), {"h": linear()}, (4,)),
    "masked": (lambda s, x: s.h(x.masked_fill(torch.arange(4) > 1, 2.0)), {"h": linear()}, (4,)),
    "matrix products": (
        lambda s, x: s.h(torch.einsum("nij,jk->nik", x, ONES[:5, :3]).flatten(1)),
        {"h": linear(12)},
        (4, 5),
    ),
    "matrix from the left": (lambda s, x: s.h((ONES[:3, :4] @ x).flatten(1)), {"h": linear(15)}, (4, 5)),
    "matrix and vector": (lambda s, x: s.h(x @ (1 + ONES.cumsum(1)[0, :5])), {"h": linear()}, (4, 5)),
    "addmm with factors": (
        lambda s, x: torch.addmm(ONES[0, :3], x, s.h.weight.T, beta=2, alpha=4),
        {"h": linear()},
        (4,),
    ),
    "sums": (lambda s, x: s.h(x.sum((2, 3))), {"h": linear(2)}, IMAGE),
    "in place": (lambda s, x: s.h(F.softplus(s.h2(x)).mul_(2).add_(x)), {"h": linear(), "h2": linear(4, 4)}, (4,)),
    "a function mode": (lambda s, x: doubled(s, x), {"h": linear(), "h2": linear(4, 4)}, (4,)),
    "a shared layer": (lambda s, x: s.h(s.h2(torch.tanh(s.h2(x)))), {"h": linear(), "h2": linear(4, 4)}, (4,)),
    "a parameter in the way": (lambda s, x: s.h(x) * s.h.weight.norm() + s.h.weight.sum(), {"h": linear()}, (4,)),
    "sizes": (
        lambda s, x: s.h(
            F.avg_pool2d(F.softplus(x), x.size(3)).view(x.shape[0], -1).reshape(len(x), 2 * x.size(0) // len(x))
        ),
        {"h": linear(2)},
        IMAGE,
    ),
    "a padded shortcut": (
        lambda s, x: s.h(F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), "constant", 0).flatten(1)),
        {"h": linear(36)},
        IMAGE,
    ),
    "dropout in eval mode": (
        lambda s, x: s.h(F.dropout(s.d(x), 0.5, s.training)),
        {"h": linear(), "d": nn.Dropout()},
        (4,),
    ),
    "scan": (lambda s, x: s.h(x.cumsum(1)), {"h": linear()}, (4,)),
}


def doubled(s, x):
    class Doubled(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            return func(*args, **(kwargs or {})) * (2 if getattr(func, "__name__", "") == "tanh" else 1)

    with Doubled():
        return s.h(s.h2(x).tanh())


@pytest.mark.parametrize("case", SOUND)
def test_no_slope_and_no_curvature_exceeds_its_bound(case):
    forward, parts, shape = SOUND[case]
    model = written(forward, **parts)
    found = smoothness(model, torch.zeros(1, *shape))
    slope, bend = steepest(model, shape)
    assert slope <= float(found.lipschitz[0, 1]) < 12 * slope
    assert bend <= float(found.curvature[0, 1]) < 60 * bend + 1e-9


def test_windows_that_overlap_count():
    """The Lipschitz constant of pooling and its true norm, from dense Jacobians of averages and the closed form of maxima."""
    cases = [
        (nn.AvgPool2d(3, stride=1, padding=1), None),
        (nn.AvgPool2d(2, stride=3), 0.5),
        (nn.AvgPool2d(3, stride=2, ceil_mode=True, count_include_pad=False), None),
        (nn.AdaptiveAvgPool2d((3, 4)), None),
        (nn.MaxPool2d(3, stride=1), 3.0),
        (nn.MaxPool2d(2), 1.0),
        (nn.MaxPool2d(3, stride=2, dilation=2, padding=1, ceil_mode=True), 2.0),
        (nn.AdaptiveMaxPool2d(3), 2.0),
        (nn.Sequential(nn.ConstantPad2d(1, -math.inf), nn.MaxPool2d(3)), 1.0),
    ]
    for layer, expected in cases:
        bound = lipschitz_constant(layer, torch.zeros(1, 1, 5, 5))
        x = torch.rand(1, 1, 5, 5, dtype=torch.double, generator=stream(0))
        jacobian = torch.func.jacrev(layer)(x).reshape(-1, 25)
        true = float(torch.linalg.matrix_norm(jacobian, 2))
        assert true <= bound + 1e-12
        assert bound < 1.6 * true or expected is not None
        assert expected is None or math.isclose(bound, expected)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_normalized_weights_are_bounded_as_they_are():
    """Weights that torch or this package computes at each call: by hooks, parametrizations, and layers with a bound."""
    with randomness.temporary_seed(0, "weights"):
        hooked, parametrized = linear(), nn.utils.parametrizations.spectral_norm(linear())
        WeightNorm.apply(hooked, "weight", 0)
        bounded = nn.Sequential(LipschitzConv2d(2, 2, 3), nn.Flatten(), linear(18))
    hooked.weight_g.data *= 3
    prepare_norms(bounded, torch.zeros(1, *IMAGE))
    bounded[0].weight.data *= 3
    for model, shape in ((hooked, (4,)), (parametrized, (4,)), (bounded, IMAGE)):
        model = model.double().eval()
        slope, _ = steepest(model, shape)
        assert slope <= float(smoothness(model, torch.zeros(1, *shape)).lipschitz[0, 1]) < 3 * slope


def changed_later(s, x):
    scale = torch.ones(3)
    h = s.h(x) * scale
    scale.mul_(3)
    return h * scale


def changed_by_another_name(s, x):
    h = s.h(x)
    h.view(-1).mul_(10)
    return h


def assigned(s, x):
    h = s.h(x)
    h[:, 0] = 0
    return h


def filled(s, x):
    h = torch.zeros(len(x), 3)
    h[:] = s.h(x)
    return h


def caught(s, x):
    try:
        scale = float(x.sum())
    except Exception:
        scale = 1.0
    return s.h(x) * scale


def replaced(h):
    h.data = h.data * 5
    return h


class Flat(torch.autograd.Function):
    """Twice the input, with a backward pass that says 0."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return 2 * x

    @staticmethod
    def backward(ctx, g):  # noqa: ARG004
        return 0 * g


class Outside(torch.autograd.Function):
    """Twice the input, computed by numpy."""

    @staticmethod
    def forward(ctx, x):  # noqa: ARG004
        return torch.from_numpy(np.asarray(x.numpy()) * 2)

    @staticmethod
    def backward(ctx, g):  # noqa: ARG004
        return 2 * g


def quieted(s, x):
    h = torch.tanh(s.h(x))
    if h.requires_grad:
        h.register_hook(lambda g: 0 * g)
    return h


def hooked(kind):
    layer = linear()
    getattr(layer, kind)(lambda *_: None)
    return layer


KNOWN = "operations with known derivative bounds, got "
REFUSED = {
    "a product of values": (lambda s, x: s.h(x * x), KNOWN + "mul, a product of two values that depend on the input"),
    "attention": (
        lambda s, x: s.h(F.scaled_dot_product_attention(x[:, None], x[:, None], x[:, None])[:, 0]),
        KNOWN + "bmm, a product of two values",
    ),
    "fused attention": (
        lambda s, x: s.h(F.scaled_dot_product_attention(*[x[:, None, None]] * 3)[:, 0, 0]),
        KNOWN + "bmm, a product of two values",
    ),
    "softmax": (lambda s, x: s.h(x).softmax(1), KNOWN + "_softmax"),
    "a norm in a layer": (nn.Sequential(linear(), nn.LayerNorm(3)), KNOWN + "native_layer_norm in layer '1'"),
    "a divisor": (lambda s, x: s.h(1 / (x.abs() + 1)), KNOWN + "reciprocal"),
    "steps": (lambda s, x: torch.div(s.h(x), 2, rounding_mode="floor"), KNOWN + "div with rounding_mode"),
    "a step of softplus": (lambda s, x: F.softplus(s.h(x), 1, 1), KNOWN + "softplus with a step"),
    "a comparison": (lambda s, x: s.h(x) * (x > 0).sum(1, keepdim=True), KNOWN + "gt"),
    "a mask of its own": (lambda s, x: s.h(torch.where(x > 0, x, -x)), KNOWN + "gt"),
    "a bias that depends on the input": (
        lambda s, x: torch.addmm(s.h(x), x, s.h.weight.T),
        KNOWN + "addmm whose 'self' depends on the input",
    ),
    "half precision": (lambda s, x: s.h(x.half().double()), KNOWN + "_to_copy in half precision, or of integers"),
    "broadcasting in a clamp": (
        lambda s, x: s.h(x[:, :1].clamp(min=torch.zeros(4))),
        KNOWN + "clamp with broadcasting",
    ),
    "detach": (lambda s, x: s.h(x.detach() + x), KNOWN + "detach"),
    "an index of a maximum": (lambda s, x: s.h(x) * F.max_pool1d(x[:, :3], 1, return_indices=True)[1], KNOWN),
    "writing into a constant": (filled, KNOWN + "copy, which writes into a constant"),
    "a shape in place": (lambda s, x: s.h(x).unsqueeze_(0)[0], KNOWN + "unsqueeze, which changes a shape in place"),
    "a constant that changes": (changed_later, "constants that stay, got a tensor that the network changes in place"),
    "two names": (changed_by_another_name, "values that are written to by one name, got a view whose memory another"),
    "an assignment": (assigned, "values that are written to by one name, got a view"),
    "a condition": (
        lambda s, x: s.h(x) if x.sum() > 0 else -s.h(x),
        "a network without conditions on values, got _local",
    ),
    "a condition that is caught": (caught, "a network without conditions on values, got _local_scalar_dense"),
    "a count": (lambda s, x: s.h(x) * len((x > 0).nonzero()), "a network without conditions on values, got nonzero"),
    "a selection by values": (lambda s, x: s.h(x) * len(x[x > 0]), "a network without conditions on values, got index"),
    "a sparse matrix": (
        lambda s, x: s.h((torch.eye(4, dtype=torch.double).to_sparse() @ x.T).T),
        KNOWN + r"mm \(Could not run",
    ),
    "data": (lambda s, x: replaced(s.h(x)), "a network that always computes the same, got logits that differ by"),
    "numpy": (lambda s, x: s.h(Outside.apply(x)), r"a network whose operations can be recorded, got Written \(.numpy"),
    "an address": (lambda s, x: s.h(x) * (x.data_ptr() != 0), "a network of torch's operations, got code that reads"),
    "noise": (
        lambda s, x: s.h(x) + torch.randn(3),
        "a network without random numbers in eval mode, got randn, which may draw",
    ),
    "dropout": (
        lambda s, x: F.dropout(s.h(x), 1e-4, True),
        "a network without random numbers in eval mode, got bernoulli, which may draw them",
    ),
    "training": (
        lambda s, x: F.batch_norm(s.h(x)[..., None].expand(-1, -1, 2), None, None, training=True)[..., 0],
        "a network in eval mode, got native_batch_norm in training mode",
    ),
    "company": (
        lambda s, x: s.h(x) - s.h(x).mean(0),
        "a network that always computes the same, got logits that differ",
    ),
    "gradients on": (
        lambda s, x: s.h(x) * (1 + torch.is_grad_enabled()),
        "a network that always computes the same, got logits that differ by 50.0%. Remove what depends on chance",
    ),
    "one image": (lambda s, x: s.h(x[:1]).view(1, 3), "a network that always computes the same"),
    "one image alone": (lambda s, x: s.h(x).view(1, 3), "a network for batches of three, got Written"),
    "a backward pass of its own": (
        lambda s, x: torch.tanh(s.h(Flat.apply(x))),
        "gradients by torch's own rules, got the backward pass of Flat",
    ),
    "a hook on a tensor": (quieted, "a network with the gradient of its values, got one that differs by 100.0%"),
    "a constant": (lambda _, x: torch.ones(len(x), 3), "one tensor that depends on the input, got a constant"),
    "a tuple": (lambda s, x: (s.h(x),), "one tensor that depends on the input, got tuple. Bound the part that gives"),
    "a map": (lambda _, x: x[:, :, None], r"logits of shape \(1, classes\) for one input, got \(1, 4, 1\). Bound the"),
    "NaN": (lambda s, x: s.h(x) * math.nan, "a network with finite weights, got bounds that are not numbers"),
    "infinity": (
        lambda s, x: s.h(x).masked_fill(torch.arange(3) > 1, math.inf),
        "a network with finite logits, got NaN or infinite ones",
    ),
    "a BatchNorm without statistics": (
        nn.Sequential(linear(), nn.BatchNorm1d(3, track_running_stats=False)),
        "a BatchNorm with running statistics, got '1' that uses its batch's. Write track_running_stats=True",
    ),
    **{
        kind: (
            nn.Sequential(hooked(f"register_{kind}")),
            "a network without hooks, got <lambda> on '0'. Remove the hook",
        )
        for kind in ("forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook")
    },
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_rule_has_proved_is_refused(case):
    forward, message = REFUSED[case]
    model = forward.double().eval() if isinstance(forward, nn.Module) else written(forward, h=linear())
    with pytest.raises(NotAvailable, match=message):
        smoothness(model, torch.zeros(1, 4))


def test_what_a_network_keeps_of_the_recording_is_an_ordinary_tensor():
    class Keeping(nn.Linear):
        kept = 0.0

        def forward(self, x):
            h = super().forward(x)
            self.kept = 0.9 * self.kept + h.detach().mean()
            return h

    model = Keeping(4, 3).eval()
    record(model, torch.zeros(1, 4))
    model(torch.zeros(1, 4))
    assert type(model.kept) is torch.Tensor


def test_steps_of_single_precision_are_refused():
    class Coarse(nn.Linear):
        def forward(self, x):
            return (super().forward(x) + 1e7) - 1e7

    with pytest.raises(NotAvailable, match="a network that always computes the same, got logits that differ by"):
        smoothness(Coarse(4, 3).eval(), torch.zeros(1, 4))


def test_hooks_on_every_module_are_refused():
    handle = nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        with pytest.raises(NotAvailable, match="a network without hooks, got <lambda> on 'every module'"):
            smoothness(linear().eval(), torch.zeros(1, 4))
    finally:
        handle.remove()


def test_a_batchnorm_that_keeps_training_keeps_its_statistics():
    """It is bounded in eval mode, in which everything else computes it too."""

    class Training(nn.BatchNorm1d):
        def train(self, mode=True):  # noqa: ARG002
            return super().train(True)

    model = nn.Sequential(linear(), Training(3)).eval()
    assert model[1].training
    assert bool(smoothness(model, torch.zeros(1, 4)).lipschitz.isfinite().all())
    assert int(model[1].num_batches_tracked) == 0


def test_under_inference_mode():
    model = nn.Sequential(linear(), nn.Tanh(), nn.Linear(3, 2)).eval()
    with torch.inference_mode():
        found = smoothness(model, torch.zeros(1, 4))
    torch.testing.assert_close(found.curvature, smoothness(model, torch.zeros(1, 4)).curvature)


def test_the_record_computes_the_same_and_leaves_the_network_as_it_was():
    model = nn.Sequential(
        nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.ReLU(inplace=True), nn.Flatten(), linear(18)
    ).train()
    state, before = {k: v.clone() for k, v in model.state_dict().items()}, torch.random.get_rng_state()
    graph = record(model.eval(), torch.zeros(1, *IMAGE))
    assert isinstance(graph, InputGraph)
    assert [node.call.layer for node in graph.nodes[1:]] == ["0", "1", "2", "3", "4"]
    assert [operation.name for operation in list_operations(graph)] == ["1", "2", "3", "4"]  # BatchNorm is folded
    x = torch.rand(1, *IMAGE, generator=stream(0))
    torch.testing.assert_close(graph(x), model(x))
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


ARGUMENTS = {
    "leaky_relu": {"negative_slope": 1.5},
    "_prelu_kernel": {"weight": torch.tensor([-1.3], dtype=torch.double)},
    "softplus": {"beta": 3.0, "threshold": 20.0},
    "centered_softplus": {"beta": torch.tensor(3.0, dtype=torch.double)},
    "gelu": {"approximate": "none"},
    "elu": {"alpha": 1.0, "scale": 2.0, "input_scale": 1.0},
    "celu": {"alpha": 0.5},
    "clamp": {"min": -1.0, "max": 2.0},
    "clamp_min": {"min": 0.0},
    "clamp_max": {"max": 0.0},
    "hardtanh": {"min_val": -1.0, "max_val": 1.0},
    "softshrink": {"lambd": 0.5},
}


@pytest.mark.parametrize("name", [*ELEMENTWISE, "gelu, tanh", "elu with a kink"])
def test_derivatives_of_nonlinearities_reach_their_bounds_and_never_exceed_them(name):
    plain = name.split(",")[0].split(" ")[0]
    given = dict(ARGUMENTS.get(plain, {}))
    given |= {"gelu, tanh": {"approximate": "tanh"}, "elu with a kink": {"alpha": 1.6}}.get(name, {})
    bound, _ = ELEMENTWISE[plain]
    slope, second = bound(**given)
    function = centered_softplus if plain == "centered_softplus" else getattr(torch.ops.aten, plain)

    def phi(x):
        found = function(x, **given)
        return found if isinstance(found, torch.Tensor) else found[0]

    x = torch.linspace(-12, 12, 480_001, dtype=torch.double)
    step = float(x[1] - x[0])
    first = (phi(x)[2:] - phi(x)[:-2]) / (2 * step)
    assert 0.9 * slope <= float(first.abs().max()) <= slope * (1 + 1e-9)
    curved = float((first[1:] - first[:-1]).abs().max()) / step
    assert (curved > 1e3) if math.isinf(second) else (0.9 * second <= curved <= second * (1 + 1e-6))


def test_every_rule_names_its_arguments():
    assert all(rule.moving for rule in RULES.values())
    assert isinstance(NotAvailable("a", "b", "c"), InputError)
